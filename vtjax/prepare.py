"""Turns data in its published or recorded form into the prepared folder that training, evaluation and search read.

    python -m vtjax.prepare --kind=motion --input=capture.npz --output=prepared/capture
    python -m vtjax.prepare --kind=motion --input=HumanML3D --events=event_texts --output=prepared/humanml3d

A kind is a module with OPTIONS, dataclasses whose fields are its flags (vtjax/data/options.py), and `run(flags)`, which
returns the exit status. Only the chosen kind's module is imported.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from vtjax import command_line
from vtjax.data.options import define_flags
from vtjax.errors import VtjaxError, nearest

KINDS = {"motion": "vtjax.data.motion.prepare", "video": "vtjax.data.video.prepare"}


def _kind(argv: Sequence[str]) -> str:
    """Value of --kind in argv, "motion" where it is not given; it must be known before flags can be defined."""
    for position, argument in enumerate(argv):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "kind":
            value = value if equals else (argv[position + 1] if position + 1 < len(argv) else "")
            if value not in KINDS:
                raise VtjaxError(f"--kind={value}: unknown kind: {nearest(value, KINDS)}")
            return value
    return "motion"


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script and of `python -m vtjax.prepare`."""
    from absl import flags

    argv = list(sys.argv if argv is None else argv)
    try:
        module = importlib.import_module(KINDS[_kind(argv)])
    except VtjaxError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    flags.DEFINE_enum("kind", "motion", sorted(KINDS), "What to prepare.", module_name=argv[0])
    for options in module.OPTIONS:
        define_flags(options, argv[0])

    def start(rest: Sequence[str]) -> int:
        if len(rest) > 1:
            raise VtjaxError(f"unexpected argument {rest[1]!r}: every option is a flag, --name=value; see --help")
        return module.run(flags.FLAGS)

    command_line.run(start, argv)


if __name__ == "__main__":
    main()
