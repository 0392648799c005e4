"""The parallel adapter of AdaptFormer, and stochastic depth."""

import jax
import numpy as np

from vtjax.nn.adapter import ParallelAdapter
from vtjax.nn.dropout import DropPath

X = np.random.default_rng(0).normal(size=(3, 5, 12)).astype(np.float32)


def test_the_formula_and_the_start_at_zero():
    module = ParallelAdapter(4, 0.1, 0.1)
    params = module.init(jax.random.key(0), X)["params"]
    np.testing.assert_array_equal(module.apply({"params": params}, X), 0)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params)
    down, up = params["down"], params["up"]
    expected = 0.1 * (np.maximum(X @ down["kernel"] + down["bias"], 0) @ up["kernel"] + up["bias"])
    np.testing.assert_allclose(module.apply({"params": params}, X), expected, atol=1e-5)


def test_the_first_matrix_is_kaiming_uniform():
    """torch.nn.init.kaiming_uniform_(a=sqrt(5)): uniform within 1 / sqrt(fan_in)."""
    module = ParallelAdapter(64)
    kernel = np.asarray(module.init(jax.random.key(0), np.zeros((1, 512), np.float32))["params"]["down"]["kernel"])
    bound = 512**-0.5
    assert np.abs(kernel).max() <= bound and np.abs(kernel).max() > 0.99 * bound
    np.testing.assert_allclose(kernel.std(), bound / 3**0.5, rtol=0.02)


def test_drop_path_drops_whole_examples():
    x = np.ones((4000, 2, 3), np.float32)
    y = np.asarray(DropPath(0.25, deterministic=False).apply({}, x, rngs={"dropout": jax.random.key(0)}))
    per_example = y.reshape(4000, -1)
    assert (per_example == per_example[:, :1]).all()
    assert set(np.unique(y).round(5)) == {0.0, np.float32(1 / 0.75).round(5)}
    assert abs((per_example[:, 0] == 0).mean() - 0.25) < 0.03
    np.testing.assert_array_equal(DropPath(0.25).apply({}, x), x)
