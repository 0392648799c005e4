"""Joins motion segments into one motion without a visible seam.

Each next segment is moved rigidly (turned about Y, shifted in xz) so that its root continues where the one before it
was going; what is left of the difference in pose and speed is spread over a few frames on both sides of the seam.
Bone directions are turned on the sphere and bones keep their lengths, so limbs cannot shrink as in a cross-fade.
The number of frames is the sum of the segments' in every order, so that length does not tell one order from another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vtjax.data.motion import quaternion, skeleton
from vtjax.data.motion.features import facing
from vtjax.data.motion.validate import as_joints
from vtjax.errors import VtjaxError

_MAX_TURN = 0.5  # radians per frame; faster is a jump of a facing direction that is nearly undefined, not a turn


def _ends(tracks: np.ndarray, last: bool) -> tuple[np.ndarray, np.ndarray]:
    """Value half a frame beyond the last (or before the first) frame of `tracks` [T, ...], and the velocity there."""
    if len(tracks) < 2:
        return tracks[0], np.zeros_like(tracks[0])
    velocity = tracks[-1] - tracks[-2] if last else tracks[1] - tracks[0]
    return (tracks[-1] + velocity / 2 if last else tracks[0] - velocity / 2), velocity


def _yaw_end(joints: np.ndarray, last: bool) -> float:
    """Heading angle (radians about Y from +Z) half a frame beyond the end of `joints`."""
    forward = facing(joints[-2:] if last else joints[:2])
    yaw = np.unwrap(np.arctan2(forward[:, 0], forward[:, 2]))
    nearest = yaw[-1] if last else yaw[0]
    return nearest + np.clip(_ends(yaw, last)[0] - nearest, -_MAX_TURN / 2, _MAX_TURN / 2)


def _continue_from(before: np.ndarray, segment: np.ndarray) -> np.ndarray:
    """`segment` turned about Y and shifted in xz so that heading and root path go on from the end of `before`."""
    turn = _yaw_end(before, last=True) - _yaw_end(segment, last=False)
    segment = quaternion.rotate(quaternion.about_y(np.asarray(turn / 2)), segment)
    shift = _ends(before[-2:, 0], last=True)[0] - _ends(segment[:2, 0], last=False)[0]
    return segment + shift * [1, 0, 1]


def _turn_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rotation vectors [..., 3] of the shortest turn from unit vectors `a` to `b`; a half turn where opposite."""
    axis, cosine = quaternion.cross(a, b), np.sum(a * b, axis=-1, keepdims=True)
    sine = np.sqrt(np.sum(axis * axis, axis=-1, keepdims=True))
    opposite = (sine < 1e-9) & (cosine < 0)
    axis = np.where(opposite, quaternion.perpendicular(a), axis / np.maximum(sine, 1e-12))
    return axis * np.arctan2(sine, cosine)


def _turned(vectors: np.ndarray, turns: np.ndarray) -> np.ndarray:
    return quaternion.rotate(quaternion.from_rotation_vector(turns), vectors)


def _bone_ends(directions: np.ndarray, last: bool) -> tuple[np.ndarray, np.ndarray]:
    """As `_ends` for unit vectors [T, 22, 3]; the velocity is a rotation vector."""
    if len(directions) < 2:
        return directions[0], np.zeros_like(directions[0])
    first, second = directions[-2:] if last else directions[:2]
    velocity = _turn_between(first, second)
    return (_turned(second, velocity / 2) if last else _turned(first, -velocity / 2)), velocity


