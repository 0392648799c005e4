"""Writing files so that a kill or a full disk never leaves half of one behind."""

from __future__ import annotations

import os
import pathlib
import tempfile

from vtjax.errors import VtjaxError


def write_atomically(path: os.PathLike | str, content: str | bytes) -> pathlib.Path:
    """Writes to a temporary file beside `path`, then renames it; parents are created. Text is UTF-8.

    Raises VtjaxError when the file cannot be written; what stood at `path` before is then unchanged.
    """
    path = pathlib.Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            pathlib.Path(temporary).unlink(missing_ok=True)
        raise VtjaxError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path
