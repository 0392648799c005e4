"""HumanML3D's 263 motion features from 22 joint positions, and back (Guo et al., CVPR 2022).

A row describes frame t and the step to frame t + 1, in a frame of reference that follows the root's position and
smoothed heading, so that it does not depend on where the body stands or which way it faces.
"""

from __future__ import annotations

import types

import numpy as np
from scipy.ndimage import gaussian_filter1d

from vtjax.data.motion import quaternion, skeleton
from vtjax.data.motion.clip import FEATURES
from vtjax.data.motion.validate import as_features, as_joints
from vtjax.errors import VtjaxError

FEATURE_BLOCKS = types.MappingProxyType(
    {
        "root_yaw_velocity": slice(0, 1),  # half-angle, radians per frame
        "root_velocity": slice(1, 3),  # x, z in the root's frame, metres per frame
        "root_height": slice(3, 4),  # metres
        "joint_positions": slice(4, 67),  # joints 1..21, root-local, height above the floor
        "joint_rotations": slice(67, 193),  # joints 1..21, two matrix columns each
        "joint_velocities": slice(193, 259),  # joints 0..21, root-local, metres per frame
        "foot_contacts": slice(259, 263),  # left ankle, left foot, right ankle, right foot
    }
)

_FORWARD = np.array([0, 0, 1], np.float32)
_FACING_SIGMA = 20.0  # frames


def facing(joints: np.ndarray, *, compat: bool = False, smooth: bool = False) -> np.ndarray:
    """Horizontal unit vectors [T, 3] in which the body of `joints` [T, 22, 3] faces.

    `compat` subtracts the hips' direction instead of adding it, as the reference code does. `smooth` filters along
    time (Gaussian, sigma 20 frames, cut at 4 sigma, edges repeated). VtjaxError where the direction is undefined.
    """
    hips = joints[:, skeleton.RIGHT_HIP] - joints[:, skeleton.LEFT_HIP]
    shoulders = joints[:, skeleton.RIGHT_SHOULDER] - joints[:, skeleton.LEFT_SHOULDER]
    across = quaternion.normalize(shoulders - hips if compat else shoulders + hips)
    forward = np.stack([across[:, 2], np.zeros_like(across[:, 0]), -across[:, 0]], axis=-1)  # up x across
    if smooth:
        forward = gaussian_filter1d(forward, _FACING_SIGMA, axis=0, mode="nearest", truncate=4.0)
    length = np.sqrt(np.sum(forward * forward, axis=-1, keepdims=True))
    if length.min() < 1e-6:
        raise VtjaxError(
            f"the facing direction is undefined at frame {int(length.argmin())}: the hips and shoulders have no "
            "left-right extent in the horizontal plane. Check that Y is up and the joints are in SMPL order"
        )
    return forward / length


def retarget(joints: np.ndarray) -> np.ndarray:
    """Joints [T, 22, 3] with the bone directions kept and the target skeleton's bone lengths (step 1).

    Equals inverse, then forward kinematics: an unsmoothed rotation takes the rest direction of a bone to its
    direction, whatever the root's rotation. The root path is scaled by the ratio of leg lengths.
    """
    bones = skeleton.bones_of(joints)
    lengths = np.sqrt(np.sum(bones * bones, axis=-1))
    shortest = lengths[:, 1:].min(axis=0)
    if shortest.min() < 1e-8:
        joint = int(shortest.argmin()) + 1
        raise VtjaxError(
            f"the bone from {skeleton.JOINT_NAMES[skeleton.PARENTS[joint]]} to {skeleton.JOINT_NAMES[joint]} has no "
            f"length at frame {int(lengths[:, joint].argmin())}: the two joints must not coincide"
        )
    leg = [skeleton.RIGHT_KNEE, skeleton.RIGHT_ANKLE]
    scale = skeleton.TARGET_BONE_LENGTHS[leg].sum() / lengths[0, leg].sum()
    factors = skeleton.TARGET_BONE_LENGTHS[1:] / lengths[:, 1:]
    bones[:, 1:] *= factors[..., None]
    return skeleton.joints_from(joints[:, 0] * scale, bones)


def preprocess_joints(joints: np.ndarray, uniform_skeleton: bool = True) -> np.ndarray:
    """Joints put on the floor, at the origin and facing +Z in frame 0 (steps 1 to 4).

    joints: float [T, 22, 3], metres, Y up, T >= 1. uniform_skeleton: also give them the bone lengths of HumanML3D's
    target skeleton. Returns float32 [T, 22, 3]. HumanML3D's `new_joints` are already so; they come back unchanged.
    """
    joints = as_joints(joints, min_frames=1)
    # The move to the origin commutes with every step; done first and in double, it keeps float32 exact far away.
    joints = (joints - joints[0, 0].astype(np.float64)).astype(np.float32)
    if uniform_skeleton:
        joints = retarget(joints)
    joints[..., 1] -= joints[..., 1].min()
    return quaternion.rotate(quaternion.between(facing(joints[:1]), _FORWARD)[:, None], joints)


