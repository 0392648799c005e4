"""Localized Narratives: pictures described by voice and mouse (pite.md 3.5).

One JSON row per narrative: dataset_id, image_id, annotator_id, caption, timed_caption [{utterance, start_time,
end_time}], traces [[{x, y, t}]]. x and y are relative to the picture and may leave [0, 1].
"""

from __future__ import annotations

import os
import pathlib

import numpy as np

from vtjax.data.readers.coverage import BadRow, Coverage
from vtjax.data.readers.json_stream import json_lines
from vtjax.data.readers.rows import field, listed, mapping, number, text
from vtjax.data.video_records import Narrative, Utterance, VideoRecord
from vtjax.errors import VtjaxError


def read(
    folder: str | os.PathLike, *, split: str = "", videos: object | None = None
) -> tuple[list[VideoRecord], Coverage]:
    """Reads a .jsonl file, or those of a folder whose name starts with `split` ("coco_train", "" for all).

    media is "image", video the picture's name (12 digits for COCO), id "{dataset}/{image}/{annotator}".
    Each record has one narrative, whose words know their characters in the caption where they can be found there.
    """
    folder = pathlib.Path(folder)
    files = [folder] if folder.is_file() else sorted(folder.glob(f"{split}*.jsonl"))
    if not files:
        raise VtjaxError(f"{folder}: no file {split}*.jsonl")
    coverage = Coverage(folder.stem if folder.is_file() else split or "all", "pictures", "narratives")
    records = []
    for path in files:
        for where, row in json_lines(path):
            with coverage.row(where):
                if isinstance(row, ValueError):
                    raise BadRow("not JSON", str(row))
                records.append(_record(where, row))
    return coverage.finish(records, videos), coverage


def _record(where: str, row: object) -> VideoRecord:
    data, image = text(field(mapping(row, "the row"), "dataset_id"), "dataset_id"), field(row, "image_id")
    if not isinstance(image, (str, int)) or not str(image).strip():
        raise BadRow("image_id is neither text nor a number", repr(image)[:60])
    name = str(image).strip()
    if "mscoco" in data.lower() or "coco" in data.lower():
        name = name.zfill(12)
    caption = text(field(row, "caption"), "caption")
    timed = listed(field(row, "timed_caption"), "timed_caption")
    narrative = Narrative(caption, _words(caption, timed), _strokes(listed(field(row, "traces"), "traces")))
    split = "train" if "train" in data else "val" if "val" in data else "test" if "test" in data else ""
    return VideoRecord(
        f"{data}/{image}/{row.get('annotator_id', 0)}", name, where, split, media="image", narratives=(narrative,)
    )


def _words(caption: str, timed: list) -> tuple[Utterance, ...]:
    words, cursor, lower = [], 0, caption.lower()
    for item in timed:
        spoken = field(item, "utterance")
        start, end = number(field(item, "start_time"), "start_time"), number(field(item, "end_time"), "end_time")
        if end < start:
            raise BadRow("an utterance ends before it starts", f"{start:g} to {end:g} s")
        if not isinstance(spoken, str) or not spoken.strip():
            continue
        at = lower.find(spoken.strip().lower(), cursor)
        span = None
        if at >= 0:
            span, cursor = (at, at + len(spoken.strip())), at + len(spoken.strip())
        words.append(Utterance(spoken.strip(), start, end, span))
    return tuple(words)


def _strokes(traces: list) -> tuple[np.ndarray, ...]:
    strokes = []
    for stroke in traces:
        points = [
            (number(field(p, "t"), "t"), number(field(p, "x"), "x"), number(field(p, "y"), "y"), -1)
            for p in listed(stroke, "a trace")
        ]
        if points:
            strokes.append(np.array(points, np.float64))
    return tuple(strokes)
