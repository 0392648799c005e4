"""Resampling against numpy's own interpolation, coordinate by coordinate."""

import numpy as np
import pytest

from vtjax.data.motion.resample import frame_count, resample
from vtjax.errors import VtjaxError


@pytest.mark.parametrize("fps", [12.5, 15.0, 29.97, 30.0, 60.0, 120.0])
def test_agrees_with_interp(fps):
    joints = np.random.default_rng(0).normal(size=(47, 3, 3))
    out = resample(joints, fps)
    times, grid = np.arange(47) / fps, np.arange(len(out)) / 20
    assert out.dtype == np.float32
    assert grid[-1] <= times[-1] + 1e-9 < grid[-1] + 1 / 20 + 1e-9
    for joint in range(3):
        for axis in range(3):
            np.testing.assert_allclose(
                out[:, joint, axis], np.interp(grid, times, joints[:, joint, axis]), atol=1e-6
            )


def test_same_rate_changes_nothing_and_multiples_pick_frames():
    joints = np.random.default_rng(1).normal(size=(31, 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(resample(joints, 20.0), joints)
    np.testing.assert_allclose(resample(joints, 60.0), joints[::3], atol=1e-6)


def test_counts():
    assert [frame_count(n, f) for n, f in ((0, 30), (1, 30), (2, 20), (61, 60), (120, 120))] == [0, 1, 2, 21, 20]


def test_half_floats_are_interpolated_in_full_precision():
    joints = np.array([[[1.0, 4.0, 0.0]], [[2.0, 4.004, 0.0]]], np.float16)
    np.testing.assert_allclose(resample(joints, 10.0)[1, 0], (joints[0, 0].astype(float) + joints[1, 0]) / 2, atol=1e-6)


def test_bad_rate():
    with pytest.raises(VtjaxError, match="positive"):
        resample(np.zeros((3, 2, 3)), 0.0)
