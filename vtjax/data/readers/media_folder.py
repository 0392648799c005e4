"""Finds the file of a video, a picture or a feature array by the name a data set gives it."""

from __future__ import annotations

import os
import pathlib

from vtjax.errors import VtjaxError

VIDEO_SUFFIXES = frozenset(".mp4 .webm .avi .mkv .mov .m4v .flv .wmv .mpg .mpeg .3gp .ts .ogv".split())
IMAGE_SUFFIXES = frozenset(".jpg .jpeg .png .webp .bmp".split())
FEATURE_SUFFIXES = frozenset([".npy"])
SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES | FEATURE_SUFFIXES


def stem(name: str) -> str:
    """`name` without its known suffixes: "a.mp4.npy" and "a.mp4" are "a"; other dots are part of the name."""
    while True:
        base, dot, suffix = name.rpartition(".")
        if not (dot and base and f".{suffix.lower()}" in SUFFIXES):
            return name
        name = base


class MediaFolder:
    """The media files below `root`. empty: files of zero bytes, not found. ambiguous: names that several files have.

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
        for folder, folders, files in os.walk(self.root, followlinks=True):
            folders.sort()
            for file in sorted(files):
                path = pathlib.Path(folder, file)
                if path.suffix.lower() not in SUFFIXES:
                    continue
                if path.stat().st_size == 0:
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
