"""Mirroring of joints, features and captions: the three must tell of the same motion."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vtjax.data.motion import skeleton
from vtjax.data.motion.features import joints_to_features
from vtjax.data.motion.mirror import mirror_features, mirror_text


@pytest.fixture(scope="module")
def joints():
    """A curving, one-sided random motion, float32 [50, 22, 3]."""
    rng = np.random.default_rng(0)
    t = np.arange(50)[:, None, None]
    waves = 0.4 * rng.normal(size=(1, 22, 3)) * np.sin(t * rng.uniform(0.1, 0.3, (1, 22, 1)) + np.arange(22)[:, None])
    bones = Rotation.from_rotvec(waves.reshape(-1, 3)).apply(np.tile(skeleton.REST_DIRECTIONS, (50, 1)))
    bones = bones.reshape(50, 22, 3) * skeleton.TARGET_BONE_LENGTHS[:, None]
    yaw = Rotation.from_rotvec(0.05 * t[:, 0] * [0, 1, 0])
    bones = np.stack([yaw.as_matrix()[i] @ bones[i].T for i in range(50)]).transpose(0, 2, 1)
    root = np.cumsum(yaw.apply([0.01, 0, 0.04]), axis=0) + np.array([0, 1, 0])
    return skeleton.joints_from(root, bones).astype(np.float32)


def mirror_joints(joints):
    return joints[:, list(skeleton.MIRROR)].astype(np.float32) * np.array([-1, 1, 1], np.float32)


def test_joints_are_reflected_and_sides_exchanged(joints):
    mirrored = mirror_joints(joints)
    for index, name in enumerate(skeleton.JOINT_NAMES):
        other = name
        if "left" in name:
            other = name.replace("left", "right")
        elif "right" in name:
            other = name.replace("right", "left")
        expected = joints[:, skeleton.JOINT_NAMES.index(other)] * [-1, 1, 1]
        np.testing.assert_array_equal(mirrored[:, index], expected)
    np.testing.assert_array_equal(mirror_joints(mirrored), joints)


@pytest.mark.parametrize("compat", [True, False])
def test_features_mirror_as_the_joints_do(joints, compat):
    rows = joints_to_features(joints, uniform_skeleton=False, compat_facing=compat)
    expected = joints_to_features(mirror_joints(joints), uniform_skeleton=False, compat_facing=compat)
    mirrored = mirror_features(rows)
    np.testing.assert_allclose(mirrored, expected, atol=1e-5)
    np.testing.assert_array_equal(mirror_features(mirrored), rows)
    assert np.abs(mirrored - rows).max() > 0.1  # the motion is one-sided, so the test can fail
    assert (rows[:, 259:261] != rows[:, 261:]).any()


def test_retargeted_features_mirror_up_to_the_target_skeletons_own_asymmetry(joints):
    mirrored = mirror_features(joints_to_features(joints))
    gap = np.abs(mirrored - joints_to_features(mirror_joints(joints)))
    assert 1e-3 < gap[:, 4:67].mean() < 0.02


def test_real_features_mirror_as_the_joints_do(shared_data):
    path = shared_data / "motion" / "humanml3d_sample" / "new_joints_012314.npy"
    if not path.is_file():
        pytest.skip(f"not found: {path}")
    clip = np.load(path)
    rows = mirror_features(joints_to_features(clip, uniform_skeleton=False))
    np.testing.assert_allclose(rows, joints_to_features(mirror_joints(clip), uniform_skeleton=False), atol=2e-5)


PAIRS = [
    ("a person walks left, then right.", "a person walks right, then left."),
    ("LEFT hand; Right hand", "RIGHT hand; Left hand"),
    ("a left-handed throw to the rightmost", "a right-handed throw to the leftmost"),
    ("steps leftward, leftwards, left_arm", "steps rightward, rightwards, right_arm"),
    ("turns clockwise", "turns counterclockwise"),
    ("Clockwise circle", "Counterclockwise circle"),
    ("waves both arms, upright and brightly", "waves both arms, upright and brightly"),
    ("the left's and left/right", "the right's and right/left"),
    ("they turn right away from a right angle", "they turn right away from a right angle"),
    ("", ""),
]


@pytest.mark.parametrize(("text", "mirrored"), PAIRS)
def test_text_mirrors_and_comes_back(text, mirrored):
    assert mirror_text(text) == mirrored
    assert mirror_text(mirrored) == text


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("turns counter-clockwise", "turns clockwise"),
        ("turns anti clockwise", "turns clockwise"),
        ("Anticlockwise and COUNTER CLOCKWISE", "Clockwise and CLOCKWISE"),
        ("he stands all right", "he stands all right"),
    ],
)
def test_other_spellings_of_a_turn(text, mirrored):
    assert mirror_text(text) == mirrored
