"""Kinetics-400 and -600: {train,validate,test}.csv with label, youtube_id, time_start, time_end, split."""

from __future__ import annotations

import os
from collections.abc import Sequence

from vtjax.data.readers.activitynet import names_of
from vtjax.data.readers.class_lists import index_of
from vtjax.data.readers.coverage import Coverage
from vtjax.data.readers.rows import csv_rows, find_file, integer, span, text
from vtjax.data.video_records import VideoRecord
from vtjax.errors import VtjaxError

SPLITS = {"train": ("train.csv",), "val": ("val.csv", "validate.csv", "validation.csv"), "test": ("test.csv",)}


def read(
    folder: str | os.PathLike,
    *,
    split: str = "val",
    videos: object | None = None,
    classes: Sequence[str] | str | os.PathLike | None = None,
) -> tuple[list[VideoRecord], Coverage]:
    """Reads the official CSV of one split ("train", "val", "test"; names with a prefix such as kinetics_600_ too).

    A record is a clip, id "{youtube}_{start:06d}_{end:06d}", the name its file usually has; span are its seconds of the
    source video. classes: names in the order of the labels or kinetics_{400,600}_labels.csv; by default alphabetical.
    """
    if split not in SPLITS:
        raise VtjaxError(f"Kinetics has no split {split!r}: train, val or test")
    names = SPLITS[split]
    path = find_file(folder, (*names, *(f"*_{name}" for name in names)))
    coverage = Coverage(split, "clips", "rows")
    given = names_of(classes)
    rows = list(csv_rows(path, ("label", "youtube_id", "time_start", "time_end"), coverage))
    labels = given or tuple(sorted({row["label"].strip() for _, row in rows if row["label"].strip()}))
    if not given:
        coverage.notes.add(path, "no class list was given: classes are the file's labels in alphabetical order")
    records = []
    for where, row in rows:
        with coverage.row(where):
            youtube, name = text(row["youtube_id"], "youtube_id"), text(row["label"], "label")
            start, end = integer(row["time_start"], "time_start"), integer(row["time_end"], "time_end")
            start, end = span(start, end, None, coverage, where)
            clip = f"{youtube}_{int(start):06d}_{int(end):06d}"
            records.append(
                VideoRecord(
                    clip, clip, where, split, span=(start, end), label=index_of(name, labels), class_name=name
                )
            )
    return coverage.finish(records, videos), coverage
