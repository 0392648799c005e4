"""Motion features against a slow loop over frames written from car.md section 7, and against a shipped clip."""

import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vtjax.data.motion import skeleton
from vtjax.data.motion.features import FEATURE_BLOCKS, features_to_joints, joints_to_features, preprocess_joints
from vtjax.errors import VtjaxError

Y, Z = np.array([0, 1.0, 0]), np.array([0, 0, 1.0])
CHAINS = ([0, 2, 5, 8, 11], [0, 1, 4, 7, 10], [0, 3, 6, 9, 12, 15], [9, 14, 17, 19, 21], [9, 13, 16, 18, 20])
PARENT = {c: p for chain in CHAINS for p, c in itertools.pairwise(chain)}
# fmt: off
REST = dict(enumerate([
    (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, -1, 0), (0, 1, 0), (0, -1, 0), (0, -1, 0), (0, 1, 0), (0, 0, 1),
    (0, 0, 1), (0, 1, 0), (1, 0, 0), (-1, 0, 0), (0, 0, 1), *[(0, -1, 0)] * 6], start=1))
LENGTH = dict(enumerate([
    .103074, .109883, .131568, .393623, .390188, .143190, .432433, .425643, .057365, .143382, .149419, .219360,
    .137487, .143383, .103039, .131614, .122984, .256840, .263092, .266012, .269876], start=1))
# fmt: on


def make_motion(frames=40, seed=0, turn=0.04, arm=0.8):
    """A smooth random motion of a skeleton with bones of its own, walking on a curve; float64 [frames, 22, 3]."""
    rng = np.random.default_rng(seed)
    t = np.arange(frames)[:, None]
    yaw = Rotation.from_rotvec((0.7 + turn * t) * Y)
    lengths = {j: LENGTH[j] * rng.uniform(0.8, 1.3) for j in LENGTH}
    joints = np.zeros((frames, 22, 3))
    joints[:, 0] = np.cumsum(yaw.apply([0.01, 0, 0.05]), axis=0) + [3, 1.2, -2] + 0.03 * np.sin(0.3 * t) * Y
    for chain in CHAINS:
        for parent, child in itertools.pairwise(chain):
            wave = rng.normal(size=3) * np.sin(t * rng.uniform(0.1, 0.3) + rng.uniform(0, 6)) * (
                arm if child in (18, 19, 20, 21) else 0.25
            )
            direction = yaw.apply(Rotation.from_rotvec(wave).apply(REST[child]))
            joints[:, child] = joints[:, parent] + lengths[child] * direction
    return joints


def slow_between(a, b):
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    axis = np.cross(a, b)
    if np.linalg.norm(axis) < 1e-12:
        return Rotation.identity()
    return Rotation.from_rotvec(axis / np.linalg.norm(axis) * np.arctan2(np.linalg.norm(axis), a @ b))


def slow_facing(joints, compat, smooth):
    forwards = []
    for frame in joints:
        hips = frame[1] - frame[2] if compat else frame[2] - frame[1]
        across = hips + frame[17] - frame[16]
        forwards.append(np.cross(Y, across / np.linalg.norm(across)))
    forwards = np.array(forwards)
    if smooth:
        kernel = np.exp(-0.5 * (np.arange(-80, 81) / 20.0) ** 2)
        kernel /= kernel.sum()
        last = len(forwards) - 1
        forwards = np.array(
            [
                sum(kernel[o + 80] * forwards[min(max(t + o, 0), last)] for o in range(-80, 81))
                for t in range(len(forwards))
            ]
        )
    return [f / np.linalg.norm(f) for f in forwards]


def slow_inverse_kinematics(frame, root):
    local = {0: root}
    for chain in CHAINS:
        rotation = root
        for parent, child in itertools.pairwise(chain):
            world = slow_between(np.array(REST[child], float), frame[child] - frame[parent])
            local[child] = rotation.inv() * world
            rotation = rotation * local[child]
    return local


def slow_forward_kinematics(root_position, local):
    frame = np.zeros((22, 3))
    frame[0] = root_position
    for chain in CHAINS:
        rotation = local[0]
        for parent, child in itertools.pairwise(chain):
            rotation = rotation * local[child]
            frame[child] = frame[parent] + rotation.apply(np.array(REST[child]) * LENGTH[child])
    return frame


def slow_preprocess(joints, uniform):
    joints = np.array(joints, float)
    if uniform:
        first = joints[0]
        source = np.linalg.norm(first[5] - first[2]) + np.linalg.norm(first[8] - first[5])
        scale = (LENGTH[5] + LENGTH[8]) / source
        roots = [slow_between(f, Z) for f in slow_facing(joints, True, False)]
        joints = np.array(
            [
                slow_forward_kinematics(frame[0] * scale, slow_inverse_kinematics(frame, root))
                for frame, root in zip(joints, roots, strict=True)
            ]
        )
    joints[..., 1] -= joints[..., 1].min()
    joints -= joints[0, 0] * [1, 0, 1]
    turn = slow_between(slow_facing(joints[:1], False, False)[0], Z)
    return np.array([turn.apply(frame) for frame in joints])


