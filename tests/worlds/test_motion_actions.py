"""What each action does to the body, measured on joint positions (left is +x, forward is +z, metres)."""

import numpy as np
import pytest

from vtjax.data.motion import skeleton
from vtjax.worlds import motion_actions, motion_body, motion_world

J = {name: index for index, name in enumerate(skeleton.JOINT_NAMES)}


def play(name, seed):
    rng = np.random.default_rng(seed)
    person = motion_actions.Person.draw(rng)
    return motion_actions.animate([name], person, rng, (16, 32), 0.02)[0]


def other(side):
    return "right" if side == "left" else "left"


def height(joints, name):
    return joints[:, J[name], 1]


def moved(joints):
    return joints[-1, 0] - joints[0, 0]


def yaw_turned(joints):
    across = joints[:, J["left_hip"]] - joints[:, J["right_hip"]]
    angles = np.unwrap(np.arctan2(-across[:, 2], across[:, 0]))
    return np.degrees(angles[-1] - angles[0])


def crossings(signal):
    centred = signal - np.median(signal)
    return int(np.sum(np.diff(np.sign(centred)) != 0))


@pytest.fixture(params=range(4))
def seed(request):
    return request.param


@pytest.mark.parametrize("name", motion_actions.NAMES)
def test_begins_and_ends_standing_on_the_floor_with_fixed_bones(name, seed):
    joints = play(name, seed)
    assert 16 <= len(joints) <= 32 and np.isfinite(joints).all()
    np.testing.assert_allclose(joints[0, 0, [0, 2]], 0, atol=1e-9)
    assert joints[..., 1].min() > -1e-9
    lengths = np.linalg.norm(skeleton.bones_of(joints)[:, 1:], axis=-1)
    assert np.ptp(lengths, axis=0).max() < 1e-9
    for end in (0, -1):
        assert joints[end, J["head"], 1] > 1.3 and joints[end, [10, 11], 1].max() < 0.05
        assert joints[end, [20, 21], 1].max() < joints[end, J["spine3"], 1]
    steps = np.linalg.norm(np.diff(joints, axis=0), axis=-1)
    assert steps.max() < 0.65, "no joint jumps: 13 m/s is faster than a punch"


