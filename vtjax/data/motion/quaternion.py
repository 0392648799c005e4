"""Unit quaternions (w, x, y, z) in NumPy, vectorised over leading axes, in the precision of their inputs.

A quaternion maps a vector v to q v q^-1, and multiply(a, b) applies b first.
"""

from __future__ import annotations

import numpy as np

_TINY = 1e-12


def normalize(v: np.ndarray) -> np.ndarray:
    """`v` [..., n] divided by its length; a zero vector stays zero."""
    length = np.sqrt(np.sum(v * v, axis=-1, keepdims=True))
    return v / np.where(length > 0, length, 1)


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cross product over the last axis, [..., 3] broadcast; several times faster than np.cross on small arrays."""
    ax, ay, az = a[..., 0], a[..., 1], a[..., 2]
    bx, by, bz = b[..., 0], b[..., 1], b[..., 2]
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=-1)


def perpendicular(v: np.ndarray) -> np.ndarray:
    """A unit vector at right angles to each unit vector [..., 3]: as near to +Y as can be, +X where `v` is vertical."""
    x, y = np.eye(3, dtype=v.dtype)[:2]
    towards_y = y - v[..., 1:2] * v
    vertical = np.sum(towards_y * towards_y, axis=-1, keepdims=True) < 1e-6
    return normalize(np.where(vertical, x - v[..., :1] * v, towards_y))


def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Shortest rotation taking direction `a` [..., 3] to `b` [..., 3] -> [..., 4]; lengths need not be 1.

    Opposite directions have no shortest rotation; there a half turn about `perpendicular(a)` is returned, which for
    horizontal vectors is the vertical axis.
    """
    a, b = np.broadcast_arrays(a, b)
    square = np.sum(a * a, axis=-1) * np.sum(b * b, axis=-1)
    w = np.sqrt(square) + np.sum(a * b, axis=-1)
    q = np.concatenate([w[..., None], cross(a, b)], axis=-1)
    opposite = np.sum(q * q, axis=-1) <= _TINY * square
    if np.any(opposite):
        q[opposite, 0] = 0
        q[opposite, 1:] = perpendicular(normalize(a[opposite]))
    return normalize(q)


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamilton product a b, [..., 4] broadcast: the rotation that applies `b`, then `a`."""
    aw, av, bw, bv = a[..., :1], a[..., 1:], b[..., :1], b[..., 1:]
    w = aw * bw - np.sum(av * bv, axis=-1, keepdims=True)
    return np.concatenate([w, aw * bv + bw * av + cross(av, bv)], axis=-1)


def inverse(q: np.ndarray) -> np.ndarray:
    """Inverse of unit quaternions [..., 4], which is the conjugate."""
    return q * np.array([1, -1, -1, -1], q.dtype)


def rotate(q: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Vectors `v` [..., 3] rotated by unit quaternions `q` [..., 4], leading axes broadcast."""
    w, axis = q[..., :1], q[..., 1:]
    once = cross(axis, v)
    return v + 2 * (w * once + cross(axis, once))


def about_y(half_angle: np.ndarray) -> np.ndarray:
    """Rotation about +Y by twice `half_angle` (radians, [...]) -> [..., 4]; the features store half angles."""
    zero = np.zeros_like(half_angle)
    return np.stack([np.cos(half_angle), zero, np.sin(half_angle), zero], axis=-1)


def from_rotation_vector(vector: np.ndarray) -> np.ndarray:
    """Rotation about the direction of `vector` [..., 3] by its length in radians -> [..., 4]."""
    angle = np.sqrt(np.sum(vector * vector, axis=-1, keepdims=True))
    return np.concatenate([np.cos(angle / 2), np.sinc(angle / (2 * np.pi)) / 2 * vector], axis=-1)


def to_matrix(q: np.ndarray) -> np.ndarray:
    """Rotation matrices [..., 3, 3] of unit quaternions [..., 4]; columns are the images of x, y and z."""
    w, x, y, z = (q[..., i] for i in range(4))
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def to_rotation_6d(q: np.ndarray) -> np.ndarray:
    """First two columns of the rotation matrix, one after the other: [..., 4] -> [..., 6]."""
    matrix = to_matrix(q)
    return np.concatenate([matrix[..., 0], matrix[..., 1]], axis=-1)
