"""Quaternions against scipy's rotations."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vtjax.data.motion import quaternion


@pytest.fixture
def rotations():
    return Rotation.random(50, random_state=0), Rotation.random(50, random_state=1)


@pytest.fixture
def vectors():
    rng = np.random.default_rng(2)
    return rng.normal(size=(2, 50, 3)).astype(np.float32)


def wxyz(rotation):
    return np.roll(rotation.as_quat(), 1, axis=-1).astype(np.float32)


def matrix(q):
    return Rotation.from_quat(np.roll(q, -1, axis=-1)).as_matrix()


def test_multiply_inverse_rotate_matrix_and_6d_agree_with_scipy(rotations, vectors):
    a, b = rotations
    np.testing.assert_allclose(
        matrix(quaternion.multiply(wxyz(a), wxyz(b))), (a * b).as_matrix(), atol=1e-6
    )
    np.testing.assert_allclose(matrix(quaternion.inverse(wxyz(a))), a.inv().as_matrix(), atol=1e-6)
    np.testing.assert_allclose(quaternion.rotate(wxyz(a), vectors[0]), a.apply(vectors[0]), atol=2e-6)
    np.testing.assert_allclose(quaternion.to_matrix(wxyz(a)), a.as_matrix(), atol=1e-6)
    columns = a.as_matrix()[..., :2].transpose(0, 2, 1).reshape(50, 6)
    np.testing.assert_allclose(quaternion.to_rotation_6d(wxyz(a)), columns, atol=1e-6)


def test_axis_constructors_agree_with_scipy(vectors):
    angles = np.linspace(-3, 3, 50).astype(np.float32)
    expected = Rotation.from_rotvec(2 * angles[:, None] * [0, 1, 0]).as_matrix()
    np.testing.assert_allclose(matrix(quaternion.about_y(angles)), expected, atol=1e-6)
    turns = np.concatenate([vectors[0], np.zeros((1, 3), np.float32)])
    np.testing.assert_allclose(
        matrix(quaternion.from_rotation_vector(turns)), Rotation.from_rotvec(turns).as_matrix(), atol=1e-6
    )


def test_between_is_the_shortest_rotation_and_ignores_length(vectors):
    a, b = vectors
    q = quaternion.between(a, 3 * b)
    unit_a, unit_b = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (a, b))
    np.testing.assert_allclose(quaternion.rotate(q, unit_a), unit_b, atol=2e-6)
    np.testing.assert_allclose(
        Rotation.from_quat(np.roll(q, -1, axis=-1)).magnitude(), np.arccos(np.sum(unit_a * unit_b, axis=-1)), atol=2e-3
    )
    assert q.dtype == np.float32


def test_between_opposite_directions_is_a_half_turn_about_a_perpendicular_axis(vectors):
    a = np.concatenate([np.eye(3), -np.eye(3), vectors[0]]).astype(np.float32)
    q = quaternion.between(a, -2 * a)
    scale = np.linalg.norm(a, axis=-1, keepdims=True)
    np.testing.assert_allclose(quaternion.rotate(q, a) / scale, -a / scale, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(q, axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(np.abs(quaternion.between(a[2], -a[2])), [0, 0, 1, 0])  # turning back is about Y


def test_leading_axes_broadcast_and_identity_changes_nothing(vectors):
    a = vectors.reshape(2, 5, 10, 3)
    one = np.zeros((2, 5, 1, 4), np.float32)
    one[..., 0] = 1
    np.testing.assert_array_equal(quaternion.rotate(one, a), a)
    q = quaternion.between(a, a[:, :, ::-1])
    np.testing.assert_array_equal(quaternion.multiply(one, q), q)
    assert q.shape == (2, 5, 10, 4)
