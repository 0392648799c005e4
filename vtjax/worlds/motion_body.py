"""The motion world's body: joint angles over time to joint positions, with feet that stay where they stand.

Angles turn a joint's limb about fixed body axes, in radians: x pitch (positive bends the trunk forward and swings a
leg or arm back), y yaw (positive turns to the left), z roll (positive swings a hanging limb to the left).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from vtjax.data.motion import skeleton
from vtjax.data.motion.clip import FPS

HIPS, KNEES, ANKLES = (1, 2), (4, 5), (7, 8)
SHOULDERS, ELBOWS = (16, 17), (18, 19)
SPINE = (3, 6, 9)
NECK = 12
SIDES = (1.0, -1.0)  # left, right: the sign of x, and of yaw and roll that mirror one another

# Directions from parent to joint of a person who stands with hanging arms; lengths are the target skeleton's.
_STANDING = {
    1: (0.6, -0.8, 0), 3: (0, 1, -0.1), 4: (0.05, -1, 0.02), 6: (0, 1, 0.1), 7: (0, -1, -0.04), 9: (0, 1, 0),
    10: (0.15, -0.42, 0.9), 12: (0, 1, -0.1), 13: (0.55, 0.83, 0), 15: (0, 0.8, 0.6), 16: (0.95, -0.2, -0.1),
    18: (0.05, -1, 0), 20: (0, -1, 0.03),
}  # fmt: skip


def _standing_offsets() -> np.ndarray:
    directions = np.zeros((skeleton.JOINTS, 3))
    for joint, direction in _STANDING.items():
        directions[joint] = direction
        if joint in skeleton.LEFT:
            directions[skeleton.MIRROR[joint]] = np.multiply(direction, (-1, 1, 1))
    norms = np.linalg.norm(directions, axis=-1, keepdims=True)
    return directions / np.maximum(norms, 1e-9) * skeleton.TARGET_BONE_LENGTHS[:, None].astype(np.float64)


STANDING_OFFSETS = _standing_offsets()  # float64 [22, 3], metres
_FEET = skeleton.LEFT_FEET + skeleton.RIGHT_FEET
_GRIP = 0.01  # metres of height over which a foot loses its hold on the ground
# Joints whose parents are all placed before them, one level of the tree at a time.
_DEPTH = [0] * skeleton.JOINTS
for _parent, _child in skeleton.EDGES:
    _DEPTH[_child] = _DEPTH[_parent] + 1
_LEVELS = [np.flatnonzero(np.array(_DEPTH) == depth) for depth in range(1, max(_DEPTH) + 1)]


@dataclasses.dataclass
class Pose:
    """What an action sets, frame by frame, on top of standing still.

    angles: float64 [T, 22, 3] radians; row 0 tilts the pelvis. yaw: [T] heading, radians, positive to the left.
    lift: [T] height of the lowest joint above the ground, metres. travel: [T, 2] velocity (left, forward) in metres
    per second that is added to what the feet on the ground give. light: [T, 2] metres by which the left and the right
    foot count as higher than they are when it is decided which foot carries the body.
    """

    angles: np.ndarray
    yaw: np.ndarray
    lift: np.ndarray
    travel: np.ndarray
    light: np.ndarray

    @classmethod
    def still(cls, frames: int) -> Pose:
        zeros = np.zeros
        return cls(zeros((frames, skeleton.JOINTS, 3)), zeros(frames), zeros(frames), zeros((frames, 2)),
                   zeros((frames, 2)))  # fmt: skip


def _matrices(angles: np.ndarray) -> np.ndarray:
    """Ry Rx Rz of angles [..., 3]: float64 [..., 3, 3]."""
    (sx, sy, sz), (cx, cy, cz) = np.moveaxis(np.sin(angles), -1, 0), np.moveaxis(np.cos(angles), -1, 0)
    rows = (
        cy * cz + sy * sx * sz, sy * sx * cz - cy * sz, sy * cx,
        cx * sz, cx * cz, -sx,
        cy * sx * sz - sy * cz, sy * sz + cy * sx * cz, cy * cx,
    )  # fmt: skip
    return np.stack(rows, axis=-1).reshape(*angles.shape[:-1], 3, 3)


def _rotate_yaw(vectors: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Vectors [T, ..., 3] turned about Y by yaw [T]."""
    shape = (-1,) + (1,) * (vectors.ndim - 2)
    c, s = np.cos(yaw).reshape(shape), np.sin(yaw).reshape(shape)
    x, y, z = np.moveaxis(vectors, -1, 0)
    return np.stack([c * x + s * z, y, c * z - s * x], axis=-1)


def pose_to_joints(pose: Pose, offsets: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Joint positions float64 [T, 22, 3], metres, Y up; each segment begins at the origin.

    offsets: [22, 3] bone vectors of the person standing. starts: first frame of each segment that `pose` holds; a
    segment's path depends on no other segment. Feet that carry the body stay in place: the body's horizontal step is
    what keeps them there, so walking moves at the speed that its strides give.
    """
    turns = _matrices(pose.angles)
    joints = np.zeros((len(pose.yaw), skeleton.JOINTS, 3))
    parents = np.array(skeleton.PARENTS)
    for level in _LEVELS:
        above = parents[level]
        joints[:, level] = joints[:, above] + np.einsum("tjab,jb->tja", turns[:, above], offsets[level])
        turns[:, level] = turns[:, above] @ turns[:, level]
    joints = _rotate_yaw(joints, pose.yaw)
    joints[..., 1] += (pose.lift - joints[..., 1].min(axis=1))[:, None]

    feet = joints[:, _FEET]
    height = feet[..., 1] + np.repeat(pose.light, 2, axis=1)
    load = np.exp(-(height - height.min(axis=1, keepdims=True)) / _GRIP)
    load = load[1:] + load[:-1]
    steps = np.zeros((len(joints), 3))
    steps[1:] = -np.sum((feet[1:] - feet[:-1]) * load[..., None], axis=1) / load.sum(axis=1)[:, None]
    push = np.stack([pose.travel[:, 0], np.zeros(len(joints)), pose.travel[:, 1]], axis=-1) / FPS
    steps += _rotate_yaw(push, pose.yaw)
    steps[:, 1] = 0
    steps[starts] = 0
    path = np.cumsum(steps, axis=0)
    lengths = np.diff([*starts, len(path)])
    path -= np.repeat(path[starts], lengths, axis=0)
    return joints + path[:, None]
