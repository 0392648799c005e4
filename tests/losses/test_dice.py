"""Dice and focal loss against slow loops, and the vectors of ovoad.md section 14."""

import numpy as np
import pytest

from vtjax.losses.dice import dice, focal

ONE, NONE = np.ones((1, 32), np.float32), np.zeros((1, 32), np.float32)


@pytest.mark.parametrize(
    "p, g, expected", [(ONE, ONE, 0.0), (NONE, NONE, 0.0), (NONE, ONE, 1 - 1 / 33), (ONE, NONE, 1 - 1 / 33)]
)
def test_sheet_vectors(p, g, expected):
    total, weight = dice(p, g)
    np.testing.assert_allclose(total, expected, atol=1e-6)
    assert float(weight) == 1


def example():
    rng = np.random.default_rng(0)
    return rng.random((4, 9)).astype(np.float32), rng.random((4, 9)) < 0.4, rng.random((4, 9)) < 0.8


def test_dice_against_a_slow_loop():
    p, g, valid = example()
    for mask in (None, valid):
        expected = 0.0
        for b in range(4):
            seen = [n for n in range(9) if mask is None or mask[b, n]]
            overlap = sum(float(p[b, n]) * g[b, n] for n in seen)
            expected += 1 - (2 * overlap + 1) / (sum(float(p[b, n]) for n in seen) + sum(g[b, n] for n in seen) + 1)
        total, weight = dice(p, g, mask)
        np.testing.assert_allclose(total, expected, rtol=1e-5)
        assert float(weight) == 4


def test_focal_against_a_slow_loop():
    p, g, valid = example()
    expected, count = 0.0, 0
    for b, n in np.ndindex(4, 9):
        if valid[b, n]:
            right, share = (p[b, n], 0.25) if g[b, n] else (1 - p[b, n], 0.75)
            expected -= share * (1 - float(right)) ** 2 * np.log(float(right))
            count += 1
    total, weight = focal(p, g, valid)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert float(weight) == count
    assert np.isfinite(focal(NONE, ONE)[0])
