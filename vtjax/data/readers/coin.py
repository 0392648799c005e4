"""COIN: steps of 180 tasks. COIN.json: {"database": {video: {"class", "recipe_type", "duration", "subset", "start",
"end", "annotation": [{"id", "segment", "label"}]}}}; step ids are strings of numbers, times are of the source video.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from vtjax.data.readers.coverage import BadRow, Coverage, Place, Records, Videos
from vtjax.data.readers.json_stream import json_entries
from vtjax.data.readers.rows import duration_of, field, find_file, integer, listed, span, span_of, text
from vtjax.data.video_records import Segment, Step, StepScript, VideoRecord


def read(folder: Place, *, split: str | None = None, videos: Videos = None) -> Records:
    """Reads COIN.json. split: "training", "testing", None for all.

    label: the task ("recipe_type"). script: the task's steps, gathered over the whole file in order of id, since COIN
    has no canonical order. Segment.label is the step id. span: the part of the source video that COIN shows.
    """
    coverage = Coverage(split or "all", "videos", "segments")
    steps: dict[str, dict[int, str]] = {}

    def annotated(where: str, video: str, entry: Any) -> VideoRecord | None:
        task, name = field(entry, "recipe_type", integer), field(entry, "class", text)
        subset, duration = field(entry, "subset", text), field(entry, "duration", duration_of)
        shown = span(entry.get("start", 0), entry.get("end", duration), duration, coverage, where)

        def segment(item: Any) -> Segment:
            step, words = field(item, "id", integer), field(item, "label", text)
            if steps.setdefault(name, {}).setdefault(step, words) != words:
                raise BadRow("a step id has two labels", f"{step}: {steps[name][step]!r} and {words!r}")
            return Segment(*span_of(field(item, "segment"), "segment", duration, coverage, where), words, step)

        segments = coverage.parts(where, "segment", field(entry, "annotation", listed), segment)
        if not segments:
            raise BadRow("no usable segment")
        if split not in (None, subset):
            return None
        return VideoRecord(
            video, video, where, subset, duration=duration, span=shown, label=task, class_name=name,
            segments=tuple(segments),
        )  # fmt: skip

    records = coverage.entries(json_entries(find_file(folder, ("COIN.json", "coin.json")), "database"), annotated)
    scripts = {
        name: StepScript(name, name, tuple(Step(i, words) for i, words in sorted(of.items())))
        for name, of in steps.items()
    }
    return coverage.finish([dataclasses.replace(r, script=scripts[r.class_name]) for r in records], videos)
