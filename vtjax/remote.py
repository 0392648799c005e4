"""Work directories in a bucket (gs://...): what methods read and write by file name lies in a folder of this machine.

Checkpoints, metrics, heartbeats, the lock, done files and the configuration go straight to the bucket. Everything else
of a work directory (assets, result tables, reports) is small and made by code that wants real files: it lies in a
mirror under VTJAX_CACHE (default ~/.cache/vtjax), is fetched from the bucket when a run is opened and sent there once
it is made.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
from typing import Any

from vtjax.files import as_path, is_remote, write_atomically

_ORIGIN, _SENT = ".origin", ".sent.json"  # in a mirror: the address in the bucket; size and time of what lies there
_LEFT = re.compile(r"(^|/)(lock\.json|checkpoints|best_\w+|heartbeats\S*|tensorboard|profile|\w+_frozen)(/|$)")


def cache() -> pathlib.Path:
    """Folder of this machine for mirrors."""
    return pathlib.Path(os.environ.get("VTJAX_CACHE") or pathlib.Path.home() / ".cache" / "vtjax")


def local(work: os.PathLike | str, process: int = 0) -> pathlib.Path:
    """The folder of this machine that stands for a work directory: itself, or the mirror of a bucket's, made here.

    process: this process's place among several; those of one host have a mirror each.
    """
    if not is_remote(work):
        return pathlib.Path(work)
    address = str(as_path(work)).rstrip("/")
    digest = hashlib.sha256(address.encode()).hexdigest()[:8]
    name = f"{address.rsplit('/', 1)[-1]}-{digest}" + (f"-{process}" if process else "")
    folder = cache() / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _ORIGIN).write_text(address)
    return folder


def origin(path: os.PathLike | str) -> Any:
    """What a path in a mirror stands for in the bucket; any other path as it is."""
    place = as_path(path)
    if is_remote(place):
        return place
    for parent in (place, *place.parents):
        if (parent / _ORIGIN).is_file():
            root = as_path((parent / _ORIGIN).read_text())
            return root / place.relative_to(parent).as_posix() if place != parent else root
    return place


def fetch(folder: pathlib.Path) -> None:
    """Brings a mirror's files from the bucket; does nothing for any other folder."""
    root = origin(folder)
    if not is_remote(root) or not root.is_dir():
        return
    sent = {}
    for remote, name in _files(root):
        local_file = folder / name
        write_atomically(local_file, remote.read_bytes())
        sent[name] = _stamp(local_file)
    (folder / _SENT).write_text(json.dumps(sent))


def _files(root: Any, name: str = "") -> list[tuple[Any, str]]:
    """(file, its path from the root) of all files that a mirror holds."""
    files = []
    for entry in root.iterdir():
        path = f"{name}{entry.name}"
        if not _LEFT.search(path):
            files += _files(entry, f"{path}/") if entry.is_dir() else [(entry, path)]
    return files


def send(folder: pathlib.Path) -> None:
    """Brings a mirror's new and changed files to the bucket; does nothing for any other folder."""
    root = origin(folder)
    if not is_remote(root):
        return
    record = folder / _SENT
    sent = json.loads(record.read_text()) if record.exists() else {}
    for local_file, name in _files(folder):
        if local_file.name not in (_ORIGIN, _SENT) and sent.get(name) != _stamp(local_file):
            write_atomically(root / name, local_file.read_bytes())
            sent[name] = _stamp(local_file)
    record.write_text(json.dumps(sent))


def _stamp(path: pathlib.Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def copy_tree(source: pathlib.Path, target: Any) -> None:
    """Every file under a folder of this machine to another place."""
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        write_atomically(target / path.relative_to(source).as_posix(), path.read_bytes())
