"""Stitching against motions whose continuation is known, and against bounds that a visible seam breaks."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vtjax.data.motion import skeleton
from vtjax.data.motion.features import joints_to_features
from vtjax.data.motion.stitch import stitch
from vtjax.errors import VtjaxError

UP = np.array([0, 1.0, 0])


def make_pose(seed, spread=0.5):
    """Bone vectors [22, 3] of the target skeleton in a random pose."""
    turns = Rotation.from_rotvec(spread * np.random.default_rng(seed).normal(size=(22, 3)))
    return turns.apply(skeleton.REST_DIRECTIONS) * skeleton.TARGET_BONE_LENGTHS[:, None]


def make_motion(frames, seed=0, yaw=0.0, turn=0.0, speed=0.04, sway=0.3, start=(0, 0)):
    """One pose, swaying by `sway` radians, carried along a line or circle; float64 [frames, 22, 3]; lowest point 0."""
    rng = np.random.default_rng(seed)
    t = np.arange(frames)
    waves = sway * rng.normal(size=(1, 22, 3)) * np.sin(0.25 * t[:, None, None] + 6 * rng.random((1, 22, 1)))
    bones = Rotation.from_rotvec(waves.reshape(-1, 3)).apply(np.tile(make_pose(seed), (frames, 1)))
    heading = Rotation.from_rotvec((yaw + turn * t)[:, None] * UP)
    bones = np.stack([heading[i].apply(b) for i, b in enumerate(bones.reshape(frames, 22, 3))])
    middle = Rotation.from_rotvec((yaw + turn * (t + 0.5))[:, None] * UP)  # steps lie along the path's chords
    steps = middle.apply([0, 0, speed])
    root = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)[:-1]]) + np.array([start[0], 0, start[1]])
    joints = skeleton.joints_from(root, bones)
    joints[..., 1] -= joints[..., 1].min(axis=1, keepdims=True)
    return joints


def moved(joints, yaw, shift):
    return Rotation.from_rotvec(yaw * UP).apply(joints.reshape(-1, 3)).reshape(joints.shape) + shift


def bone_lengths(joints):
    return np.stack([np.linalg.norm(joints[:, c] - joints[:, p], axis=-1) for p, c in skeleton.EDGES], axis=-1)


def fastest(joints, order):
    """Largest joint displacement (order 1) or change of displacement (order 2) per frame, [frames - order]."""
    return np.linalg.norm(np.diff(joints, order, axis=0), axis=-1).max(axis=-1)


@pytest.mark.parametrize("blend", [0, 1, 7, 8, 20])
@pytest.mark.parametrize("turn", [0.0, 0.06])
def test_a_rigid_walk_cut_and_moved_is_put_back_exactly(turn, blend):
    whole = make_motion(60, seed=1, turn=turn, sway=0.0)
    pieces = [whole[:25], moved(whole[25:40], 2.0, [5, 0, -3]), moved(whole[40:], -1.1, [-1, 0, 9])]
    joined, bounds = stitch(pieces, blend=blend)
    assert joined.dtype == np.float32 and bounds == ((0, 25), (25, 40), (40, 60))
    # On a circle the steps on both sides of the seam are two turns apart, and the blend rounds that off.
    np.testing.assert_allclose(joined, whole, atol=2e-6 + 1.2 * 2 * turn * 0.04 * blend / 8 + 5e-4 * (turn > 0))


def test_a_real_clip_cut_and_moved_is_put_back_nearly(shared_data):
    path = shared_data / "motion" / "humanml3d_sample" / "new_joints_012314.npy"
    if not path.is_file():
        pytest.skip(f"not found: {path}")
    clip = np.load(path)
    for cut in (20, 60, 100, 140):
        pieces = [clip[:cut], moved(clip[cut:], 1.0, [2, 0, 2])]
        placed, _ = stitch(pieces, blend=0)
        joined, _ = stitch(pieces)
        near = slice(cut - 6, cut + 6)
        assert np.abs(placed[near] - clip[near]).max() < 0.03
        np.testing.assert_array_equal(joined[: cut - 4], clip[: cut - 4])
        np.testing.assert_array_equal(joined[cut + 4 :], placed[cut + 4 :])
        assert fastest(joined, 2)[near].max() < 1.1 * fastest(clip, 2)[near].max()


def test_the_result_does_not_depend_on_where_the_next_segment_stood():
    first, second = make_motion(20, seed=2), make_motion(25, seed=3)
    one, _ = stitch([first, second])
    other, _ = stitch([first, moved(second, 2.5, [40, 0, -7])])
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_heading_goes_on_and_speed_changes_without_a_jerk():
    first = make_motion(20, seed=2, yaw=0.8, speed=0.04, sway=0.0)
    second = make_motion(20, seed=2, yaw=-2.0, speed=0.08, sway=0.0)
    joined, _ = stitch([first, second])
    across = joined[:, 2] - joined[:, 1] + joined[:, 17] - joined[:, 16]
    heading = np.arctan2(across[:, 2], across[:, 0])
    np.testing.assert_allclose(heading, heading[0], atol=1e-5)
    steps = np.diff(joined[:, 0, [0, 2]], axis=0)
    lengths = np.linalg.norm(steps, axis=-1)
    np.testing.assert_allclose(steps / lengths[:, None], np.tile([np.sin(0.8), np.cos(0.8)], (39, 1)), atol=1e-4)
    np.testing.assert_allclose(lengths[:15], 0.04, atol=1e-5)
    np.testing.assert_allclose(lengths[-15:], 0.08, atol=1e-5)
    np.testing.assert_allclose(lengths[19], 0.06, atol=1e-5)
    assert (np.diff(lengths) > -1e-6).all() and np.diff(lengths).max() < 0.0101  # 0.04 over h = 4 frames, not in one


@pytest.mark.parametrize("seed", range(5))
def test_the_seam_is_smooth_keeps_bones_and_stays_on_the_floor(seed):
    first = make_motion(40, seed=10 + seed, yaw=1.0)
    second = make_motion(40, seed=20 + seed, yaw=-2.0, start=(4, 4))
    joined, ((_, cut), _) = stitch([first, second], blend=12)
    hard, _ = stitch([first, second], blend=0)
    np.testing.assert_allclose(bone_lengths(joined), np.tile(skeleton.TARGET_BONE_LENGTHS[1:], (80, 1)), atol=1e-5)
    assert joined[..., 1].min() > -1e-6
    window = slice(cut - 8, cut + 8)
    jump = fastest(hard, 1)[cut - 1]
    inside = max(fastest(first, 1).max(), fastest(second, 1).max())
    assert jump > 0.3  # the poses differ, so the bounds below mean something
    # A smoothstep over 12 frames is at most 1.5 / 12 of the way per frame; the rest is the segments' own motion.
    assert fastest(joined, 1)[window].max() < 1.2 * (1.5 / 12 * jump * np.pi / 2 + inside)
    assert fastest(joined, 2)[window].max() < 0.15 * fastest(hard, 2)[window].max()
    np.testing.assert_array_equal(joined[: cut - 6], hard[: cut - 6])
    np.testing.assert_array_equal(joined[cut + 6 :], hard[cut + 6 :])


def test_height_is_kept_away_from_the_seam():
    first, second = make_motion(20, seed=2), make_motion(20, seed=3) + np.array([0, 0.25, 0])  # say, on a step
    joined, _ = stitch([first, second])
    np.testing.assert_allclose(joined[24:, :, 1], second[4:, :, 1], atol=1e-6)
    lowest = joined[..., 1].min(axis=1)
    assert (np.diff(lowest) > -1e-6).all() and np.diff(lowest).max() < 0.06


def test_opposite_limbs_and_one_frame_segments_stay_finite_and_keep_bones():
    first = make_motion(10, seed=2, sway=0.0)
    bones = skeleton.bones_of(first[:1].copy())
    bones[:, [18, 20]] *= -1  # forearm and hand exactly the other way
    joined, bounds = stitch([first, skeleton.joints_from(first[:1, 0], bones), first[:3]], blend=8)
    assert bounds == ((0, 10), (10, 11), (11, 14)) and np.isfinite(joined).all()
    np.testing.assert_allclose(bone_lengths(joined), np.tile(skeleton.TARGET_BONE_LENGTHS[1:], (14, 1)), atol=1e-5)


def test_input_is_not_changed_and_one_segment_comes_back():
    first, second = make_motion(12, seed=2), make_motion(12, seed=3)
    copies = first.copy(), second.copy()
    stitch([first, second])
    np.testing.assert_array_equal(first, copies[0])
    np.testing.assert_array_equal(second, copies[1])
    np.testing.assert_array_equal(stitch([first])[0], first.astype(np.float32))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rows: stitch([]), "no segments"),
        (lambda rows: stitch([make_motion(5)], blend=-1), "blend is -1"),
        (lambda rows: stitch([make_motion(5), np.zeros((3, 21, 3))]), r"segment 1: .*shape \[3, 21, 3\]"),
        (lambda rows: stitch([np.full((3, 22, 3), np.nan)]), "segment 0: NaN"),
    ],
)
def test_wrong_inputs_are_named(call, message):
    with pytest.raises(VtjaxError, match=message):
        call(joints_to_features(make_motion(20)))
