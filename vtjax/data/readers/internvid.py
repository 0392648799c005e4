"""InternVid-10M-FLT: captions of parts of YouTube videos, one JSON row each.

{"YoutubeID", "Start_timestamp": "00:00:07.440", "End_timestamp", "Caption", "UMT_Score", "Aesthetic_Score"}.
"""

from __future__ import annotations

from collections.abc import Mapping

from vtjax.data.readers.coverage import Coverage, Place, Records, Videos
from vtjax.data.readers.leakage import Exclude, refuse
from vtjax.data.readers.rows import field, find_file, in_time, number, parsed, span, text, text_lines
from vtjax.data.video_records import Caption, VideoRecord


def read(
    folder: Place,
    *,
    split: str = "train",
    videos: Videos = None,
    durations: Mapping[str, float] | None = None,
    exclude: Exclude = None,
) -> Records:
    """Reads the rows of a .jsonl file, gathered by video and sorted by time; Caption.score is UMT_Score.

    durations: seconds by video, since the file has none. exclude: see `leakage.evaluation_ids`.
    """
    path = find_file(folder, ("InternVid-10M*.jsonl", "*.jsonl"))
    coverage = Coverage(split, "videos", "captions")
    durations = durations or {}
    gathered: dict[str, tuple[str, list[Caption]]] = {}
    for where, line in text_lines(path):
        with coverage.row(where):
            row = parsed(line)
            video = field(row, "YoutubeID", text)
            bounds = field(row, "Start_timestamp"), field(row, "End_timestamp")
            start, end = span(*bounds, durations.get(video), coverage, where)
            score = number(row["UMT_Score"], "UMT_Score") if row.get("UMT_Score") is not None else None
            caption = Caption(field(row, "Caption", text), start, end, score)
            gathered.setdefault(video, (where, []))[1].append(caption)
    records = [
        VideoRecord(video, video, where, split, duration=durations.get(video), captions=in_time(captions))
        for video, (where, captions) in gathered.items()
        if not refuse(video, where, exclude, coverage.problems)
    ]
    return coverage.finish(records, videos)