def _blend(before: np.ndarray, after: np.ndarray, blend: int) -> None:
    """Makes pose and speed continuous from `before` to `after`, in place, over `blend` frames around the seam.

    With x the distance to the seam in frames and h half the window, side A gets +d s(x) + k p(x) and side B
    -d s(x) + k p(x): d the difference in pose at the seam, s a smoothstep from 1/2 at the seam to 0 at h; k the
    difference in velocity, p = (h - x)^2 / 4h, whose kink at the seam cancels k. Both are flat at h. Velocities are
    steps of one frame, so acceleration across the seam is smoothed too: a motion cut and put back is not the same.
    """
    half = min(blend / 2, len(before), len(after))
    frames = int(half)
    if frames == 0:
        return
    x = np.arange(frames) + 0.5
    rest = (half - x) / (2 * half)
    spread = 3 * rest**2 - 2 * rest**3
    kink = (half - x) ** 2 / (4 * half)

    tail = before[: -frames - 1 : -1]  # views, both running away from the seam
    head = after[:frames]
    sides = []
    for joints in (before[-2:], after[:2], tail, head):
        bones = skeleton.bones_of(joints)
        lengths = np.sqrt(np.sum(bones * bones, axis=-1, keepdims=True))
        directions = np.where(lengths > 1e-8, bones / np.maximum(lengths, 1e-8), skeleton.REST_DIRECTIONS)
        sides.append((directions, lengths, joints[..., 1].min(axis=-1)))
    end, start, *windows = sides

    pose_a, turning_a = _bone_ends(end[0], last=True)
    pose_b, turning_b = _bone_ends(start[0], last=False)
    pose_gap = _turn_between(pose_a, pose_b)
    turning_gap = _turned(turning_b, -pose_gap / 2) - _turned(turning_a, pose_gap / 2)  # both as felt at the seam
    length_gap = start[1][0] - end[1][-1]
    # The height that is kept continuous is the lowest joint's, so that feet neither sink nor float while legs bend.
    low_a, sinking_a = _ends(end[2], last=True)
    low_b, sinking_b = _ends(start[2], last=False)
    ground = min(windows[0][2].min(), windows[1][2].min())
    speed_gap = _ends(after[:2, 0], last=False)[1] - _ends(before[-2:, 0], last=True)[1]

    for sign, joints, (directions, lengths, lowest) in zip((1, -1), (tail, head), windows, strict=True):
        share = sign * spread
        share_each, kink_each = share[:, None, None], kink[:, None, None]
        directions = _turned(_turned(directions, share_each * pose_gap), kink_each * turning_gap)
        bones = directions * (lengths + share_each * length_gap)
        low = np.maximum(lowest + share * (low_b - low_a) + kink * (sinking_b - sinking_a), ground)
        root = joints[:, 0] + kink[:, None] * speed_gap
        root[:, 1] = 0
        blended = skeleton.joints_from(root, bones)
        blended[..., 1] += (low - blended[..., 1].min(axis=-1))[:, None]
        joints[:] = blended


def stitch(segments: Sequence[np.ndarray], *, blend: int = 8) -> tuple[np.ndarray, tuple[tuple[int, int], ...]]:
    """Segments played one after the other as one motion.

    segments: float [T_i, 22, 3] each, T_i >= 1, metres, Y up, all on the same floor height; they may stand and face
    anywhere. blend: frames around each seam over which the change of pose is spread, half on each side (fewer where a
    segment is shorter); 0 only moves the segments.
    Returns joints float32 [sum T_i, 22, 3] and the frame range [start, end) of each segment. Segments with different
    skeletons change bone lengths at the seam: pass them through `preprocess_joints` first.
    Raises VtjaxError for no segments, a negative blend, or segments that `as_joints` refuses.
    """
    if not len(segments):
        raise VtjaxError("stitch got no segments: at least one is needed")
    if blend < 0:
        raise VtjaxError(f"blend is {blend}: expected a number of frames, 0 or more")
    placed: list[np.ndarray] = []
    for index, segment in enumerate(segments):
        segment = as_joints(segment, where=f"segment {index}", min_frames=1).astype(np.float64)
        if placed:
            segment = _continue_from(placed[-1], segment)
            _blend(placed[-1], segment, blend)
        placed.append(segment)
    ends = np.cumsum([len(segment) for segment in placed]).tolist()
    bounds = tuple(zip([0, *ends[:-1]], ends, strict=True))
    return np.concatenate(placed).astype(np.float32), bounds
