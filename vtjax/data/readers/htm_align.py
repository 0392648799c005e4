"""HTM-Align: narrations of 80 videos, each said to be alignable or not.

htm_align.json: {video: [[alignable 0 or 1, start, end, sentence], ...]}.
"""

from __future__ import annotations

from typing import Any

from vtjax.data.readers.coverage import BadRow, Coverage, Place, Records, Videos
from vtjax.data.readers.json_stream import json_entries
from vtjax.data.readers.rows import find_file, integer, listed, span, text
from vtjax.data.video_records import Narration, VideoRecord

VIDEOS = 80


def read(folder: Place, *, split: str = "test", videos: Videos = None) -> Records:
    """Reads htm_align.json (or the folder that holds it): evaluation only, so keep its videos out of training."""
    path = find_file(folder, ("htm_align.json", "*htm_align*.json"))
    coverage = Coverage(split, "videos", "sentences")

    def narrated(where: str, video: str, rows: Any) -> VideoRecord:
        def sentence(row: Any) -> Narration:
            flag, start, end, words = listed(row, "the sentence", 4)
            alignable = integer(flag, "alignable")
            if alignable not in (0, 1):
                raise BadRow("alignable is neither 0 nor 1", f"{flag}")
            return Narration(*span(start, end, None, coverage, where), text(words, "the sentence"), bool(alignable))

        sentences = coverage.parts(where, "sentence", rows if isinstance(rows, list) else [rows], sentence)
        if not sentences:
            raise BadRow("no usable sentence")
        return VideoRecord(video, video, where, split, narrations=tuple(sentences))

    records = coverage.entries(json_entries(path), narrated)
    if len(records) != VIDEOS:
        coverage.notes.add(f"{path}: {len(records)}", f"HTM-Align has {VIDEOS} videos")
    return coverage.finish(records, videos)
