"""Every check against a motion made to fail exactly it."""

import numpy as np
import pytest

from vtjax.data.motion.clip import Caption
from vtjax.data.motion.skeleton import REST_DIRECTIONS, TARGET_BONE_LENGTHS, joints_from
from vtjax.data.motion.validate import (
    caption_rows,
    check_features,
    check_joints,
    guess_unit,
    leg_length,
    load_archive,
    load_array,
    scale_warning,
)
from vtjax.errors import Problems, VtjaxError


def standing(frames=30):
    pose = joints_from(np.array([0, 0.9, 0], np.float32), REST_DIRECTIONS * TARGET_BONE_LENGTHS[:, None])
    return np.tile(pose, (frames, 1, 1))


def with_value(value):
    joints = standing()
    joints[7, 3, 1] = value
    return joints


@pytest.mark.parametrize(
    "joints, options, words",
    [
        (standing()[:, :21], {}, ["22 joints", "21 joints", "joint map"]),
        (standing()[:1], {}, ["1-frame clip", "at least 2 frames"]),
        (standing()[:0], {}, ["no frames"]),
        (standing(8), {"min_frames": 10}, ["too short", "10", "8 frames"]),
        (standing(30), {"max_frames": 20}, ["too long", "20", "30 frames"]),
        (with_value(np.nan), {}, ["NaN", "1 of 30", "first is 7, joint spine1"]),
        (with_value(np.inf), {}, ["infinite"]),
        (standing()[:, 0], {}, ["[frames, joints, 3]", "[30, 3]"]),
        (standing().astype(complex), {}, ["real numbers", "complex"]),
        (standing(), {"fps": 0.0}, ["frame rate", "0"]),
        (standing(), {"fps": float("nan")}, ["frame rate"]),
        (standing() * 0, {}, ["no length"]),
    ],
)
def test_joint_defects(joints, options, words):
    with pytest.raises(VtjaxError) as error:
        check_joints(joints, "file.npy", **options)
    assert str(error.value).startswith("file.npy: ")
    for word in words:
        assert word in str(error.value)
    problems = Problems()
    assert not check_joints(joints, "file.npy", problems=problems, **options)
    assert len(problems) == 1 and "file.npy" in problems.items[0].where


def test_good_joints_pass_and_reasons_group():
    problems = Problems()
    assert check_joints(standing(), "a", problems=problems) and not len(problems)
    for count in (20, 21, 24):
        check_joints(np.zeros((5, count, 3)), f"file{count}", problems=problems)
    assert list(problems.counts().values()) == [3]


@pytest.mark.parametrize(
    "features, word",
    [
        (np.zeros((5, 251), np.float32), "251 is KIT"),
        (np.zeros((5, 263), int), "floating point"),
        (np.full((5, 263), np.nan, np.float32), "5 of 5 frames, the first is 0, feature 0"),
        (np.zeros((0, 263), np.float32), "no frames"),
    ],
)
def test_feature_defects(features, word):
    with pytest.raises(VtjaxError, match=word):
        check_features(features, "x")


@pytest.mark.parametrize(
    "per_metre, name", [(1, "metres"), (100, "centimetres"), (1000, "millimetres"), (39.37, "inches"), (17.72, "CMU")]
)
def test_units(per_metre, name):
    found, metres = guess_unit(standing() * per_metre)
    assert name in found
    assert metres == pytest.approx(1 / per_metre, rel=1e-3)
    assert (scale_warning(standing() * per_metre) == "") == (per_metre == 1)


def test_leg_length_and_unknown_unit():
    assert leg_length(standing()) == pytest.approx((0.393623 + 0.390188 + 0.432433 + 0.425643) / 2, abs=1e-5)
    name, metres = guess_unit(standing() * 5)
    assert "unknown" in name
    assert leg_length(standing() * 5) * metres == pytest.approx(0.390188 + 0.425643)


def test_axis_warning():
    assert "Y up" in scale_warning(standing()[..., [0, 2, 1]])


def test_caption_rows_follow_int_of_20_times_seconds():
    assert caption_rows(Caption("x"), 50) == (0, 50)
    assert caption_rows(Caption("x", start=0.37, end=1.99), 50) == (7, 39)
    assert caption_rows(Caption("x", start=1.0, end=9.0), 50) == (20, 50)


def test_load_array_messages(tmp_path):
    good = tmp_path / "good.npy"
    np.save(good, np.arange(6000.0).reshape(20, 300))
    assert load_array(good).shape == (20, 300)
    cut = tmp_path / "cut.npy"
    cut.write_bytes(good.read_bytes()[:-100])
    short = tmp_path / "short.npy"
    short.write_bytes(good.read_bytes()[:40])
    for path in (cut, short):
        with pytest.raises(VtjaxError, match="truncated npy"):
            load_array(path)
    (tmp_path / "text.npy").write_text("hello " * 100)
    with pytest.raises(VtjaxError, match="not a .npy file"):
        load_array(tmp_path / "text.npy")
    with pytest.raises(VtjaxError, match="no such file"):
        load_array(tmp_path / "absent.npy")
    np.save(tmp_path / "pickled.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(VtjaxError, match="pickled"):
        load_array(tmp_path / "pickled.npy")


def test_load_archive_messages(tmp_path):
    good = tmp_path / "good.npz"
    np.savez(good, a=np.zeros(1000), b=np.ones(2))
    assert set(load_archive(good)) == {"a", "b"}
    (tmp_path / "cut.npz").write_bytes(good.read_bytes()[:600])
    with pytest.raises(VtjaxError, match="truncated or damaged"):
        load_archive(tmp_path / "cut.npz")
    with pytest.raises(VtjaxError, match="no such file"):
        load_archive(tmp_path / "absent.npz")