def slow_features(joints, uniform=True, compat=True, threshold=0.002):
    joints = slow_preprocess(joints, uniform)
    heading = [slow_between(f, Z) for f in slow_facing(joints, compat, True)]
    heading[0] = Rotation.identity()
    rows = []
    for t in range(len(joints) - 1):
        now, after = joints[t], joints[t + 1]
        turn = heading[t + 1] * heading[t].inv()
        row = [turn.as_rotvec()[1] / 2]  # half of the angle about Y, within +-90 degrees: asin of the sheet
        row += list(heading[t + 1].apply(after[0] - now[0])[[0, 2]])
        row.append(now[0, 1])
        for joint in range(1, 22):
            row += list(heading[t].apply(now[joint] - now[0] * [1, 0, 1]))
        local = slow_inverse_kinematics(now, heading[t])
        for joint in range(1, 22):
            matrix = local[joint].as_matrix()
            row += [*matrix[:, 0], *matrix[:, 1]]
        for joint in range(22):
            row += list(heading[t].apply(after[joint] - now[joint]))
        row += [float(np.sum((after[j] - now[j]) ** 2) < threshold) for j in (7, 10, 8, 11)]
        rows.append(row)
    return np.array(rows)


@pytest.fixture(scope="module")
def sample(shared_data):
    folder = shared_data / "motion" / "humanml3d_sample"
    if not folder.is_dir():
        pytest.skip(f"HumanML3D's sample clip not found at {folder}")
    return np.load(folder / "new_joints_012314.npy"), np.load(folder / "new_joint_vecs_012314.npy")


def block_errors(got, expected):
    return {name: np.abs(got[:, where] - expected[:, where]).mean() for name, where in FEATURE_BLOCKS.items()}


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("compat", [True, False])
def test_agrees_with_the_slow_loop_in_every_value(uniform, compat):
    joints = make_motion(seed=3)
    threshold = 0.003  # divides the feet's steps of this motion
    got = joints_to_features(
        joints, uniform_skeleton=uniform, compat_facing=compat, contact_threshold=threshold
    )
    expected = slow_features(joints, uniform, compat, threshold)
    assert got.dtype == np.float32 and got.shape == (39, 263)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert 0.1 < expected[:, 259:].mean() < 0.9


@pytest.mark.parametrize("uniform", [True, False])
def test_preprocessing_agrees_with_inverse_then_forward_kinematics(uniform):
    joints = make_motion(frames=10, seed=4)
    got = preprocess_joints(joints, uniform)
    np.testing.assert_allclose(got, slow_preprocess(joints, uniform), atol=3e-6)
    np.testing.assert_allclose(preprocess_joints(got, uniform), got, atol=3e-6)
    lengths = [np.linalg.norm(got[:, j] - got[:, PARENT[j]], axis=-1).mean() for j in range(1, 22)]
    assert np.allclose(lengths, list(LENGTH.values()), atol=1e-5) == uniform


def test_shipped_clip_is_reproduced_within_the_sheets_figures(sample):
    joints, shipped = sample
    errors = block_errors(joints_to_features(joints), shipped[:-1])
    # Sheet's mean absolute errors, to the digits it gives.
    limits = dict(
        zip(FEATURE_BLOCKS, (4.6e-5, 1e-5, 1e-6, 1.55e-4, 1.05e-4, 7.5e-6, 0.0), strict=True)
    )
    assert all(errors[name] <= limits[name] for name in limits), errors


def test_shipped_clip_is_reproduced_to_rounding_once_its_missing_last_frame_is_recovered(sample):
    _, shipped = sample
    joints = features_to_joints(shipped, last_frame=True)
    np.testing.assert_allclose(joints_to_features(joints, uniform_skeleton=False), shipped, atol=1e-5)


def test_inverse_of_the_shipped_features_is_the_shipped_joints(sample):
    joints, shipped = sample
    np.testing.assert_allclose(features_to_joints(shipped), joints, rtol=0, atol=1e-6)


def test_correcting_the_hips_sign_leaves_the_released_features(sample):
    joints, shipped = sample
    errors = block_errors(joints_to_features(joints, compat_facing=False), shipped[:-1])
    assert errors["root_yaw_velocity"] >= 7.5e-3 and errors["joint_positions"] >= 1.5e-2, errors
    assert errors["root_height"] < 1e-5 and errors["foot_contacts"] == 0  # what does not depend on the heading


