"""YouCook2: recipe steps, in the official annotations or with timed speech (the file of 415 validation videos).

Official: {"database": {video: {"duration", "subset", "recipe_type", "annotations": [{"segment", "sentence"}]}}}.
With speech: {"annotations": [{"image_id", "duration", "segments", "pure_cap", "caption", "asr_text"}]}. There
`segments` are seconds, while the time tokens of `caption` and `asr_text` count floor(99 t / scale); the scale is the
first number of `seg_prompt`, about the duration except for a few videos.
"""

from __future__ import annotations

import os
import re

from vtjax.data.readers.coverage import BadRow, Coverage
from vtjax.data.readers.json_stream import MissingKey, json_entries
from vtjax.data.readers.media_folder import stem
from vtjax.data.readers.rows import duration_of, field, find_file, integer, listed, span, text
from vtjax.data.video_records import Narration, Segment, Step, StepScript, VideoRecord

FILES = ("youcookii_annotations_trainval.json", "*annotations*.json", "asr_and_steps*.json")
TOKENS = 99
_SPOKEN = re.compile(r"<time_token_(\d+)>\s*<time_token_(\d+)>([^<]*)")
# The scale is the duration without its fraction; a scale further away is another clock than the segments'.
_SAME_CLOCK = 2.0


def read(
    folder: str | os.PathLike, *, split: str | None = None, videos: object | None = None
) -> tuple[list[VideoRecord], Coverage]:
    """Reads either layout, told apart by its top-level key. split: "training", "validation", None for all.

    script: the video's own steps in order of time. Segment.label is the position in it.
    """
    path = find_file(folder, FILES)
    coverage = Coverage(split or "all", "videos", "segments")
    records = []
    try:
        entries, build = json_entries(path, "database"), _official
        first = next(entries, None)
    except MissingKey:
        entries, build = json_entries(path, "annotations"), _with_speech
        first = next(entries, None)
    while first is not None:
        where, key, entry = first
        with coverage.entry(where):
            record = build(where, key, entry, coverage)
            if split in (None, record.split):
                records.append(record)
        first = next(entries, None)
    return coverage.finish(records, videos), coverage


def _official(where: str, video: str, entry: object, coverage: Coverage) -> VideoRecord:
    duration = duration_of(field(entry, "duration"))
    found = []
    for position, item in enumerate(listed(field(entry, "annotations"), "annotations")):
        with coverage.row(f"{where} segment {position}"):
            start, end = span(*listed(field(item, "segment"), "segment", 2), duration, coverage, where)
            found.append((start, end, text(field(item, "sentence"), "sentence")))
    if not found:
        raise BadRow("no usable segment")
    recipe = str(entry.get("recipe_type", ""))
    return _record(where, video, text(field(entry, "subset"), "subset"), duration, found, (), recipe)


def _with_speech(where: str, _: str, entry: object, coverage: Coverage) -> VideoRecord:
    video = stem(text(field(entry, "image_id"), "image_id"))
    duration = duration_of(field(entry, "duration"))
    segments = listed(field(entry, "segments"), "segments")
    sentences = _SPOKEN.findall(text(field(entry, "caption"), "caption"))
    if len(segments) != len(sentences):
        raise BadRow("'segments' and 'caption' differ in length", f"{len(segments)} and {len(sentences)}")
    found = []
    for position, (bounds, (_, _, words)) in enumerate(zip(segments, sentences, strict=True)):
        with coverage.row(f"{where} segment {position}"):
            start, end = span(*listed(bounds, "segment", 2), duration, coverage, where)
            found.append((start, end, text(words, "sentence")))
    if not found:
        raise BadRow("no usable segment")
    scale = integer(text(field(entry, "seg_prompt"), "seg_prompt").partition(";")[0], "the scale in seg_prompt")
    if abs(scale - duration) > _SAME_CLOCK:
        coverage.notes.add(
            f"{where} ({video}): {scale} s instead of {duration:g} s", "the time tokens are scaled by another duration"
        )
    spoken = field(entry, "asr_text")
    narrations = _narrations(where, spoken if isinstance(spoken, str) else "", scale, duration, coverage)
    if not narrations:
        coverage.notes.add(f"{where} ({video})", "the video has no speech")
    return _record(where, video, "validation", duration, found, narrations, "")


def _narrations(where: str, spoken: str, scale: int, duration: float, coverage: Coverage) -> tuple[Narration, ...]:
    """Sentences with the shortest interval that surely holds them: a token covers scale / 99 seconds."""
    found = []
    for begin, end, words in _SPOKEN.findall(spoken):
        if not words.strip():
            continue
        start, stop = int(begin) * scale / TOKENS, min((int(end) + 1) * scale / TOKENS, max(duration, scale))
        if int(end) < int(begin) or int(end) > TOKENS:
            coverage.problems.add(f"{where}: tokens {begin} {end}", "the time tokens of a sentence are out of order")
            continue
        found.append(Narration(start, stop, words.strip()))
    return tuple(found)


def _record(where, video, split, duration, found, narrations, recipe) -> VideoRecord:
    found = sorted(found)
    script = StepScript(video, recipe, tuple(Step(i, words) for i, (_, _, words) in enumerate(found)))
    segments = tuple(Segment(start, end, words, i) for i, (start, end, words) in enumerate(found))
    return VideoRecord(
        video, video, where, split, duration=duration, class_name=recipe, script=script, segments=segments,
        narrations=narrations,
    )  # fmt: skip
