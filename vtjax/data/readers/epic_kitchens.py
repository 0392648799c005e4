"""EPIC-KITCHENS-100: verb-noun actions of untrimmed videos.

EPIC_100_{train,validation}.csv: narration_id, video_id, start_timestamp, stop_timestamp, start_frame, stop_frame,
narration, verb, verb_class, noun, noun_class, ... EPIC_100_video_info.csv: video_id, duration, fps, resolution.
EPIC_100_{verb,noun}_classes.csv: id, key, instances, category; the official order is the id's.
"""

from __future__ import annotations

import pathlib

import numpy as np

from vtjax.data.readers.class_lists import class_list
from vtjax.data.readers.coverage import BadRow, Coverage, Place, Records, Videos
from vtjax.data.readers.rows import csv_rows, duration_of, find_file, in_time, integer, positive, span, text
from vtjax.data.video_records import Segment, VideoRecord
from vtjax.errors import VtjaxError, nearest

COLUMNS = ("narration_id", "video_id", "start_timestamp", "stop_timestamp", "narration", "verb_class", "noun_class")
INFO = "EPIC_100_video_info.csv"


def classes(folder: Place, kind: str) -> tuple[str, ...]:
    """Reads the 97 verbs or the 300 nouns in official order; kind: "verb" or "noun"."""
    return class_list(find_file(folder, (f"EPIC_100_{kind}_classes.csv",)))


def read(folder: Place, *, split: str = "validation", videos: Videos = None) -> Records:
    """Reads EPIC_100_{split}.csv; split: "train" or "validation". Test actions are hidden.

    Segment.label is the verb, Segment.noun the noun, both 0-based official ids; text is the narration, tag its id.
    The frame rate is that of each video in EPIC_100_video_info.csv, None without that file. Where both are there,
    start_frame must lie within a frame of start_timestamp at the video's rate; rows where it does not are noted.
    """
    folder = pathlib.Path(folder)
    if split not in ("train", "validation"):
        raise VtjaxError(f"EPIC-KITCHENS-100: split {split!r}: {nearest(split, ['train', 'validation'])}")
    coverage = Coverage(split, "videos", "segments")
    verbs, nouns = classes(folder, "verb"), classes(folder, "noun")
    information = _video_info(folder, coverage)
    gathered: dict[str, tuple[str, list[Segment]]] = {}
    ids: set[str] = set()
    for where, row in csv_rows(folder / f"EPIC_100_{split}.csv", COLUMNS, coverage):
        with coverage.row(where):
            video, name = text(row["video_id"], "video_id"), text(row["narration_id"], "narration_id")
            if name in ids:
                raise BadRow("narration_id is listed twice", name)
            ids.add(name)
            verb, noun = integer(row["verb_class"], "verb_class"), integer(row["noun_class"], "noun_class")
            if not (0 <= verb < len(verbs) and 0 <= noun < len(nouns)):
                raise BadRow("verb_class or noun_class is not in the class lists", f"{verb}, {noun}")
            duration, fps = information.get(video, (None, None))
            start, end = span(row["start_timestamp"], row["stop_timestamp"], duration, coverage, where)
            if fps is not None and row.get("start_frame"):
                frame = integer(row["start_frame"], "start_frame")
                if abs(frame - start * fps) > 1 + 1e-3 * frame:
                    coverage.notes.add(f"{where}: frame {frame} at {start:g} s", "frame and time disagree at the rate")
            segment = Segment(start, end, text(row["narration"], "narration"), verb, noun, name)
            gathered.setdefault(video, (where, []))[1].append(segment)
    records = []
    for video, (where, segments) in gathered.items():
        duration, fps = information.get(video, (None, None))
        records.append(VideoRecord(video, video, where, split, duration=duration, fps=fps, segments=in_time(segments)))
    return coverage.finish(records, videos)


def _video_info(folder: pathlib.Path, coverage: Coverage) -> dict[str, tuple[float, float]]:
    if not (folder / INFO).is_file():
        coverage.notes.add(folder / INFO, "no durations and frame rates")
        return {}
    information = {}
    for where, row in csv_rows(folder / INFO, ("video_id", "duration", "fps"), coverage):
        with coverage.entry(where):
            fps = positive(row["fps"], "fps", "the frame rate")
            information[row["video_id"]] = duration_of(row["duration"]), fps
    return information


def rasterise(segments: tuple[Segment, ...], rows: int, rate: float, columns: int, *, noun: bool = False) -> np.ndarray:
    """Multi-hot targets uint8 [rows, columns] at `rate` rows per second, column = official id + 1, 0 the background.

    The rule of TeSTra's verb_perframe: rows floor(start rate) to ceil(end rate) - 1.
    """
    targets = np.zeros((rows, columns), np.uint8)
    for segment in segments:
        first, last = int(np.floor(segment.start * rate)), int(np.ceil(segment.end * rate))
        targets[first:last, 1 + (segment.noun if noun else segment.label)] = 1
    targets[:, 0] = targets[:, 1:].sum(axis=1) == 0
    return targets