@pytest.mark.parametrize("side", ["left", "right"])
def test_arms(side, seed):
    raised = play(f"raise_{side}_arm", seed)
    assert height(raised, f"{side}_wrist").max() > height(raised, "head").max()
    assert height(raised, f"{other(side)}_wrist").max() < height(raised, "spine2").min()
    waved = play(f"wave_{side}", seed)
    assert height(waved, f"{side}_wrist").max() > height(waved, "neck").max()
    assert height(waved, f"{other(side)}_wrist").max() < height(waved, "spine2").min()
    swing = waved[:, J[f"{side}_wrist"], 0] - waved[:, J[f"{side}_elbow"], 0]
    middle = slice(len(waved) // 5, -len(waved) // 5)
    assert crossings(np.diff(swing)[middle] + 1e-9) >= 2
    punched = play(f"punch_{side}", seed)
    reach = {s: (punched[:, J[f"{s}_wrist"], 2] - punched[:, 0, 2]).max() for s in ("left", "right")}
    assert reach[side] > 0.45 > reach[other(side)]


def test_both_hands(seed):
    raised = play("raise_both_arms", seed)
    assert min(height(raised, f"{side}_wrist").max() for side in ("left", "right")) > height(raised, "head").max()
    clapped = play("clap", seed)
    gap = np.linalg.norm(clapped[:, J["left_wrist"]] - clapped[:, J["right_wrist"]], axis=-1)
    closings = np.flatnonzero((gap[1:-1] < gap[:-2]) & (gap[1:-1] <= gap[2:]) & (gap[1:-1] < 0.25))
    assert len(closings) >= 2 and gap[closings[0] : closings[-1]].max() > 0.3


@pytest.mark.parametrize("side", ["left", "right"])
def test_legs(side, seed):
    kicked = play(f"kick_{side}", seed)
    assert height(kicked, f"{side}_foot").max() > 0.4 and height(kicked, f"{other(side)}_foot").max() < 0.1
    assert (kicked[:, J[f"{side}_foot"], 2] - kicked[:, 0, 2]).max() > 0.6
    hopped = play(f"hop_{side}", seed)
    lifted = height(hopped, f"{side}_foot")
    assert lifted.max() > 0.05 and height(hopped, f"{other(side)}_foot").max() > 0.25
    middle = slice(len(hopped) // 4, -len(hopped) // 4)
    assert (height(hopped, f"{side}_foot") < height(hopped, f"{other(side)}_foot"))[middle].all()


def test_lowering(seed):
    drop = {name: np.ptp(height(play(name, seed), "pelvis")) for name in ("squat", "sit", "kneel", "bow", "clap")}
    assert min(drop["squat"], drop["sit"], drop["kneel"]) > 0.3 and max(drop["bow"], drop["clap"]) < 0.1
    sitting = play("sit", seed)
    low = np.argmin(height(sitting, "pelvis"))
    assert abs(sitting[low, J["left_hip"], 1] - sitting[low, J["left_knee"], 1]) < 0.12, "thighs are level"
    kneeling = play("kneel", seed)
    knees = sorted(height(kneeling, f"{side}_knee").min() for side in ("left", "right"))
    assert knees[0] < 0.12 and knees[1] > 0.3
    assert np.ptp(height(play("bow", seed), "head")) > 0.3


def test_jump_leaves_the_ground(seed):
    jumped = play("jump", seed)
    off = jumped[..., 1].min(axis=1) > 0.03
    assert 2 <= off.sum() <= 16 and np.abs(moved(jumped)[[0, 2]]).max() < 0.1


@pytest.mark.parametrize(
    "name, axis, low, high",
    [
        ("walk_forward", 2, 0.9, 2.0), ("walk_slowly", 2, 0.2, 0.75), ("run_forward", 2, 1.8, 3.6),
        ("walk_backward", 2, -1.6, -0.6), ("sidestep_left", 0, 0.2, 0.9), ("sidestep_right", 0, -0.9, -0.2),
    ],
)  # fmt: skip
def test_speeds_in_metres_per_second(name, axis, low, high, seed):
    joints = play(name, seed)
    speed = moved(joints) * 20 / len(joints)
    assert low < speed[axis] < high and abs(speed[2 - axis]) < 0.1 and abs(yaw_turned(joints)) < 5


@pytest.mark.parametrize("name, low, high", [("turn_left", 70, 106), ("turn_right", -106, -70)])
def test_turns(name, low, high, seed):
    assert low < yaw_turned(play(name, seed)) < high
    assert 150 < abs(yaw_turned(play("turn_around", seed))) < 190


@pytest.mark.parametrize("name", ["walk_forward", "walk_backward", "walk_slowly", "sidestep_left", "squat", "bow"])
def test_feet_that_carry_the_body_do_not_slide(name, seed):
    feet = play(name, seed)[:, [7, 10, 8, 11]]
    slide = np.linalg.norm(np.diff(feet, axis=0)[..., [0, 2]], axis=-1).min(axis=1)
    assert np.median(slide) < 0.005 and slide.max() < 0.06  # most where weight goes from foot to foot


def test_left_and_right_mirror_one_another():
    for action in ("kick", "wave", "punch", "hop", "sidestep"):
        pair = []
        for side in ("left", "right"):
            rng = np.random.default_rng(4)
            person = motion_actions.Person.draw(rng)
            pair.append(motion_actions.animate([f"{action}_{side}"], person, rng, (16, 32), 0.0)[0])
        mirrored = pair[1][:, list(skeleton.MIRROR)] * [-1, 1, 1]
        assert np.abs(pair[0] - mirrored).max() < 0.04  # left and right bones of the target skeleton differ a little
        assert np.abs(pair[0] - pair[1]).max() > 0.2


def test_a_person_keeps_their_proportions_and_the_table_is_complete():
    rng = np.random.default_rng(0)
    people = [motion_actions.Person.draw(rng).offsets() for _ in range(20)]
    lengths = np.linalg.norm(people, axis=-1)[:, 1:] / skeleton.TARGET_BONE_LENGTHS[1:]
    assert 0.9 < lengths.min() < 0.95 and 1.05 < lengths.max() < 1.1
    assert sorted(motion_world.SCRIPT) == sorted(motion_actions.NAMES)
    assert {name for family in motion_actions.FAMILIES.values() for name in family} == set(motion_actions.NAMES)


def test_an_event_depends_on_no_other_event():
    """Segments animated together are those animated alone from the same numbers, each from its own origin."""
    pose = motion_body.Pose.still(20)
    pose.travel[:10, 1] = 2.0
    together = motion_body.pose_to_joints(pose, motion_body.STANDING_OFFSETS, np.array([0, 10]))
    np.testing.assert_allclose(np.diff(together[:10, 0, 2]), 0.1)
    np.testing.assert_allclose(together[10:, 0, [0, 2]], 0, atol=1e-12)