@pytest.mark.parametrize("compat", [True, False])
def test_joints_come_back_from_features_also_through_full_turns(compat):
    joints = make_motion(frames=60, seed=5, turn=0.25)  # 15 radians
    rows = joints_to_features(joints, compat_facing=compat)
    expected = preprocess_joints(joints)
    np.testing.assert_allclose(features_to_joints(rows), expected[:-1], atol=1e-5)
    np.testing.assert_allclose(features_to_joints(rows, last_frame=True), expected, atol=1e-5)


def test_compat_yaw_changes_only_signs_where_the_heading_passes_the_half_turn():
    # Smoothing flattens the ends of a turn: this one goes round at most once.
    joints = make_motion(frames=200, seed=5, turn=0.03)
    fixed, literal = joints_to_features(joints), joints_to_features(joints, compat_yaw=True)
    differs = fixed != literal
    assert differs.any() and not differs[:, 1:].any() and differs.sum() <= 2
    np.testing.assert_allclose(literal[differs], -fixed[differs], atol=1e-6)
    assert np.abs(features_to_joints(literal) - preprocess_joints(joints)[:-1]).max() > 0.01


def test_where_and_which_way_the_body_stands_does_not_matter():
    joints = make_motion(seed=6)
    turned = Rotation.from_rotvec(2.2 * Y).apply(joints.reshape(-1, 3)).reshape(joints.shape)
    moved = turned + np.array([1000.0, 5.0, -2000.0])
    np.testing.assert_allclose(
        joints_to_features(moved, uniform_skeleton=False), joints_to_features(joints, uniform_skeleton=False), atol=2e-5
    )


def test_input_is_not_changed_and_straight_arms_up_stay_finite():
    joints = make_motion(frames=5, arm=0.0).astype(np.float32)
    for joint in (16, 17, 18, 19, 20, 21):  # exactly opposite to the rest direction
        joints[:, joint] = joints[:, PARENT[joint]] + np.array([0, 0.25, 0], np.float32)
    before = joints.copy()
    assert np.isfinite(joints_to_features(joints)).all()
    np.testing.assert_array_equal(joints, before)


def test_the_skeleton_tables_are_the_sheets():
    assert [tuple(c) for c in CHAINS] == list(skeleton.CHAINS)
    assert (-1, *(PARENT[j] for j in range(1, 22))) == skeleton.PARENTS
    np.testing.assert_array_equal(skeleton.REST_DIRECTIONS[1:], np.array([REST[j] for j in range(1, 22)], np.float32))
    np.testing.assert_allclose(skeleton.TARGET_BONE_LENGTHS[1:], list(LENGTH.values()), rtol=1e-6)
    joints = make_motion(frames=3)
    np.testing.assert_allclose(skeleton.joints_from(joints[:, 0], skeleton.bones_of(joints)), joints, atol=1e-12)
    for left, right in zip(skeleton.LEFT, skeleton.RIGHT, strict=True):
        assert skeleton.JOINT_NAMES[right] == skeleton.JOINT_NAMES[left].replace("left", "right")
        assert skeleton.MIRROR[left] == right and skeleton.MIRROR[right] == left


def with_value(value, index):
    joints = make_motion(frames=4)
    joints[index] = value
    return joints


def test_an_undefined_facing_direction_is_named():
    joints = make_motion(frames=3)
    joints[:, [1, 2, 16, 17], 0] = joints[:, [1, 2, 16, 17], 2] = 0
    with pytest.raises(VtjaxError, match="facing direction is undefined at frame 0.*Y is up"):
        joints_to_features(joints, uniform_skeleton=False)


@pytest.mark.parametrize(
    ("joints", "message"),
    [
        (np.zeros((4, 21, 3)), r"22 joints are expected.*shape \[4, 21, 3\]"),
        (np.zeros((22, 3)), r"shape \[22, 3\]"),
        (np.zeros((4, 22, 3), complex), "complex128"),
        (make_motion(frames=1), "1-frame clip: .*at least 2"),
        (with_value(np.nan, (2, 18, 1)), "1 of 4 frames, the first is 2, joint left_elbow"),
        (with_value(np.inf, (1, 0, 0)), "the first is 1, joint pelvis"),
        (with_value(make_motion(frames=4)[1, 2], (1, 5)), "right_hip to right_knee has no length at frame 1"),
    ],
)
def test_wrong_joints_are_named(joints, message):
    with pytest.raises(VtjaxError, match=message):
        joints_to_features(joints)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((4, 251), np.float32), r"263.*\[4, 251\]"),
        (np.zeros((0, 263), np.float32), "no frames"),
        (np.full((4, 263), np.nan, np.float32), "the first is 0, feature 0"),
    ],
)
def test_wrong_features_are_named(rows, message):
    with pytest.raises(VtjaxError, match=message):
        features_to_joints(rows)
