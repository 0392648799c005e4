"""HTM-Align: narrations of 80 videos, each said to be alignable or not (mptva.md 7.3, 9.2).

htm_align.json: {video: [[alignable 0 or 1, start, end, sentence], ...]}.
"""

from __future__ import annotations

import os

from vtjax.data.readers.coverage import BadRow, Coverage
from vtjax.data.readers.json_stream import json_entries
from vtjax.data.readers.rows import find_file, integer, listed, span, text
from vtjax.data.video_records import Narration, VideoRecord

VIDEOS = 80


def read(
    folder: str | os.PathLike, *, split: str = "test", videos: object | None = None
) -> tuple[list[VideoRecord], Coverage]:
    """Reads htm_align.json (or the folder that holds it): evaluation only, so keep its videos out of training."""
    path = find_file(folder, ("htm_align.json", "*htm_align*.json"))
    coverage = Coverage(split, "videos", "sentences")
    records = []
    for where, video, rows in json_entries(path):
        sentences = []
        for position, row in enumerate(rows if isinstance(rows, list) else [rows]):
            with coverage.row(f"{where} sentence {position}"):
                flag, start, end, words = listed(row, "the sentence", 4)
                alignable = integer(flag, "alignable")
                if alignable not in (0, 1):
                    raise BadRow("alignable is neither 0 nor 1", f"{flag}")
                start, end = span(start, end, None, coverage, where)
                sentences.append(Narration(start, end, text(words, "the sentence"), bool(alignable)))
        with coverage.entry(where):
            if not sentences:
                raise BadRow("no usable sentence")
            records.append(VideoRecord(video, video, where, split, narrations=tuple(sentences)))
    if len(records) != VIDEOS:
        coverage.notes.add(f"{path}: {len(records)}", f"HTM-Align has {VIDEOS} videos")
    return coverage.finish(records, videos), coverage
