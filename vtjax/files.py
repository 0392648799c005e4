"""Paths on this machine or in a bucket, and files written so that a kill or a full disk never leaves half of one."""

from __future__ import annotations

import os
import pathlib
import tempfile
from typing import Any

from vtjax.errors import VtjaxError

_SCHEMES = {"gs": "gcs", "s3": "s3", "az": "az"}  # of addresses, and what fsspec calls them


def is_remote(path: os.PathLike | str) -> bool:
    """Whether a path is that of a bucket, such as gs://bucket/run."""
    return "://" in str(path)


def as_path(path: os.PathLike | str) -> Any:
    """pathlib.Path of this machine, or the like of etils.epath for a bucket ("gs://...").

    Raises:
      VtjaxError: a scheme that etils does not know, or one whose client is not installed.
    """
    if not is_remote(path):
        return pathlib.Path(path)
    import fsspec
    from etils import epath

    scheme = str(path).split("://")[0]
    if scheme not in _SCHEMES:
        raise VtjaxError(f"{path}: gs://, s3:// and az:// are the buckets that can be used")
    try:
        fsspec.get_filesystem_class(_SCHEMES[scheme])
    except ImportError as error:
        raise VtjaxError(f"{path}: {error} (for gs://: pip install 'vtjax[gcs]')") from error
    return epath.Path(path)


def write_atomically(path: os.PathLike | str, content: str | bytes) -> pathlib.Path:
    """Writes to a temporary file beside `path`, then renames it; parents are created. Text is UTF-8.

    In a bucket an object appears whole or not at all, so it is written under its name.

    Raises VtjaxError when the file cannot be written; what stood at `path` before is then unchanged.
    """
    place = as_path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    if is_remote(place):
        try:
            place.write_bytes(data)
        except Exception as error:
            raise VtjaxError(f"{place}: cannot be written: {type(error).__name__}: {error}") from error
        return place
    temporary = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, place)
    except OSError as error:
        if temporary is not None:
            pathlib.Path(temporary).unlink(missing_ok=True)
        raise VtjaxError(f"{place}: cannot be written: {error.strerror or error}") from error
    return place
