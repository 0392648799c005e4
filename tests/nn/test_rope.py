"""Rotary positions against complex multiplication."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.nn.positions import rope_tables, rotate


def complex_rotation(x, positions, theta):
    """Channel i of the first half and channel i of the second, read as a complex number, times e^(i position f_i)."""
    x = np.asarray(x, np.float64)
    half = x.shape[-1] // 2
    out = np.zeros_like(x)
    for b, t, h in np.ndindex(x.shape[:3]):
        for i in range(half):
            angle = positions[b, t] * theta ** (-2 * i / x.shape[-1])
            z = (x[b, t, h, i] + 1j * x[b, t, h, i + half]) * np.exp(1j * angle)
            out[b, t, h, i], out[b, t, h, i + half] = z.real, z.imag
    return out


@pytest.mark.parametrize("theta", [10000.0, 500000.0])
def test_against_complex_numbers(theta):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 3, 8)).astype(np.float32)
    positions = np.array([[0, 1, 2, 3, 4], [7, 0, 300, 2, 2]], np.int32)
    found = rotate(jnp.asarray(x), rope_tables(jnp.asarray(positions), 8, theta))
    np.testing.assert_allclose(found, complex_rotation(x, positions, theta), atol=3e-5)


def test_scores_depend_on_distance_only():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 64))

    def score(a, b):
        turned = [rotate(x, rope_tables(jnp.array([[p]]), 64)) for x, p in ((q, a), (k, b))]
        return float(jnp.sum(turned[0] * turned[1]))

    assert score(3, 1) == pytest.approx(score(503, 501), abs=1e-3)
    assert abs(score(3, 1) - score(3, 2)) > 1e-2


def test_keeps_dtype_but_computes_in_float32():
    x = jax.random.normal(jax.random.key(1), (1, 1, 1, 16))
    tables = rope_tables(jnp.array([[1000]]), 16)
    low = rotate(x.astype(jnp.bfloat16), tables)
    assert low.dtype == jnp.bfloat16 and tables[0].dtype == jnp.float32
    exact = rotate(x.astype(jnp.bfloat16).astype(jnp.float32), tables)
    np.testing.assert_array_equal(np.asarray(low, np.float32), np.asarray(exact.astype(jnp.bfloat16), np.float32))
