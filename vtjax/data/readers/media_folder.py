"""Finds the file of a video, a picture or a feature array by the name a data set gives it."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

from vtjax.errors import VtjaxError

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".webm", ".avi", ".mkv", ".mov", ".m4v", ".flv", ".wmv", ".mpg", ".mpeg", ".3gp", ".ts", ".ogv")
)
IMAGE_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".webp", ".bmp"])
FEATURE_SUFFIXES = frozenset([".npy"])
SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES | FEATURE_SUFFIXES


def stem(name: str) -> str:
    """`name` without its known suffixes: "a.mp4.npy" and "a.mp4" are "a"; other dots are part of the name."""
    while True:
        base, dot, suffix = name.rpartition(".")
        if not (dot and base and f".{suffix.lower()}" in SUFFIXES):
            return name
        name = base


def files_below(
    folder: str | os.PathLike, unreadable: list[str], above: tuple[tuple[int, int], ...] = ()
) -> Iterator[pathlib.Path]:
    """Yields the files in `folder` and below it, in order of name, files before folders; hidden ones are left out.

    Links are followed, but not back to a folder that they lie in. unreadable: takes the folders that cannot be read.
    """
    try:
        status = os.stat(folder)
        with os.scandir(os.fspath(folder)) as listing:
            entries = sorted((e for e in listing if not e.name.startswith(".")), key=lambda e: e.name)
            folders = {entry.name for entry in entries if entry.is_dir()}
    except OSError:
        unreadable.append(str(folder))
        return
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    yield from (pathlib.Path(folder, entry.name) for entry in entries if entry.name not in folders)
    for name in sorted(folders):
        yield from files_below(os.path.join(folder, name), unreadable, (*above, identity))


class MediaFolder:
    """The media files below `root`. empty: files of zero bytes, not found. ambiguous: names that several files have.
    unreadable: folders that cannot be read, and links that lead nowhere.

    Raises VtjaxError when the folder does not exist.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = pathlib.Path(root)
        if not self.root.is_dir():
            raise VtjaxError(f"{self.root}: no such folder of videos")
        self.empty: list[str] = []
        self.ambiguous: list[str] = []
        self._paths: dict[str, pathlib.Path] = {}
        self._stems: dict[str, list[pathlib.Path]] = {}
        self.unreadable: list[str] = []
        for path in files_below(self.root, self.unreadable):
            if path.suffix.lower() not in SUFFIXES:
                continue
            try:
                size = path.stat().st_size
            except OSError:
                self.unreadable.append(str(path))
                continue
            if not size:
                self.empty.append(str(path))
                continue
            relative = path.relative_to(self.root).as_posix()
            self._paths.setdefault(relative, path)
            self._paths.setdefault(stem(relative), path)
            self._stems.setdefault(stem(path.name), []).append(path)

    def __len__(self) -> int:
        return sum(map(len, self._stems.values()))

    def find(self, name: str) -> pathlib.Path | None:
        """The file of `name`, which may carry folders and a suffix: by its path below the root, then by its name."""
        for key in (name, stem(name)):
            if key in self._paths:
                return self._paths[key]
        key = stem(name.rsplit("/", 1)[-1])
        paths = self._stems.get(key, [])
        if len(paths) > 1 and key not in self.ambiguous:
            self.ambiguous.append(key)
        return paths[0] if paths else None
