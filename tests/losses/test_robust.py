"""Smooth L1 against its two cases written out."""

import jax
import numpy as np
import pytest

from vtjax.losses.robust import smooth_l1


def slow(errors, beta):
    return sum(0.5 * e * e / beta if abs(e) < beta else abs(e) - 0.5 * beta for e in errors)


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_both_cases_with_and_without_a_mask(beta):
    rng = np.random.default_rng(0)
    a, b = 2 * rng.normal(size=(2, 3, 4)).astype(np.float32), rng.normal(size=(2, 3, 4)).astype(np.float32)
    mask = np.array([[1, 1, 0], [1, 0, 0]], bool)
    total, weight = smooth_l1(a, b, beta=beta)
    assert float(weight) == 24 and float(total) == pytest.approx(slow((a - b).ravel(), beta), rel=1e-5)
    total, weight = smooth_l1(a, b, mask, beta=beta)
    assert float(weight) == 12 and float(total) == pytest.approx(slow((a - b)[mask].ravel(), beta), rel=1e-5)


def test_gradient_is_the_clipped_error():
    e = np.array([-3.0, -1.0, -0.4, 0.0, 0.4, 1.0, 3.0], np.float32)
    grad = jax.grad(lambda x: smooth_l1(x, np.zeros_like(e))[0])(e)
    np.testing.assert_allclose(grad, np.clip(e, -1, 1), atol=1e-6)


def test_masked_rows_may_hold_anything():
    prediction = np.array([[1.0, 2.0], [np.nan, np.inf]], np.float32)
    total, weight = smooth_l1(prediction, np.zeros((2, 2), np.float32), np.array([True, False]))
    assert float(total) == 0.5 + 1.5 and float(weight) == 2
