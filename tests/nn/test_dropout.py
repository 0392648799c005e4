"""The mask's statistics, and that it depends on key and site and on nothing else."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vtjax.nn.dropout import Dropout, keep_mask


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_rate_overall_and_along_every_axis(rate):
    kept = np.asarray(keep_mask(jax.random.key(0), rate, (64, 32, 48)))
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        count = kept.size // kept.shape[axis]
        z = (kept.mean(axis=others) - (1 - rate)) / np.sqrt(rate * (1 - rate) / count)
        assert np.abs(z).max() < 4.5 and stats.kstest(z, "norm").pvalue > 1e-3


def test_no_correlation_between_neighbours_or_keys():
    shape = (512, 512)
    masks = [np.asarray(keep_mask(jax.random.fold_in(jax.random.key(3), i), 0.5, shape)) for i in range(3)]
    first = masks[0] - 0.5
    rolled = [np.roll(first, shift, (0, 1)) for shift in ((0, 1), (1, 0), (2, 3), (0, 256))]
    for other in [*(m - 0.5 for m in masks[1:]), *rolled]:
        assert abs((first * other).mean() * 4) < 4.5 / 512


def test_any_key_type_and_consecutive_seeds():
    masks = [keep_mask(jax.random.key(s, impl=impl), 0.5, (4096,)) for s in (0, 1) for impl in ("threefry2x32", "rbg")]
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert 0.45 < float((a == b).mean()) < 0.55
    bits = [np.asarray(keep_mask(jax.random.key(s), 0.5, (1,)))[0] for s in range(400)]
    assert 160 < sum(bits) < 240


class TwoSites(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Dropout(0.25)(x, deterministic=False), Dropout(0.25, deterministic=False)(x)


def test_module_scales_differs_by_site_and_key_and_rests_in_evaluation():
    x = jnp.ones((64, 64))
    run = lambda seed: TwoSites().apply({}, x, rngs={"dropout": jax.random.key(seed)})
    (a, b), (c, _) = run(0), run(1)
    assert set(np.unique(a).tolist()) == {0.0, np.float32(1 / 0.75)}
    for other in (b, c):
        assert 0.55 < float((a == other).mean()) < 0.70  # 0.625 for independent masks
    np.testing.assert_array_equal(run(0)[0], a)
    np.testing.assert_array_equal(Dropout(0.25, deterministic=True).apply({}, x), x)
    np.testing.assert_array_equal(Dropout(0.0).apply({}, x, deterministic=False), x)
    low = Dropout(0.5).apply({}, x.astype(jnp.bfloat16), False, rngs={"dropout": jax.random.key(0)})
    assert low.dtype == jnp.bfloat16


def test_gradient_is_the_mask_scaled():
    x = jnp.ones((32,))
    drop = lambda y: Dropout(0.5, deterministic=False).apply({}, y, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(jax.grad(lambda y: drop(y).sum())(x), drop(x))


def test_the_same_mask_on_any_mesh():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    mask = lambda key: keep_mask(key, 0.3, (16, 5))
    np.testing.assert_array_equal(jax.jit(mask, out_shardings=where)(jax.random.key(0)), mask(jax.random.key(0)))
