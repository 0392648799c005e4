"""How every `python -m vtjax.<main>` starts: the user's errors are one message and status 2, never a traceback."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence

from vtjax.errors import VtjaxError


def run(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> None:
    """`absl.app.run(main)`, which exits with what `main` returns; exits with 2 on a user's error or a full disk."""
    from absl import app

    try:
        app.run(main, argv=argv)
    except VtjaxError as error:
        _stop(f"error: {error}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _stop(f"error: the disk is full: {error}")


def _stop(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
    sys.exit(2)
