"""HumanML3D's folder: new_joint_vecs/{id}.npy [T, 263], texts/{id}.txt, {split}.txt, Guo et al., CVPR 2022."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from vtjax.data.motion.clip import FPS, Caption, MotionClip
from vtjax.data.motion.validate import check_features, load_array
from vtjax.data.readers.coverage import Coverage
from vtjax.errors import Problems, VtjaxError

SPLITS = ("train", "val", "test")
KNOWN_BAD = {"007975": "NaN after processing", "M007975": "NaN after processing"}
SECONDS = (2.0, 10.0)  # TMR's admitted caption lengths in train and val; its test is never filtered


def segment(start: float, end: float) -> tuple[float | None, float | None]:
    """HumanML3D's (f, t) in seconds: nan is 0, reversed bounds are exchanged, equal ones mean the whole clip."""
    start, end = (0.0 if math.isnan(v) else v for v in (start, end))
    if start == end:
        return None, None
    return (start, end) if start < end else (end, start)


def parse_line(line: str, index: int, where: str) -> Caption:
    """Reads `caption#word/POS ...#start#end`, line `index` of its file. Raises VtjaxError, naming `where`."""
    fields = line.rstrip("\n").rsplit("#", 3)
    if len(fields) != 4:
        raise VtjaxError(f"{where}: 'caption#tokens#start#end' is expected, found {line.strip()[:60]!r}")
    try:
        start, end = float(fields[2]), float(fields[3])
    except ValueError:
        raise VtjaxError(f"{where}: start and end must be seconds, found {fields[2]!r} and {fields[3]!r}") from None
    if not fields[0].strip():
        raise VtjaxError(f"{where}: empty caption")
    if min(start, end) < 0:
        raise VtjaxError(f"{where}: negative time {min(start, end):g}")
    return Caption(fields[0].strip(), (), *segment(start, end), index=index)


def read_texts(path: str | os.PathLike, problems: Problems | None = None) -> list[Caption]:
    """Every usable caption line of texts/{id}.txt; the others are counted, or raised without `problems`."""
    lines, index = [], 0
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                lines.append(parse_line(line, index, f"{path}:{number}"))
            except VtjaxError as error:
                if problems is None:
                    raise
                empty = line.startswith("#")
                problems.add(error, "empty caption" if empty else "malformed caption line")
            index += 1
    return lines


def read_split(path: str | os.PathLike) -> list[str]:
    """Ids of a split file, one per line. Raises VtjaxError where it is missing, empty or lists an id twice."""
    try:
        ids = pathlib.Path(path).read_text(encoding="utf-8").split()
    except FileNotFoundError:
        raise VtjaxError(f"{path}: no such split file") from None
    if not ids:
        raise VtjaxError(f"{path}: the split file is empty")
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise VtjaxError(f"{path}: id {twice!r} is listed twice")
    return ids


def admitted(split: str, seconds: float, where: str, problems: Problems) -> bool:
    """TMR's rule: captions of train and val last 2 to 10 s, the test is never filtered; others are counted."""
    inside = "test" in split or SECONDS[0] <= seconds <= SECONDS[1]
    if not inside:
        problems.add(where, f"{split} caption outside {SECONDS[0]:g} to {SECONDS[1]:g} s")
    return inside


def read_humanml3d(
    root: str | os.PathLike,
    split: str,
    *,
    problems: Problems,
    coverage: Coverage | None = None,
) -> Iterator[MotionClip]:
    """Yields the clips of one split; captions keep their segments and their index in the text file.

    What is left out is counted in `problems`, what is found in `coverage`.
    """
    root = pathlib.Path(root)
    coverage = Coverage(split) if coverage is None else coverage
    if not (root / "new_joint_vecs").is_dir():
        raise VtjaxError(f"{root}: no folder new_joint_vecs; a HumanML3D folder has new_joint_vecs, texts and splits")
    for key in read_split(root / f"{split}.txt"):
        coverage.listed += 1
        motion, text = root / "new_joint_vecs" / f"{key}.npy", root / "texts" / f"{key}.txt"
        coverage.annotated += text.is_file()
        coverage.on_disk += motion.is_file()
        missing = [p for p in (motion, text) if not p.is_file()]
        if missing:
            problems.add(missing[0], f"listed in {split}, but its {missing[0].parent.name} file is missing")
            continue
        lines = read_texts(text, problems)
        coverage.rows += len(lines)
        try:
            features = load_array(motion)
        except VtjaxError as error:
            problems.add(error, "unreadable motion file")
            continue
        if key in KNOWN_BAD and not np.isfinite(features).all():
            problems.add(motion, f"known bad file of HumanML3D: {KNOWN_BAD[key]}")
            continue
        if not check_features(features, str(motion), problems=problems):
            continue
        captions = tuple(_captions(key, lines, len(features), split, problems))
        if not captions:
            problems.add(text, "no usable caption")
            continue
        coverage.used += 1
        coverage.rows_used += len(captions)
        yield MotionClip(key, features.astype(np.float32), captions)


def _captions(key, lines, frames, split, problems) -> Iterator[Caption]:
    # T joints give T-1 feature rows, and the published durations count the joints.
    duration = (frames + 1) / FPS
    for line in lines:
        start, end = line.start, line.end
        if start is not None:
            end = min(end, duration)
            if int(end * FPS) - int(start * FPS) < 1 or int(start * FPS) >= frames:
                problems.add(f"{key} caption {line.index} at {line.start:g} to {line.end:g} s", "empty segment")
                continue
        length = duration if start is None else end - start
        if admitted(split, length, f"{key} caption {line.index}", problems):
            yield dataclasses.replace(line, end=end)
