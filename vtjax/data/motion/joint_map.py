"""Named maps from other skeletons to the 22 joints of SMPL's order, by joint name.

Each target joint is one source joint or a weighted mean of several: a skeleton that lacks a vertebra or a collar gets
one between its neighbours, at the fraction of the way where SMPL's reference skeleton has it. Bone lengths do not
matter, since the features put every motion on one skeleton; directions do, so no two joints may coincide.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vtjax.data.motion import skeleton
from vtjax.data.readers.json_stream import read_json
from vtjax.errors import VtjaxError, nearest

SMPL22 = skeleton.JOINT_NAMES

BANDAI21 = (
    "Hips", "Spine", "Chest", "Neck", "Head", "Shoulder_L", "UpperArm_L", "LowerArm_L", "Hand_L", "Shoulder_R",
    "UpperArm_R", "LowerArm_R", "Hand_R", "UpperLeg_L", "LowerLeg_L", "Foot_L", "Toes_L", "UpperLeg_R", "LowerLeg_R",
    "Foot_R", "Toes_R",
)  # fmt: skip

Weights = tuple[tuple[str, float], ...]


@dataclasses.dataclass(frozen=True)
class JointMap:
    """sources[j] lists (source joint name, weight) for SMPL joint j; order: the names an unnamed array is read by."""

    name: str
    sources: tuple[Weights, ...]
    order: tuple[str, ...] = ()

    @property
    def needs(self) -> frozenset[str]:
        """Source joints the map reads."""
        return frozenset(name for weights in self.sources for name, _ in weights)

    def matrix(self, names: Sequence[str] | None, where: str = "joints") -> np.ndarray:
        """float64 [22, J]: the map as weights over the source joints `names` (or `order` where None)."""
        names = tuple(plain(n) for n in names) if names is not None else self.order
        if not names:
            raise VtjaxError(f"{where}: the joint map {self.name!r} needs joint names, and the file has none")
        missing = sorted(self.needs - set(names))
        if missing:
            raise VtjaxError(
                f"{where}: the joint map {self.name!r} reads joint {missing[0]!r}, which the file lacks "
                f"({nearest(missing[0], names)}); {len(missing)} of its {len(self.needs)} joints are missing"
            )
        matrix = np.zeros((len(SMPL22), len(names)))
        for row, weights in enumerate(self.sources):
            for name, weight in weights:
                matrix[row, names.index(name)] += weight
        return matrix

    def apply(self, joints: np.ndarray, names: Sequence[str] | None = None, where: str = "joints") -> np.ndarray:
        """joints [T, J, 3] with joint names (or in the map's own order) -> float32 [T, 22, 3]."""
        matrix = self.matrix(names, where)
        if joints.ndim != 3 or joints.shape[1] != matrix.shape[1]:
            count = joints.shape[1] if joints.ndim == 3 else "no"
            raise VtjaxError(
                f"{where}: wrong joint count: the joint map {self.name!r} reads {matrix.shape[1]} joints, "
                f"the array has {count} (shape {joints.shape})"
            )
        return np.einsum("js,tsc->tjc", matrix, joints.astype(np.float64)).astype(np.float32)


def plain(name: str) -> str:
    """A joint name without the name-space prefix of exporters: 'mixamorig:Hips' -> 'Hips'."""
    name = name.split(":")[-1]
    return name.removeprefix("mixamorig_")


def _smpl_name(name: str) -> str:
    name = plain(name).lower()
    for short, long in (("l_", "left_"), ("r_", "right_")):
        if name.startswith(short):
            return long + name[2:]
    return name


def _build(name: str, entries: Mapping[str, str | Weights], order: Sequence[str] = ()) -> JointMap:
    sources = tuple(((entry, 1.0),) if isinstance(entry := entries[joint], str) else entry for joint in SMPL22)
    return JointMap(name, sources, tuple(order))


_LEFT = ("left_hip", "left_knee", "left_ankle", "left_foot", "left_collar", "left_shoulder", "left_elbow", "left_wrist")


def _sided(
    name: str, trunk: Mapping[str, str | Weights], left: Sequence[str | Weights], swap: tuple[str, str],
    order: Sequence[str] = (),
) -> JointMap:  # fmt: skip
    """A map from the sources of the trunk and of the left side (_LEFT); `swap` makes a left source the right one."""
    entries = dict(trunk)
    for joint, entry in zip(_LEFT, left, strict=True):
        right = entry.replace(*swap) if isinstance(entry, str) else tuple((n.replace(*swap), w) for n, w in entry)
        entries |= {joint: entry, "right_" + joint.removeprefix("left_"): right}
    return _build(name, entries, order)


_LEG = ("LeftUpLeg", "LeftLeg", "LeftFoot", "LeftToeBase")
_ARM = ("LeftArm", "LeftForeArm", "LeftHand")
MAPS: dict[str, JointMap] = {
    "smpl22": _build("smpl22", {j: j for j in SMPL22}, SMPL22),
    "bandai21": _sided(
        "bandai21",
        {
            "pelvis": "Hips",
            "spine1": (("Hips", 0.38), ("Spine", 0.62)),
            "spine2": (("Spine", 0.45), ("Chest", 0.55)),
            "spine3": "Chest",
            "neck": "Neck",
            "head": "Head",
        },
        ("UpperLeg_L", "LowerLeg_L", "Foot_L", "Toes_L", "Shoulder_L", "UpperArm_L", "LowerArm_L", "Hand_L"),
        ("_L", "_R"),
        BANDAI21,
    ),
    # LowerBack, LHipJoint and Neck sit on their parents in CMU's skeleton, and so do the collars: none can be read.
    "cmu_bvh": _sided(
        "cmu_bvh",
        {
            "pelvis": "Hips",
            "spine1": (("Hips", 0.27), ("Spine", 0.73)),
            "spine2": (("Spine", 0.5), ("Spine1", 0.5)),
            "spine3": "Spine1",
            "neck": "Neck1",
            "head": "Head",
        },
        (*_LEG, (("Spine1", 0.45), ("Neck1", 0.45), ("LeftArm", 0.10)), *_ARM),
        ("Left", "Right"),
    ),
    "mixamo": _sided(
        "mixamo",
        {"pelvis": "Hips", "spine1": "Spine", "spine2": "Spine1", "spine3": "Spine2", "neck": "Neck", "head": "Head"},
        (*_LEG, "LeftShoulder", *_ARM),
        ("Left", "Right"),
    ),
}
# A skeleton with both Neck1 and Spine2 would fit two maps; the more telling names come first.
_AUTO = ("bandai21", "cmu_bvh", "mixamo")


def to_smpl22(
    joints: np.ndarray, names: Sequence[str] | None = None, joint_map: str = "auto", where: str = "joints"
) -> np.ndarray:
    """joints [T, J, 3] -> float32 [T, 22, 3] in SMPL order.

    joint_map: a name of MAPS, a path to a JSON map, or "auto": by joint names, or 22 unnamed joints as they are.
    """
    return find_map(joint_map, names, joints.shape[1] if joints.ndim == 3 else 0, where).apply(
        joints, _known_names(names), where
    )


def _known_names(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Names in SMPL's spelling where they are SMPL's joints in any order and spelling, else as they are."""
    if names is None:
        return None
    spelled = tuple(_smpl_name(n) for n in names)
    return spelled if set(SMPL22) <= set(spelled) else tuple(names)


def find_map(joint_map: str, names: Sequence[str] | None, count: int, where: str = "joints") -> JointMap:
    """The JointMap that `joint_map` names for a skeleton of `count` joints with these names."""
    if joint_map in MAPS:
        return MAPS[joint_map]
    if joint_map != "auto":
        if joint_map.endswith(".json"):
            return load_map(joint_map)
        raise VtjaxError(f"unknown joint map {joint_map!r}: {nearest(joint_map, [*MAPS, 'auto'])} or a .json file")
    known = ", ".join(MAPS)
    if names is None:
        if count == len(SMPL22):
            return MAPS["smpl22"]
        raise VtjaxError(
            f"{where}: wrong joint count: {count} joints without names, 22 in SMPL order are expected; "
            f"name a joint map ({known}, or a .json file)"
        )
    present = {plain(n) for n in _known_names(names)}
    for name in ("smpl22", *_AUTO):
        if MAPS[name].needs <= present:
            return MAPS[name]
    closest = max(_AUTO, key=lambda name: len(MAPS[name].needs & present) / len(MAPS[name].needs))
    missing = sorted(MAPS[closest].needs - present)
    raise VtjaxError(
        f"{where}: no named joint map fits these {count} joints; closest is {closest!r}, which also reads "
        f"{', '.join(missing[:5])}; pass --joint_map with one of {known}, or a .json file"
    )


def load_map(path: str | os.PathLike) -> JointMap:
    """Reads a JSON joint map: {SMPL joint: source joint, or {source joint: weight}}; all 22 joints are required."""
    path = pathlib.Path(path)
    data = read_json(path, "joint map file")
    if not isinstance(data, dict):
        raise VtjaxError(f"{path}: a joint map is an object from SMPL joint to source joint")
    spelled = {_smpl_name(joint): entry for joint, entry in data.items()}
    for joint in spelled:
        if joint not in SMPL22:
            raise VtjaxError(f"{path}: {joint!r} is not one of the 22 joints: {nearest(joint, SMPL22)}")
    missing = [j for j in SMPL22 if j not in spelled]
    if missing:
        raise VtjaxError(f"{path}: {len(missing)} of 22 joints are missing: {', '.join(missing)}")
    return _build(path.stem, {joint: _entry(joint, entry, path) for joint, entry in spelled.items()})


def _entry(joint: str, entry: Any, path: pathlib.Path) -> str | Weights:
    if isinstance(entry, str):
        return plain(entry)
    pairs = list(entry.items()) if isinstance(entry, dict) else entry
    try:
        weights = tuple((plain(str(name)), float(weight)) for name, weight in pairs)
    except (TypeError, ValueError):
        raise VtjaxError(f"{path}: {joint}: a source joint, or source joints with weights, is expected") from None
    total = sum(weight for _, weight in weights)
    if abs(total - 1) > 1e-3:
        raise VtjaxError(f"{path}: {joint}: the weights sum to {total:g}, they must sum to 1")
    return weights
