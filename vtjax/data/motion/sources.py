"""From recorded joints to clips: one skeleton, unit and frame rate; splits by source; windows; mirrored twins."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from vtjax.data.motion import joint_map
from vtjax.data.motion.clip import FPS, Caption, MotionClip
from vtjax.data.motion.features import joints_to_features, preprocess_joints
from vtjax.data.motion.mirror import mirror_features, mirror_text
from vtjax.data.motion.resample import resample
from vtjax.data.motion.stitched_pairs import Source, clause_of
from vtjax.data.motion.validate import check_joints, guess_unit, scale_warning
from vtjax.data.readers import RawMotion
from vtjax.errors import Problems, VtjaxError


def to_source(raw: RawMotion, options, problems: Problems) -> tuple[Source | None, str]:
    """A recorded motion as a Source and a note on what was assumed or looks odd; None where it was left out.

    options: the fields joint_map, up, scale, min_frames of `prepare.Options`.
    """
    if not check_joints(raw.joints, raw.where, fps=raw.fps, joint_count=None, problems=problems):
        return None, ""
    try:
        joints = joint_map.to_smpl22(raw.joints, raw.names, options.joint_map, raw.where)
    except VtjaxError as error:
        problems.add(error, "no joint map fits")
        return None, ""
    if options.up == "z":
        joints = joints[..., [0, 2, 1]] * np.array([1, 1, -1], np.float32)
    if not check_joints(joints, raw.where, problems=problems):
        return None, ""
    note = ""
    if options.scale == "auto":
        unit, metres = guess_unit(joints)
        note = "" if metres == 1.0 else f"read as {unit}"
    else:
        metres = _number(options.scale)
    joints = resample(joints * np.float32(metres), raw.fps)
    if not check_joints(joints, raw.where, min_frames=options.min_frames, problems=problems):
        return None, ""
    if not _computable(joints, raw.where, problems):
        return None, ""
    clause = raw.sentence or (clause_of(raw.captions[0]) if raw.captions else "")
    captions = tuple(Caption(text) for text in raw.captions)
    return Source(raw.key, joints, captions, raw.label, clause), scale_warning(joints) or note


def _computable(joints: np.ndarray, where: str, problems: Problems) -> bool:
    """False, and counted, where features cannot be computed (coinciding joints, no facing direction)."""
    try:
        preprocess_joints(joints)
    except VtjaxError as error:
        problems.add(f"{where}: {error}", "no features can be computed from the joints")
        return False
    return True


def _number(scale: str) -> float:
    try:
        value = float(scale)
    except ValueError:
        value = math.nan
    if not value > 0:
        raise VtjaxError(f"--scale={scale}: 'auto' or metres per unit is expected, for centimetres 0.01")
    return value


def assign_splits(
    sources: Sequence[Source], split_by: str, holdout: float, validation: float = 0.0, seed: int = 0
) -> list[Source]:
    """Sources with their splits: "test" and "val" units are drawn within each label, whose first unit stays in train.

    split_by: "sequence", "subject", "none" (all are train), or a regular expression whose first group is the unit.
    """
    if split_by == "none" or holdout + validation == 0:
        return [dataclasses.replace(s, split="train") for s in sources]
    unit_of = _unit(split_by)
    units: dict[str, list[Source]] = {}
    for source in sources:
        units.setdefault(unit_of(source.key), []).append(source)
    by_label: dict[str, list[str]] = {}
    for unit in sorted(units):
        by_label.setdefault(units[unit][0].label, []).append(unit)
    rng = np.random.default_rng(seed)
    split_of = dict.fromkeys(units, "train")
    for label in sorted(by_label):
        names = by_label[label]
        order = [names[i] for i in rng.permutation(len(names))]
        test = min(round(len(order) * holdout), len(order) - 1)
        val = min(round(len(order) * validation), len(order) - 1 - test)
        split_of |= dict.fromkeys(order[:test], "test") | dict.fromkeys(order[test : test + val], "val")
    return [dataclasses.replace(s, split=split_of[unit_of(s.key)]) for s in sources]


def _unit(split_by: str) -> Callable[[str], str]:
    if split_by == "sequence":
        return lambda key: key
    pattern = r"([^_/]+)_.*" if split_by == "subject" else split_by
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise VtjaxError(f"--split_by={split_by}: not a regular expression: {error}") from None
    if compiled.groups < 1:
        raise VtjaxError(
            f"--split_by={split_by}: sequence, subject, none, or a regular expression with a group is expected"
        )

    def unit(key: str) -> str:
        match = compiled.fullmatch(key)
        return match[1] if match else key

    return unit


def source_clips(
    source: Source,
    window_seconds: float,
    max_frames: int | None,
) -> Iterator[MotionClip]:
    """The clip of a source, or its even windows "key_w0", "key_w1" of at most `window_seconds`, which share its
    captions. max_frames: longer ones are cut too."""
    rows = len(source.joints) - 1
    limit = min(int(window_seconds * FPS) or rows, max_frames or rows)
    parts = math.ceil(rows / limit)
    edges = np.linspace(0, rows, parts + 1).round().astype(int)
    for part, (begin, end) in enumerate(itertools.pairwise(edges)):
        key = source.key if parts == 1 else f"{source.key}_w{part}"
        yield MotionClip(key, joints_to_features(source.joints[begin : end + 1]), source.captions)


def mirrored(clip: MotionClip) -> MotionClip:
    """The left-right mirrored twin "M<key>": features, captions, events and swapped motion."""

    def caption(c: Caption) -> Caption:
        events = tuple(map(mirror_text, c.events))
        return dataclasses.replace(c, text=mirror_text(c.text), events=events, sequence=mirror_text(c.sequence))

    return dataclasses.replace(
        clip,
        key=f"M{clip.key}",
        features=mirror_features(clip.features),
        captions=tuple(map(caption, clip.captions)),
        swapped=None if clip.swapped is None else mirror_features(clip.swapped),
    )
