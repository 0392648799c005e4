"""YouCook2: recipe steps, in the official annotations or with timed speech (the file of 415 validation videos).

Official: {"database": {video: {"duration", "subset", "recipe_type", "annotations": [{"segment", "sentence"}]}}}.
With speech: {"annotations": [{"image_id", "duration", "segments", "pure_cap", "caption", "asr_text"}]}. There
`segments` are seconds, while the time tokens of `caption` and `asr_text` count floor(99 t / scale); the scale is the
first number of `seg_prompt`, about the duration except for a few videos.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
from typing import Any

from vtjax.data.readers.coverage import BadRow, Coverage, Place, Records, Videos
from vtjax.data.readers.json_stream import MissingKey, json_entries
from vtjax.data.readers.media_folder import stem
from vtjax.data.readers.rows import duration_of, field, find_file, integer, listed, span_of, text
from vtjax.data.video_records import Narration, Segment, Step, StepScript, VideoRecord

FILES = ("youcookii_annotations_trainval.json", "*annotations*.json", "asr_and_steps*.json")
TOKENS = 99
_SPOKEN = re.compile(r"<time_token_(\d+)>\s*<time_token_(\d+)>([^<]*)")
# The scale is the duration without its fraction; a scale further away is another clock than the segments'.
_SAME_CLOCK = 2.0


def read(folder: Place, *, split: str | None = None, videos: Videos = None) -> Records:
    """Reads either layout, told apart by its top-level key. split: "training", "validation", None for all.

    script: the video's own steps in order of time. Segment.label is the position in it.
    """
    path = find_file(folder, FILES)
    coverage = Coverage(split or "all", "videos", "segments")
    build: Callable[..., VideoRecord]
    try:
        entries, build = json_entries(path, "database"), _official
        first = next(entries, None)
    except MissingKey:
        entries, build = json_entries(path, "annotations"), _with_speech
        first = next(entries, None)

    def wanted(*entry: Any) -> VideoRecord | None:
        record = build(*entry, coverage)  # type: ignore[call-arg]
        return record if split in (None, record.split) else None

    return coverage.finish(coverage.entries(itertools.chain([first] if first else [], entries), wanted), videos)


def _official(where: str, video: str, entry: Any, coverage: Coverage) -> VideoRecord:
    duration = field(entry, "duration", duration_of)
    items = field(entry, "annotations", listed)
    segments = _segments(where, items, lambda i: (field(i, "segment"), field(i, "sentence")), duration, coverage)
    recipe = str(entry.get("recipe_type", ""))
    return _record(where, video, field(entry, "subset", text), duration, segments, (), recipe)


def _segments(where: str, items: Iterable, parts: Callable, duration: float, coverage: Coverage) -> list[tuple]:
    """(start, end, words) of the usable items; parts(item) -> (bounds, words)."""

    def segment(item: Any) -> tuple[float, float, str]:
        bounds, words = parts(item)
        return *span_of(bounds, "segment", duration, coverage, where), text(words, "sentence")

    segments = coverage.parts(where, "segment", items, segment)
    if not segments:
        raise BadRow("no usable segment")
    return segments


def _with_speech(where: str, _: str, entry: Any, coverage: Coverage) -> VideoRecord:
    video = stem(field(entry, "image_id", text))
    duration = field(entry, "duration", duration_of)
    bounds, sentences = field(entry, "segments", listed), _SPOKEN.findall(field(entry, "caption", text))
    if len(bounds) != len(sentences):
        raise BadRow("'segments' and 'caption' differ in length", f"{len(bounds)} and {len(sentences)}")
    items = zip(bounds, sentences, strict=True)
    segments = _segments(where, items, lambda pair: (pair[0], pair[1][2]), duration, coverage)
    scale = integer(field(entry, "seg_prompt", text).partition(";")[0], "the scale in seg_prompt")
    if abs(scale - duration) > _SAME_CLOCK:
        scales = f"{scale} s instead of {duration:g} s"
        coverage.notes.add(f"{where} ({video}): {scales}", "the time tokens are scaled by another duration")
    spoken = field(entry, "asr_text")
    narrations = _narrations(where, spoken if isinstance(spoken, str) else "", scale, duration, coverage)
    if not narrations:
        coverage.notes.add(f"{where} ({video})", "the video has no speech")
    return _record(where, video, "validation", duration, segments, narrations, "")


def _narrations(where: str, spoken: str, scale: int, duration: float, coverage: Coverage) -> tuple[Narration, ...]:
    """Sentences with the shortest interval that surely holds them: a token covers scale / 99 seconds."""
    narrations = []
    for begin, end, words in _SPOKEN.findall(spoken):
        if not words.strip():
            continue
        start, stop = int(begin) * scale / TOKENS, min((int(end) + 1) * scale / TOKENS, max(duration, scale))
        if int(end) < int(begin) or int(end) > TOKENS:
            coverage.problems.add(f"{where}: tokens {begin} {end}", "the time tokens of a sentence are out of order")
            continue
        narrations.append(Narration(start, stop, words.strip()))
    return tuple(narrations)


def _record(where, video, split, duration, steps, narrations, recipe) -> VideoRecord:
    steps = sorted(steps)
    script = StepScript(video, recipe, tuple(Step(i, words) for i, (_, _, words) in enumerate(steps)))
    segments = tuple(Segment(start, end, words, i) for i, (start, end, words) in enumerate(steps))
    return VideoRecord(
        video, video, where, split, duration=duration, class_name=recipe, script=script, segments=segments,
        narrations=narrations,
    )  # fmt: skip
