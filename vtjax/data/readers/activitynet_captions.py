"""ActivityNet Captions: {video: {"duration", "timestamps": [[start, end]], "sentences": []}} (pite.md 6.2).

train.json, val_1.json and val_2.json (two sets of sentences for the same videos); VTimeLLM's data_example.json too.
"""

from __future__ import annotations

import os
import pathlib

from vtjax.data.readers.coverage import BadRow, Coverage
from vtjax.data.readers.json_stream import json_entries
from vtjax.data.readers.rows import duration_of, field, listed, span, text
from vtjax.data.video_records import Caption, VideoRecord


def read(
    folder: str | os.PathLike, *, split: str = "val_1", videos: object | None = None
) -> tuple[list[VideoRecord], Coverage]:
    """Reads `folder`/`split`.json, or the file itself. Sentences lose the blanks around them, times stay in seconds."""
    path = pathlib.Path(folder)
    path = path / f"{split}.json" if path.is_dir() else path
    coverage = Coverage(path.stem, "videos", "captions")
    records = []
    for where, video, entry in json_entries(path):
        with coverage.entry(where):
            duration = duration_of(field(entry, "duration"))
            times = listed(field(entry, "timestamps"), "timestamps")
            sentences = listed(field(entry, "sentences"), "sentences")
            if len(times) != len(sentences):
                raise BadRow("timestamps and sentences differ in length", f"{len(times)} and {len(sentences)}")
            captions = []
            for position, (bounds, words) in enumerate(zip(times, sentences, strict=True)):
                with coverage.row(f"{where} caption {position}"):
                    start, end = span(*listed(bounds, "timestamp", 2), duration, coverage, where)
                    captions.append(Caption(text(words, "sentence"), start, end))
            if not captions:
                raise BadRow("no usable caption")
            records.append(
                VideoRecord(video, video, where, path.stem, duration=duration, captions=tuple(captions))
            )
    return coverage.finish(records, videos), coverage
