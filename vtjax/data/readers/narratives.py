"""Localized Narratives and Video Localized Narratives: pictures and key frames described by voice and mouse.

localized_narratives, one JSON row per narrative: dataset_id, image_id, annotator_id, caption, timed_caption
[{utterance, start_time, end_time}], traces [[{x, y, t}]]. x and y are relative to the picture and may leave [0, 1].

video_localized_narratives, one JSON row per video: vidln_id, dataset_id, video_id, keyframe_names, actor_narratives
[{actor_name, caption, keyframe_selection_indices, recording_start_time_ms_since_epoch, traces [[{x, y,
time_ms_since_epoch, kf_idx}]], noun_segments [[begin, end]], time_alignment [{referenced_word, start_ms, end_ms,
referenced_word_{start,end}_idx}]}].
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vtjax.data.readers.coverage import BadRow, Coverage, Place, Records, Videos
from vtjax.data.readers.rows import field, integer, listed, number, parsed, text, text_lines
from vtjax.data.video_records import Narrative, Utterance, VideoRecord
from vtjax.errors import VtjaxError


def localized_narratives(folder: Place, *, split: str = "", videos: Videos = None) -> Records:
    """Reads a .jsonl file, or those of a folder whose name starts with `split` ("coco_train", "" for all).

    media is "image", video the picture's name (12 digits for COCO), id "{dataset}/{image}/{annotator}".
    Each record has one narrative, whose words know their characters in the caption where they can be found there.
    """
    coverage, lines = _lines(folder, split, "pictures")
    return coverage.finish(coverage.row_entries(lines, _picture), videos)


def video_localized_narratives(folder: Place, *, split: str = "", videos: Videos = None) -> Records:
    """Reads a .jsonl file, or those of a folder whose name starts with `split` ("OVIS_train", "" for all).

    One record per row with one Narrative per actor ("background" is one of them); rows counted are narratives.
    Times of words and traces are seconds since that actor's recording began: the mouse moves over still key frames,
    so they are no times of the video; column 3 of a trace and Narrative.selected say which key frame was shown.
    """
    coverage, lines = _lines(folder, split, "videos")

    def video(where: str, line: str) -> VideoRecord:
        row = parsed(line)
        data, name = field(row, "dataset_id", text), field(row, "video_id", text)
        keyframes = tuple(text(n, "a key frame's name") for n in field(row, "keyframe_names", listed))
        actors = field(row, "actor_narratives", listed)
        narratives = tuple(coverage.parts(where, "narrative", actors, lambda actor: _narrative(actor, keyframes)))
        if not narratives:
            raise BadRow("no usable narrative")
        identity = f"{data}/{name}/{row.get('vidln_id', '')}"
        return VideoRecord(identity, name, where, data.rpartition("_")[2], narratives=narratives)

    return coverage.finish(coverage.entries(lines, video), videos)


def _lines(folder: Place, split: str, medium: str) -> tuple[Coverage, Iterator[tuple[str, str]]]:
    """The coverage, and ("file:line", line) of all files."""
    folder = pathlib.Path(folder)
    files = [folder] if folder.is_file() else sorted(folder.glob(f"{split}*.jsonl"))
    if not files:
        raise VtjaxError(f"{folder}: no file {split}*.jsonl")
    coverage = Coverage(folder.stem if folder.is_file() else split or "all", medium, "narratives")
    return coverage, (line for path in files for line in text_lines(path))


def _picture(where: str, line: str) -> VideoRecord:
    row = parsed(line)
    data, image = field(row, "dataset_id", text), field(row, "image_id")
    if not isinstance(image, (str, int)) or not str(image).strip():
        raise BadRow("image_id is neither text nor a number", repr(image)[:60])
    name = str(image).strip()
    if "coco" in data.lower():
        name = name.zfill(12)
    caption, timed = field(row, "caption", text), field(row, "timed_caption", listed)
    strokes = _strokes(field(row, "traces", listed), lambda p: field(p, "t", number), lambda p: -1)
    narrative = Narrative(caption, _spoken(caption, timed), strokes)
    split = next((name for name in ("train", "val", "test") if name in data), "")
    identity = f"{data}/{image}/{row.get('annotator_id', 0)}"
    return VideoRecord(identity, name, where, split, media="image", narratives=(narrative,))


def _spoken(caption: str, timed: list) -> tuple[Utterance, ...]:
    words, cursor, lower = [], 0, caption.lower()
    for item in timed:
        spoken = field(item, "utterance")
        start, end = field(item, "start_time", number), field(item, "end_time", number)
        if end < start:
            raise BadRow("an utterance ends before it starts", f"{start:g} to {end:g} s")
        if not isinstance(spoken, str) or not spoken.strip():
            continue
        at = lower.find(spoken.strip().lower(), cursor)
        span = None
        if at >= 0:
            span, cursor = (at, at + len(spoken.strip())), at + len(spoken.strip())
        words.append(Utterance(spoken.strip(), start, end, span))
    return tuple(words)


def _strokes(traces: list, time: Callable[..., float], keyframe: Callable[..., int]) -> tuple[np.ndarray, ...]:
    """One float64 array [n, 4] a stroke: time, x, y, key frame; empty strokes are left out."""
    strokes = []
    for stroke in traces:
        points = [
            (time(p), field(p, "x", number), field(p, "y", number), keyframe(p)) for p in listed(stroke, "a trace")
        ]
        if points:
            strokes.append(np.array(points, np.float64))
    return tuple(strokes)


def _narrative(actor: Any, keyframes: tuple[str, ...]) -> Narrative:
    caption = field(actor, "caption")
    text(caption, "caption")

    def keyframe(index: object) -> int:
        place = integer(index, "the key frame's index")
        if not 0 <= place < len(keyframes):
            raise BadRow("there is no such key frame", f"{place} of {len(keyframes)}")
        return place

    begin = field(actor, "recording_start_time_ms_since_epoch", number)
    selected = tuple(keyframe(i) for i in listed(actor.get("keyframe_selection_indices", []), "indices"))
    strokes = _strokes(
        field(actor, "traces", listed),
        lambda p: (field(p, "time_ms_since_epoch", number) - begin) / 1000,
        lambda p: keyframe(field(p, "kf_idx")),
    )
    words = tuple(_word(item, caption) for item in field(actor, "time_alignment", listed))
    segments = field(actor, "noun_segments", listed)
    pairs = (listed(segment, "a noun segment", 2) for segment in segments)
    nouns = tuple(_characters(first, last, caption) for first, last in pairs)
    return Narrative(caption, words, strokes, field(actor, "actor_name", text), nouns, keyframes, selected)


def _characters(begin: object, end: Any, caption: str) -> tuple[int, int]:
    first, last = integer(begin, "the first character"), integer(end, "the last character")
    if not 0 <= first < last <= len(caption):
        raise BadRow("characters outside the caption", f"{first} to {last} of {len(caption)}")
    return first, last


def _word(item: Any, caption: str) -> Utterance:
    start, end = field(item, "start_ms", number), field(item, "end_ms", number)
    if end < start:
        raise BadRow("a word ends before it starts", f"{start:g} to {end:g} ms")
    place = _characters(field(item, "referenced_word_start_idx"), field(item, "referenced_word_end_idx"), caption)
    word = field(item, "referenced_word", text)
    if caption[slice(*place)] != word:
        raise BadRow("a word is not at its characters of the caption", f"{word!r} at {place}")
    return Utterance(word, start / 1000, end / 1000, place)
