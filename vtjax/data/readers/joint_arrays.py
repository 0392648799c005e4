"""Joint positions in .npy and .npz files: one sequence per .npy, one or many per .npz, or a folder of either.

The array `joint_names` of an .npz names the joints and `fps` gives the frame rate; every other array is a sequence.
The frame rate is taken from the argument, the `fps` array, the captions' side file, or the file name ("_15fps").
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterator

import numpy as np

from vtjax.data.motion.validate import load_archive, load_array
from vtjax.data.readers import RawMotion
from vtjax.data.readers.captions import Captions
from vtjax.errors import Problems, VtjaxError

_NAME_KEYS, _RATE_KEYS = ("joint_names", "names"), ("fps", "frame_rate", "mocap_framerate")


def array_files(path: pathlib.Path) -> list[pathlib.Path]:
    """The file itself, or every .npy and .npz file below a folder in order of path."""
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in (".npy", ".npz"))


def read_joint_arrays(
    path: str | os.PathLike, *, fps: float | None = None, captions: str | None = None, problems: Problems | None = None
) -> Iterator[RawMotion]:
    """Yields every sequence of a .npy, a .npz or a folder of them.

    Keys: the file's path without suffix; in an .npz with several sequences of a folder, "<path>/<array>"; in a single
    .npz the array's name. Raises VtjaxError where no frame rate is known; unreadable files are counted or raised.
    """
    root = pathlib.Path(path)
    if not root.exists():
        raise VtjaxError(f"{root}: no such file or folder")
    table = Captions.find(root, captions, problems)
    for file in array_files(root):
        stem = file.stem if root.is_file() else file.relative_to(root).with_suffix("").as_posix()
        try:
            arrays = {stem: load_array(file)} if file.suffix == ".npy" else load_archive(file)
        except VtjaxError as error:
            if problems is None:
                raise
            problems.add(error, "unreadable array file")
            continue
        names = next((tuple(map(str, arrays[k])) for k in _NAME_KEYS if k in arrays), None)
        stored = next((float(arrays[k]) for k in _RATE_KEYS if k in arrays), None)
        sequences = {k: v for k, v in arrays.items() if k not in (*_NAME_KEYS, *_RATE_KEYS)}
        for name, joints in sequences.items():
            single = file.suffix == ".npy" or len(sequences) == 1
            key = stem if single and not root.is_file() else name if root.is_file() else f"{stem}/{name}"
            where = str(file) if file.suffix == ".npy" else f"{file}[{name}]"
            rate = fps or stored or table.fps(key) or _rate_in_name(file)
            if rate is None:
                raise VtjaxError(f"{where}: the frame rate is unknown: pass --fps, or store an array 'fps' beside it")
            if joints.dtype == np.float16:
                joints = joints.astype(np.float32)
            yield RawMotion(key, joints, rate, where, names, **table.of(key, file if single else None))


def _rate_in_name(file: pathlib.Path) -> float | None:
    match = re.search(r"(\d+(?:\.\d+)?)fps", file.stem)
    return float(match[1]) if match else None
