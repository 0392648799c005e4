"""Joint maps: against explicit sums, and against what a standing or walking body must look like."""

import itertools
import json

import numpy as np
import pytest

from vtjax.data.motion import joint_map, skeleton
from vtjax.data.motion.joint_map import BANDAI21, MAPS, SMPL22, find_map, load_map, to_smpl22
from vtjax.errors import VtjaxError


def test_identity_with_and_without_names_in_any_order():
    joints = np.random.default_rng(0).normal(size=(4, 22, 3)).astype(np.float32)
    np.testing.assert_array_equal(to_smpl22(joints), joints)
    order = np.random.default_rng(1).permutation(22)
    short = [n.replace("left_", "L_").replace("right_", "R_") for n in np.array(SMPL22)[order]]
    np.testing.assert_array_equal(to_smpl22(joints[:, order], short), joints)


def test_bandai_by_hand():
    joints = np.random.default_rng(0).normal(size=(3, 21, 3)).astype(np.float32)
    at = {name: joints[:, i] for i, name in enumerate(BANDAI21)}
    out = dict(zip(SMPL22, to_smpl22(joints, BANDAI21).transpose(1, 0, 2), strict=True))
    np.testing.assert_allclose(out["spine1"], 0.38 * at["Hips"] + 0.62 * at["Spine"], atol=1e-6)
    np.testing.assert_allclose(out["spine2"], 0.45 * at["Spine"] + 0.55 * at["Chest"], atol=1e-6)
    for ours, theirs in {
        "pelvis": "Hips", "neck": "Neck", "left_hip": "UpperLeg_L", "right_knee": "LowerLeg_R", "left_foot": "Toes_L",
        "right_ankle": "Foot_R", "right_collar": "Shoulder_R", "left_shoulder": "UpperArm_L", "right_wrist": "Hand_R",
    }.items():  # fmt: skip
        np.testing.assert_array_equal(out[ours], at[theirs])


def test_every_map_is_complete_and_two_sided():
    for chart in MAPS.values():
        assert len(chart.sources) == 22
        for joint, weights in zip(SMPL22, chart.sources, strict=True):
            assert sum(w for _, w in weights) == pytest.approx(1)
            if joint.startswith("left_"):
                twin = chart.sources[SMPL22.index(joint.replace("left", "right"))]
                assert twin != weights and [w for _, w in twin] == [w for _, w in weights]


def test_auto_recognises_skeletons_by_names():
    mixamo = [f"mixamorig:{n}" for n in sorted(MAPS["mixamo"].needs)] + ["mixamorig:LeftHandThumb1"]
    assert find_map("auto", mixamo, len(mixamo)).name == "mixamo"
    cmu = [*MAPS["cmu_bvh"].needs, "LowerBack", "LHipJoint", "Neck", "LeftShoulder"]
    assert find_map("auto", cmu, len(cmu)).name == "cmu_bvh"
    assert find_map("auto", [*BANDAI21, "joint_Root"], 22).name == "bandai21"


def test_unknown_skeletons_are_told_what_is_missing():
    with pytest.raises(VtjaxError, match="24 joints without names, 22 in SMPL order"):
        to_smpl22(np.zeros((2, 24, 3)), where="a.npy")
    with pytest.raises(VtjaxError, match="closest is 'mixamo', which also reads Head"):
        to_smpl22(np.zeros((2, 18, 3)), sorted(MAPS["mixamo"].needs - {"Head"}))
    with pytest.raises(VtjaxError, match="did you mean 'cmu_bvh'"):
        to_smpl22(np.zeros((2, 22, 3)), joint_map="cmu_bhv")
    with pytest.raises(VtjaxError, match="reads 21 joints, the array has 20"):
        to_smpl22(np.zeros((2, 20, 3)), joint_map="bandai21")
    with pytest.raises(VtjaxError, match="reads joint 'Chest', which the file lacks"):
        to_smpl22(np.zeros((2, 20, 3)), [n for n in BANDAI21 if n != "Chest"], "bandai21")


