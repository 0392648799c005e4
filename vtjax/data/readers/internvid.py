"""InternVid-10M-FLT: captions of parts of YouTube videos, one JSON row each (pite.md 3.1, ovoad.md 6.1).

{"YoutubeID", "Start_timestamp": "00:00:07.440", "End_timestamp", "Caption", "UMT_Score", "Aesthetic_Score"}.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from vtjax.data.readers.coverage import BadRow, Coverage
from vtjax.data.readers.json_stream import json_lines
from vtjax.data.readers.leakage import refuse
from vtjax.data.readers.rows import field, find_file, mapping, number, span, text
from vtjax.data.video_records import Caption, VideoRecord


def read(
    folder: str | os.PathLike,
    *,
    split: str = "train",
    videos: object | None = None,
    durations: Mapping[str, float] | None = None,
    exclude: Mapping[str, str] | None = None,
) -> tuple[list[VideoRecord], Coverage]:
    """Reads the rows of a .jsonl file, gathered by video and sorted by time; Caption.score is UMT_Score.

    durations: seconds by video, since the file has none. exclude: see `leakage.evaluation_ids`.
    """
    path = find_file(folder, ("InternVid-10M*.jsonl", "*.jsonl"))
    coverage = Coverage(split, "videos", "captions")
    found: dict[str, tuple[str, list[Caption]]] = {}
    for where, row in json_lines(path):
        with coverage.row(where):
            if isinstance(row, ValueError):
                raise BadRow("not JSON", str(row))
            video = text(field(mapping(row, "the row"), "YoutubeID"), "YoutubeID")
            duration = durations.get(video) if durations else None
            start, end = span(field(row, "Start_timestamp"), field(row, "End_timestamp"), duration, coverage, where)
            score = number(row["UMT_Score"], "UMT_Score") if row.get("UMT_Score") is not None else None
            caption = Caption(text(field(row, "Caption"), "Caption"), start, end, score)
            found.setdefault(video, (where, []))[1].append(caption)
    records = []
    for video, (where, captions) in found.items():
        if refuse(video, where, exclude, coverage):
            continue
        captions.sort(key=lambda c: (c.start, c.end))
        duration = durations.get(video) if durations else None
        records.append(VideoRecord(video, video, where, split, duration=duration, captions=tuple(captions)))
    return coverage.finish(records, videos), coverage
