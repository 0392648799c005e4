"""Video Localized Narratives: key frames described actor by actor, by voice and mouse.

One JSON row per video: vidln_id, dataset_id, video_id, keyframe_names, actor_narratives [{actor_name, caption,
keyframe_selection_indices, recording_start_time_ms_since_epoch, traces [[{x, y, time_ms_since_epoch, kf_idx}]],
noun_segments [[begin, end]], time_alignment [{referenced_word, start_ms, end_ms, referenced_word_{start,end}_idx}]}].
"""

from __future__ import annotations

import os
import pathlib

import numpy as np

from vtjax.data.readers.coverage import BadRow, Coverage
from vtjax.data.readers.json_stream import json_lines
from vtjax.data.readers.rows import field, integer, listed, mapping, number, text
from vtjax.data.video_records import Narrative, Utterance, VideoRecord
from vtjax.errors import VtjaxError


def read(
    folder: str | os.PathLike, *, split: str = "", videos: object | None = None
) -> tuple[list[VideoRecord], Coverage]:
    """Reads a .jsonl file, or those of a folder whose name starts with `split` ("OVIS_train", "" for all).

    One record per row with one Narrative per actor ("background" is one of them); rows counted are narratives.
    Times of words and traces are seconds since that actor's recording began: the mouse moves over still key frames,
    so they are no times of the video; column 3 of a trace and Narrative.selected say which key frame was shown.
    """
    folder = pathlib.Path(folder)
    files = [folder] if folder.is_file() else sorted(folder.glob(f"{split}*.jsonl"))
    if not files:
        raise VtjaxError(f"{folder}: no file {split}*.jsonl")
    coverage = Coverage(folder.stem if folder.is_file() else split or "all", "videos", "narratives")
    records = []
    for path in files:
        for where, row in json_lines(path):
            with coverage.entry(where):
                if isinstance(row, ValueError):
                    raise BadRow("not JSON", str(row))
                records.append(_record(where, row, coverage))
    return coverage.finish(records, videos), coverage


def _record(where: str, row: object, coverage: Coverage) -> VideoRecord:
    data = text(field(mapping(row, "the row"), "dataset_id"), "dataset_id")
    video = text(field(row, "video_id"), "video_id")
    keyframes = tuple(text(n, "a key frame's name") for n in listed(field(row, "keyframe_names"), "keyframe_names"))
    narratives = []
    for position, actor in enumerate(listed(field(row, "actor_narratives"), "actor_narratives")):
        with coverage.row(f"{where} narrative {position}"):
            narratives.append(_narrative(actor, keyframes))
    if not narratives:
        raise BadRow("no usable narrative")
    split = data.rpartition("_")[2]
    return VideoRecord(
        f"{data}/{video}/{row.get('vidln_id', '')}", video, where, split, narratives=tuple(narratives)
    )


def _narrative(actor: object, keyframes: tuple[str, ...]) -> Narrative:
    caption = field(actor, "caption")
    text(caption, "caption")
    begin = number(field(actor, "recording_start_time_ms_since_epoch"), "recording_start_time_ms_since_epoch")
    selected = tuple(_keyframe(i, keyframes) for i in listed(actor.get("keyframe_selection_indices", []), "indices"))
    strokes = []
    for stroke in listed(field(actor, "traces"), "traces"):
        points = [
            (
                (number(field(p, "time_ms_since_epoch"), "time_ms_since_epoch") - begin) / 1000,
                number(field(p, "x"), "x"),
                number(field(p, "y"), "y"),
                _keyframe(field(p, "kf_idx"), keyframes),
            )
            for p in listed(stroke, "a trace")
        ]
        if points:
            strokes.append(np.array(points, np.float64))
    words = tuple(_word(item, caption) for item in listed(field(actor, "time_alignment"), "time_alignment"))
    segments = listed(field(actor, "noun_segments"), "noun_segments")
    nouns = tuple(_span(*listed(segment, "a noun segment", 2), caption) for segment in segments)
    return Narrative(
        caption, words, tuple(strokes), text(field(actor, "actor_name"), "actor_name"), nouns, keyframes, selected
    )


def _keyframe(index: object, keyframes: tuple[str, ...]) -> int:
    found = integer(index, "the key frame's index")
    if not 0 <= found < len(keyframes):
        raise BadRow("there is no such key frame", f"{found} of {len(keyframes)}")
    return found


def _span(begin: object, end: object, caption: str) -> tuple[int, int]:
    first, last = integer(begin, "the first character"), integer(end, "the last character")
    if not 0 <= first < last <= len(caption):
        raise BadRow("characters outside the caption", f"{first} to {last} of {len(caption)}")
    return first, last


def _word(item: object, caption: str) -> Utterance:
    start, end = number(field(item, "start_ms"), "start_ms"), number(field(item, "end_ms"), "end_ms")
    if end < start:
        raise BadRow("a word ends before it starts", f"{start:g} to {end:g} ms")
    place = _span(field(item, "referenced_word_start_idx"), field(item, "referenced_word_end_idx"), caption)
    word = text(field(item, "referenced_word"), "referenced_word")
    if caption[slice(*place)] != word:
        raise BadRow("a word is not at its characters of the caption", f"{word!r} at {place}")
    return Utterance(word, start / 1000, end / 1000, place)
