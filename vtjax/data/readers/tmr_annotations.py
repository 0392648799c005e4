"""TMR's annotations.json with its split files: KIT-ML and HumanML3D in one layout.

{keyid: {"path", "duration", "annotations": [{"seg_id", "text", "start", "end"}]}}; seconds of the whole sequence,
whose features lie at {features}/{path}.npy. Rows of a segment: int(20 start) to int(20 end).
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from vtjax.data.motion.clip import FPS, Caption, MotionClip
from vtjax.data.motion.validate import check_features, load_array
from vtjax.data.readers.coverage import Coverage
from vtjax.data.readers.humanml3d import admitted, read_split
from vtjax.data.readers.json_stream import read_json
from vtjax.errors import Problems, VtjaxError


@dataclasses.dataclass(frozen=True)
class Entry:
    """One id: the path of its sequence, its duration in seconds and all its annotations, in seconds of the sequence."""

    key: str
    path: str
    duration: float
    annotations: tuple[Caption, ...]


def load_annotations(path: str | os.PathLike) -> dict[str, Entry]:
    """Reads annotations.json (or the folder that holds it). Raises VtjaxError naming the id that is malformed."""
    path = pathlib.Path(path)
    path = path / "annotations.json" if path.is_dir() else path
    data = read_json(path, "annotations file")
    return {key: _entry(key, value, f"{path}: {key!r}") for key, value in data.items()}


def _entry(key: str, value: dict, where: str) -> Entry:
    try:
        annotations = []
        for index, item in enumerate(value["annotations"]):
            segment_id = item.get("seg_id", f"{key}_{index}")
            if segment_id != f"{key}_{index}":
                raise VtjaxError(f"{where}: annotation {index} has the seg_id {segment_id!r}, not {key}_{index}")
            start, end = float(item["start"]), float(item["end"])
            annotations.append(Caption(item["text"].strip(), (), start, end, index=index))
        return Entry(key, value["path"], float(value["duration"]), tuple(annotations))
    except (KeyError, TypeError, AttributeError) as error:
        raise VtjaxError(f"{where}: path, duration and annotations (text, start, end) are expected: {error}") from None


def select(entries: dict[str, Entry], ids: list[str], split: str, *, problems: Problems) -> list[Entry]:
    """Entries of a split with the annotations TMR admits there; ids left without any are counted and left out."""
    kept = []
    for key in ids:
        if key not in entries:
            problems.add(key, f"listed in {split}, but not annotated")
            continue
        usable = []
        for annotation in entries[key].annotations:
            where = f"{key}_{annotation.index}"
            if not annotation.text:
                problems.add(where, "empty caption")
            elif not annotation.end > annotation.start:
                problems.add(where, "segment ends before it starts")
            elif admitted(split, annotation.end - annotation.start, where, problems):
                usable.append(annotation)
        if usable:
            kept.append(dataclasses.replace(entries[key], annotations=tuple(usable)))
        else:
            problems.add(key, f"no usable {split} caption")
    return kept


def read_tmr(
    root: str | os.PathLike,
    split: str,
    *,
    features: str | os.PathLike | None = None,
    problems: Problems,
    coverage: Coverage | None = None,
) -> Iterator[MotionClip]:
    """Yields the clips of one split of a TMR folder (annotations.json, {split}.txt), features [T, 263] cut to the
    rows its captions cover. features: folder of {path}.npy, by default `root`.
    """
    root = pathlib.Path(root)
    folder = pathlib.Path(features) if features else root
    coverage = Coverage(split) if coverage is None else coverage
    entries = load_annotations(root)
    ids = read_split(root / f"{split}.txt")
    coverage.listed = len(ids)
    coverage.annotated = sum(key in entries for key in ids)
    coverage.rows = sum(len(entries[key].annotations) for key in ids if key in entries)
    for entry in select(entries, ids, split, problems=problems):
        file = folder / f"{entry.path}.npy"
        if not file.is_file():
            problems.add(file, "annotated, but the motion is not on disk")
            continue
        coverage.on_disk += 1
        try:
            rows = load_array(file)
        except VtjaxError as error:
            problems.add(error, "unreadable motion file")
            continue
        if not check_features(rows, str(file), problems=problems):
            continue
        clip = _clip(entry, rows, problems)
        if clip is not None:
            coverage.used += 1
            coverage.rows_used += len(clip.captions)
            yield clip


def _clip(entry: Entry, rows: np.ndarray, problems: Problems) -> MotionClip | None:
    spans = []
    for annotation in entry.annotations:
        begin, end = int(annotation.start * FPS), min(int(annotation.end * FPS), len(rows))
        if end - begin < 1:
            problems.add(f"{entry.key}_{annotation.index}", "segment outside the motion on disk")
            continue
        spans.append((begin, end, annotation))
    if not spans:
        return None
    first, last = min(s[0] for s in spans), max(s[1] for s in spans)
    captions = []
    for begin, end, annotation in spans:
        whole = (begin, end) == (first, last)
        # Whole frames, so that int(20 start) gives back the same rows.
        start, stop = (None, None) if whole else ((begin - first) / FPS, (end - first) / FPS)
        captions.append(dataclasses.replace(annotation, start=start, end=stop))
    return MotionClip(entry.key, rows[first:last].astype(np.float32), tuple(captions))
