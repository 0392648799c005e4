"""COIN: steps of 180 tasks. COIN.json: {"database": {video: {"class", "recipe_type", "duration", "subset", "start",
"end", "annotation": [{"id", "segment", "label"}]}}}; step ids are strings of numbers, times are of the source video.
"""

from __future__ import annotations

import os

from vtjax.data.readers.coverage import BadRow, Coverage
from vtjax.data.readers.json_stream import json_entries
from vtjax.data.readers.rows import duration_of, field, find_file, integer, listed, span, text
from vtjax.data.video_records import Segment, Step, StepScript, VideoRecord


def read(
    folder: str | os.PathLike, *, split: str | None = None, videos: object | None = None
) -> tuple[list[VideoRecord], Coverage]:
    """Reads COIN.json. split: "training", "testing", None for all.

    label: the task ("recipe_type"). script: the task's steps, gathered over the whole file in order of id, since COIN
    has no canonical order. Segment.label is the step id. span: the part of the source video that COIN shows.
    """
    path = find_file(folder, ("COIN.json", "coin.json"))
    coverage = Coverage(split or "all", "videos", "segments")
    steps: dict[str, dict[int, str]] = {}
    made = []
    for where, video, entry in json_entries(path, "database"):
        with coverage.entry(where):
            task, name = integer(field(entry, "recipe_type"), "recipe_type"), text(field(entry, "class"), "class")
            subset, duration = text(field(entry, "subset"), "subset"), duration_of(field(entry, "duration"))
            shown = span(entry.get("start", 0), entry.get("end", duration), duration, coverage, where)
            segments = []
            for position, item in enumerate(listed(field(entry, "annotation"), "annotation")):
                with coverage.row(f"{where} segment {position}"):
                    step, words = integer(field(item, "id"), "id"), text(field(item, "label"), "label")
                    if steps.setdefault(name, {}).setdefault(step, words) != words:
                        raise BadRow("a step id has two labels", f"{step}: {steps[name][step]!r} and {words!r}")
                    start, end = span(*listed(field(item, "segment"), "segment", 2), duration, coverage, where)
                    segments.append(Segment(start, end, words, step))
            if not segments:
                raise BadRow("no usable segment")
            if split in (None, subset):
                made.append((where, video, subset, duration, shown, task, name, tuple(segments)))
    scripts = {
        name: StepScript(name, name, tuple(Step(i, words) for i, words in sorted(found.items())))
        for name, found in steps.items()
    }
    records = [
        VideoRecord(
            video, video, where, subset, duration=duration, span=shown, label=task, class_name=name,
            script=scripts[name], segments=segments,
        )
        for where, video, subset, duration, shown, task, name, segments in made
    ]  # fmt: skip
    return coverage.finish(records, videos), coverage
