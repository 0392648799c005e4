"""Target folders of LSTR, TeSTra, MAT and MiniROAD: <root>/target_perframe/<video>.npy [T, C].

EPIC-KITCHENS also has verb_perframe and noun_perframe. data_info.json (or MiniROAD's video_list.json) names classes and
sessions. Its `fps` is one number for all videos, which THUMOS14's files do not keep, so the rate of each video comes
from `rates` or from its duration, and is None where neither is known.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np

from vtjax.data.readers.class_lists import data_info
from vtjax.data.readers.coverage import BadRow, Coverage, Place, Records, Videos
from vtjax.data.readers.rows import duration_of, positive
from vtjax.data.video_records import VideoRecord
from vtjax.errors import VtjaxError, nearest
from vtjax.evals.frame_targets import FrameTargets


def read(
    folder: Place,
    *,
    dataset: str,
    info: Place,
    split: str = "test",
    videos: Videos = None,
    kind: str = "target_perframe",
    classes: tuple[str, ...] | None = None,
    rates: Mapping[str, float] | None = None,
    durations: Mapping[str, float] | None = None,
) -> Records:
    """Reads <folder>/<kind>/<video>.npy of the sessions of one split ("train" or "test").

    dataset, info: the entry of data_info.json or video_list.json. classes: names of the columns where `kind` is not
    the default ("background" and the 97 verbs, say). rates: rows per second by video. durations: seconds by video.
    videos: folder of the videos, or of feature arrays such as <root>/rgb_kinetics_resnet50, to look for.
    """
    folder = pathlib.Path(folder)
    name, entry = data_info(info, dataset)
    if split not in entry["sessions"]:
        raise VtjaxError(f"{info}: {name} has no split {split!r}: {nearest(split, entry['sessions'])}")
    if not (folder / kind).is_dir():
        raise VtjaxError(f"{folder / kind}: no such folder of {{video}}.npy files")
    if classes is None and kind != "target_perframe":
        raise VtjaxError(f"{folder / kind}: pass the names of its columns as `classes`, background first")
    names = entry["classes"] if classes is None else tuple(classes)
    coverage = Coverage(f"{name} {split}", "videos", "rows")
    coverage.listed = len(set(entry["sessions"][split]))
    records = []
    for video in entry["sessions"][split]:
        path = folder / kind / f"{video}.npy"
        with coverage.entry(path):
            targets = _load(path, len(names))
            duration = duration_of(durations[video]) if durations and video in durations else None
            rate = _rate(len(targets), video, rates, duration)
            if rate is None:
                coverage.notes.add(video, "the rate of the rows is unknown: pass rates or durations")
            ambiguous = entry["ignore"] if classes is None else None
            frames = FrameTargets(targets, names, rate, ambiguous)
            coverage.rows += len(targets)
            coverage.rows_used += len(targets)
            records.append(VideoRecord(video, video, str(path), split, duration=duration, targets=frames))
    return coverage.finish(records, videos)


def _load(path: pathlib.Path, columns: int) -> np.ndarray:
    """Targets uint8 [T, C]; every row has at least one class."""
    if not path.is_file():
        raise BadRow("listed, but the target file is missing")
    try:
        targets = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadRow("unreadable target file", str(error)) from None
    if targets.ndim != 2 or targets.shape[1] != columns or not len(targets):
        raise BadRow("the targets must have the shape [rows, classes]", f"{targets.shape}, {columns} classes")
    if targets.dtype.kind not in "buif" or not np.isin(targets, (0, 1)).all():
        raise BadRow("the targets must be zeros and ones", f"{targets.dtype}")
    empty = int((targets.sum(axis=1) == 0).sum())
    if empty:
        raise BadRow("rows without any class, not even the background", f"{empty} rows")
    return targets.astype(np.uint8)


def _rate(rows: int, video: str, rates: Mapping[str, float] | None, duration: float | None) -> float | None:
    if rates and video in rates:
        return positive(rates[video], "the rate", "the rate")
    return rows / duration if duration else None