def joint_rotations(joints: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Local rotations [T, 21, 4] of joints 1..21 (step 6), given the root's rotations [T, 4].

    A joint's global rotation takes its rest direction to its bone's direction by the shortest way; its local rotation
    is relative to the one before it in its chain, and to the root's for the first of a chain, arms included.
    """
    world = quaternion.between(skeleton.REST_DIRECTIONS, quaternion.normalize(skeleton.bones_of(joints)))
    world[:, 0] = root
    before = world[:, skeleton.ROTATION_PARENTS[1:]]
    return quaternion.multiply(quaternion.inverse(before), world[:, 1:])


def joints_to_features(
    joints: np.ndarray,
    *,
    uniform_skeleton: bool = True,
    compat_facing: bool = True,
    contact_threshold: float = 0.002,
    compat_yaw: bool = False,
) -> np.ndarray:
    """The 263 features of each step between frames: float32 [T - 1, 263], blocks as in FEATURE_BLOCKS.

    joints: float [T, 22, 3], metres, Y up, 20 fps, T >= 2.
    uniform_skeleton: retarget to HumanML3D's bone lengths first; leave it off for joints that came out of features.
    compat_facing: keep the reference code's wrong sign of the hips in the heading. Released data and weights have it
        and its author will not change it; off, the heading is the body's, and the features are those of no release.
    contact_threshold: squared displacement (m^2 per frame) under which a foot is in contact.
    compat_yaw: take the reference code's asin literally. Its quaternions change hemisphere where the heading passes
        +-180 degrees, so in that frame the yaw velocity has the wrong sign, and the inverse turns everything after it
        by twice the step (up to 1 m of error on 5 of 61 CMU clips). Off, the sign is put right; no other value differs.
    Raises VtjaxError for a wrong shape, NaN or infinity, fewer than two frames, or an undefined facing direction.
    Source: the motion representation of HumanML3D (Guo et al., CVPR 2022).
    """
    joints = preprocess_joints(as_joints(joints), uniform_skeleton)
    heading = quaternion.between(facing(joints, compat=compat_facing, smooth=True), _FORWARD)
    heading[0] = (1, 0, 0, 0)
    now, after = heading[:-1], heading[1:]

    turn = quaternion.multiply(after, quaternion.inverse(now))
    sine = turn[:, 2] if compat_yaw else np.where(turn[:, 0] < 0, -turn[:, 2], turn[:, 2])
    steps = joints[1:] - joints[:-1]
    squared = np.sum(steps * steps, axis=-1)
    local = joints[:-1].copy()
    local[..., [0, 2]] -= joints[:-1, :1, [0, 2]]

    rows = np.empty((len(steps), FEATURES), np.float32)
    rows[:, 0] = np.arcsin(np.clip(sine, -1, 1))
    rows[:, 1:3] = quaternion.rotate(after, steps[:, 0])[:, [0, 2]]
    rows[:, 3] = joints[:-1, 0, 1]
    rows[:, 4:67] = quaternion.rotate(now[:, None], local)[:, 1:].reshape(len(rows), -1)
    rotations = quaternion.to_rotation_6d(joint_rotations(joints[:-1], now))
    rows[:, 67:193] = rotations.reshape(len(rows), -1)
    rows[:, 193:259] = quaternion.rotate(now[:, None], steps).reshape(len(rows), -1)
    rows[:, 259:263] = squared[:, skeleton.LEFT_FEET + skeleton.RIGHT_FEET] < contact_threshold
    return rows


def features_to_joints(features: np.ndarray, *, last_frame: bool = False) -> np.ndarray:
    """Joint positions from features (not normalised): float32 [T, 22, 3], starting over the origin, facing +Z.

    features: float [T, 263]. Positions come from the root's velocities and the local joint positions; rotations are
    not used. last_frame: append the frame after the last row, which its velocities determine, so that
    `features_to_joints(joints_to_features(j), last_frame=True)` has as many frames as j: [T + 1, 22, 3].
    """
    rows = as_features(features).astype(np.float64)
    half_angle = np.concatenate([[0.0], np.cumsum(rows[:-1, 0])])
    to_world = quaternion.about_y(-half_angle)
    steps = np.zeros((len(rows), 3))
    steps[1:, [0, 2]] = rows[:-1, 1:3]
    root = np.cumsum(quaternion.rotate(to_world, steps), axis=0)
    local = np.zeros((len(rows), skeleton.JOINTS, 3))
    local[:, 0, 1] = rows[:, 3]
    local[:, 1:] = rows[:, 4:67].reshape(len(rows), -1, 3)
    joints = quaternion.rotate(to_world[:, None], local) + root[:, None]
    if last_frame:
        step = quaternion.rotate(to_world[-1:], rows[-1, 193:259].reshape(-1, 3))
        joints = np.concatenate([joints, joints[-1:] + step])
    return joints.astype(np.float32)
