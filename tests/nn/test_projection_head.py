"""The projection head against its formula in numpy."""

import jax
import numpy as np
from scipy.special import erf

from vtjax.nn.projection_head import ProjectionHead


def test_matches_the_formula():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 5)).astype(np.float32)
    head = ProjectionHead(width=4)
    params = jax.tree.map(
        lambda p: rng.normal(size=p.shape).astype(np.float32), head.init(jax.random.key(0), x)["params"]
    )
    y = x @ params["project"]["kernel"] + params["project"]["bias"]
    gelu = 0.5 * y * (1 + erf(y / np.sqrt(2)))
    h = gelu @ params["transform"]["kernel"] + params["transform"]["bias"] + y
    normed = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
    expected = normed * params["norm"]["scale"] + params["norm"]["bias"]
    np.testing.assert_allclose(head.apply({"params": params}, x), expected, atol=1e-5)


def test_dropout_spares_the_residual_path():
    x = np.ones((2, 5), np.float32)
    head = ProjectionHead(width=64, dropout=0.5)
    variables = head.init(jax.random.key(0), x)
    out = [head.apply(variables, x, train=True, rngs={"dropout": jax.random.key(s)}) for s in (1, 1, 2)]
    np.testing.assert_array_equal(out[0], out[1])
    assert not np.array_equal(out[0], out[2])
    assert np.abs(out[0]).min() > 0  # a dropped unit still has y
