"""THUMOS14: action segments, durations and per-row targets.

{val,test}/{Class}_{val,test}.txt: "video start end"; th14_{val,test}_durations.txt: alternately a file and its seconds;
thumos14_frame_targets.npz: per video packed bits [T, 3] of 22 classes, `class_names`, and `fps`, the rows per second
of every video (about 5 for most, 4 for a few), which is checked against the durations.
"""

from __future__ import annotations

import json
import pathlib
import zipfile

import numpy as np

from vtjax.data.readers.coverage import BadRow, Coverage, Place, Records, Videos
from vtjax.data.readers.media_folder import stem
from vtjax.data.readers.rows import duration_of, known_split, span, text_lines
from vtjax.data.video_records import Segment, VideoRecord
from vtjax.errors import VtjaxError
from vtjax.evals.frame_targets import FrameTargets

CLASSES = (
    "Background", "BaseballPitch", "BasketballDunk", "Billiards", "CleanAndJerk", "CliffDiving", "CricketBowling",
    "CricketShot", "Diving", "FrisbeeCatch", "GolfSwing", "HammerThrow", "HighJump", "JavelinThrow", "LongJump",
    "PoleVault", "Shotput", "SoccerPenalty", "TennisSwing", "ThrowDiscus", "VolleyballSpiking", "Ambiguous",
)  # fmt: skip
AMBIGUOUS = 21
_PREFIX = {"val": "video_validation_", "test": "video_test_"}


def read(folder: Place, *, split: str | None = None, videos: Videos = None, targets: bool = True) -> Records:
    """Reads the 200 val and 213 test videos (split None) with segments, duration and, where there, frame targets.

    Segment.label and the targets' columns are indices into CLASSES; "Ambiguous" is column 21.
    """
    folder = pathlib.Path(folder)
    known_split("THUMOS14", split, (None, "val", "test"))
    coverage = Coverage(split or "all", "videos", "segments")
    packed = frame_targets(folder, coverage) if targets else {}
    records = []
    for name in ("val", "test") if split is None else (split,):
        durations = _durations(folder / f"th14_{name}_durations.txt", coverage)
        segments = _segments(folder, name, durations, coverage)
        rows = {video for video in packed if video.startswith(_PREFIX[name])}
        for video in sorted(set(segments) | rows):
            where, actions = segments.get(video, (str(folder / name), []))
            duration, frames = durations.get(video), packed.get(video)
            if packed and frames is None:
                coverage.notes.add(video, "has segments, but no frame targets")
            if duration is not None and frames is not None:
                _check_rate(video, frames, duration, coverage)
            ordered = tuple(sorted(actions, key=lambda s: (s.start, s.end, s.label)))
            records.append(VideoRecord(video, video, where, name, duration=duration, segments=ordered, targets=frames))
    return coverage.finish(records, videos)


def frame_targets(folder: Place, coverage: Coverage | None = None) -> dict[str, FrameTargets]:
    """Reads targets uint8 [T, 22] by video, empty where thumos14_frame_targets.npz is not there.

    Raises VtjaxError where the file is damaged, its classes are not CLASSES, or a video has no rate.
    """
    folder = pathlib.Path(folder)
    path = folder if folder.is_file() else folder / "thumos14_frame_targets.npz"
    if not path.is_file():
        if coverage is not None:
            coverage.notes.add(path, "no frame targets beside the segments")
        return {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        rates = json.loads(str(arrays.pop("fps")))
        names = tuple(map(str, arrays.pop("class_names")))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise VtjaxError(f"{path}: class_names, fps and packed rows are expected: {error}") from None
    if names != CLASSES:
        raise VtjaxError(f"{path}: the class names are not THUMOS14's in its order: {', '.join(names[:4])}, ...")
    targets = {}
    for video, bits in arrays.items():
        rate = rates.get(video)
        if bits.ndim != 2 or bits.dtype != np.uint8 or bits.shape[1] != 3 or not len(bits):
            raise VtjaxError(f"{path}[{video}]: packed rows uint8 [T, 3] are expected, found {bits.dtype} {bits.shape}")
        if not isinstance(rate, (int, float)) or not rate > 0:
            raise VtjaxError(f"{path}[{video}]: no rate in 'fps'")
        targets[video] = FrameTargets(np.unpackbits(bits, axis=1)[:, : len(CLASSES)], CLASSES, float(rate), AMBIGUOUS)
    return targets


def _check_rate(video: str, frames: FrameTargets, duration: float, coverage: Coverage) -> None:
    seconds = len(frames.targets) / frames.fps
    if abs(seconds - duration) > 1:
        coverage.notes.add(f"{video}: {seconds:.1f} s of rows, {duration:.1f} s of video", "rows and duration disagree")


def _durations(path: pathlib.Path, coverage: Coverage) -> dict[str, float]:
    if not path.is_file():
        coverage.notes.add(path, "no durations")
        return {}
    lines, durations = list(text_lines(path)), {}
    if len(lines) % 2:
        raise VtjaxError(f"{path}: pairs of lines (file, seconds) are expected, the file has {len(lines)} (truncated?)")
    for (where, name), (_, seconds) in zip(lines[::2], lines[1::2], strict=True):
        with coverage.entry(where):
            durations[stem(name.rsplit("/", 1)[-1])] = duration_of(seconds)
    return durations


def _segments(
    folder: pathlib.Path, split: str, durations: dict[str, float], coverage: Coverage
) -> dict[str, tuple[str, list[Segment]]]:
    segments: dict[str, tuple[str, list[Segment]]] = {}
    for label, name in enumerate(CLASSES[1:], 1):
        path = folder / split / f"{name}_{split}.txt"
        if not path.is_file():
            coverage.notes.add(path, "no segment file of this class")
            continue
        for where, line in text_lines(path):
            with coverage.row(where):
                cells = line.split()
                if len(cells) != 3:
                    raise BadRow("'video start end' is expected", line[:60])
                if not cells[0].startswith(_PREFIX[split]):
                    raise BadRow("the video is not of this split", cells[0][:40])
                start, end = span(cells[1], cells[2], durations.get(cells[0]), coverage, where)
                segments.setdefault(cells[0], (where, []))[1].append(Segment(start, end, name, label))
    if not segments:
        raise VtjaxError(f"{folder / split}: no segment file such as {split}/BaseballPitch_{split}.txt")
    return segments