def test_user_map(tmp_path):
    path = tmp_path / "mine.json"
    entries = {joint: f"src{i}" for i, joint in enumerate(SMPL22)}
    entries["spine1"] = {"src0": 0.25, "src6": 0.75}
    entries["neck"] = [["src12", 0.5], ["src15", 0.5]]
    path.write_text(json.dumps(entries))
    names = [f"src{i}" for i in range(22)]
    joints = np.random.default_rng(0).normal(size=(2, 22, 3))
    out = to_smpl22(joints, names, str(path))
    np.testing.assert_allclose(out[:, 3], 0.25 * joints[:, 0] + 0.75 * joints[:, 6], atol=1e-6)
    np.testing.assert_allclose(out[:, 12], joints[:, [12, 15]].mean(1), atol=1e-6)
    np.testing.assert_allclose(out[:, 20], joints[:, 20], atol=1e-6)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"left_knee": None}, "left_knee"),
        ({"left_elbo": "a"}, "did you mean 'left_elbow'"),
        ({"head": {"a": 0.5, "b": 0.4}}, "sum to 0.9"),
        ({"head": 3}, "head: a source joint"),
    ],
)
def test_bad_user_maps(tmp_path, change, words):
    entries = dict.fromkeys(SMPL22, "a") | change
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({k: v for k, v in entries.items() if v is not None}))
    with pytest.raises(VtjaxError, match=words):
        load_map(path)
    path.write_text("{\n oops")
    with pytest.raises(VtjaxError, match="bad.json:2"):
        load_map(path)


def _upright(joints):
    """Bone directions that any upright human has in the mean: what a wrong entry of a map would break."""
    mean = {n: joints[:, i].mean(0) for i, n in enumerate(SMPL22)}
    chain = ["pelvis", "spine1", "spine2", "spine3", "neck", "head"]
    assert all(mean[b][1] - mean[a][1] > 0.01 for a, b in itertools.pairwise(chain))
    for side in ("left", "right"):
        leg = [f"{side}_{j}" for j in ("hip", "knee", "ankle", "foot")]
        assert all(mean[b][1] - mean[a][1] < -0.01 for a, b in itertools.pairwise(leg))
        assert mean[f"{side}_collar"][1] < mean["neck"][1] < mean["head"][1]
    bones = np.linalg.norm(skeleton.bones_of(joints)[:, 1:], axis=-1)
    assert bones.min() > 0.01
    hips = joints[:, 1] - joints[:, 2]
    shoulders = joints[:, 16] - joints[:, 17]
    wrists = joints[:, 20] - joints[:, 21]
    assert (hips * shoulders).sum(-1).mean() > 0 and (hips * wrists).sum(-1).mean() > 0


def test_bandai_walk_is_a_walking_human(shared_data):
    with np.load(shared_data / "motion/bandai1_joints21_15fps_f16.npz") as archive:
        joints = to_smpl22(archive["dataset-1_walk_normal_001"], archive["joint_names"])
    _upright(joints)
    # The body's left is up x forward: a swapped side would turn it.
    forward = joints[-1, 0] - joints[0, 0]
    assert np.cross([0, 1, 0], forward) @ (joints[:, 1] - joints[:, 2]).mean(0) > 0


def test_cmu_bvh_walk_is_a_walking_human(shared_data):
    from vtjax.data.readers.bvh import parse_bvh

    bvh = parse_bvh(shared_data / "motion/cmu_12_01_walk.bvh")
    joints = to_smpl22(bvh.joints(), bvh.names) * 0.0564
    _upright(joints)
    forward = joints[-1, 0] - joints[0, 0]
    assert np.cross([0, 1, 0], forward) @ (joints[:, 1] - joints[:, 2]).mean(0) > 0


def test_names_without_prefix():
    assert joint_map.plain("mixamorig:Hips") == joint_map.plain("mixamorig_Hips") == "Hips"
