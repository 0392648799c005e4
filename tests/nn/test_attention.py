"""Attention against loops over batch, head, query and key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.errors import VtjaxError
from vtjax.nn.attention import MultiHeadAttention, causal_mask, dot_product_attention, key_mask


def slow_attention(query, key, value, mask, scale):
    """mask: bool [B, H, Q, K]."""
    out = np.zeros(query.shape[:3] + (value.shape[3],))
    for b, q, h in np.ndindex(query.shape[:3]):
        logits = [scale * float(query[b, q, h] @ key[b, k, h]) for k in range(key.shape[1]) if mask[b, h, q, k]]
        values = [value[b, k, h] for k in range(key.shape[1]) if mask[b, h, q, k]]
        weights = np.exp(logits) / np.sum(np.exp(logits))
        out[b, q, h] = sum(w * v for w, v in zip(weights, values, strict=True))
    return out


@pytest.fixture
def qkv():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(2, n, 3, 4)).astype(np.float32) for n in (5, 6, 6)]


def test_matches_loops_under_a_ragged_mask(qkv):
    mask = np.random.default_rng(1).random((2, 3, 5, 6)) < 0.6
    mask[..., 0] = True
    got = dot_product_attention(*qkv, jnp.asarray(mask))
    np.testing.assert_allclose(got, slow_attention(*qkv, mask, 0.5), atol=1e-5)


def test_key_and_causal_masks_combine():
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, 4, 1, 2)).astype(np.float32) for _ in range(3))
    valid = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
    mask = key_mask(jnp.asarray(valid)) & causal_mask(4)
    expected = np.array([[[[valid[b, j] and j <= i for j in range(4)] for i in range(4)]] for b in range(2)])
    np.testing.assert_array_equal(mask, expected)
    got = dot_product_attention(q, k, v, mask, scale=1.0)
    np.testing.assert_allclose(got, slow_attention(q, k, v, expected, 1.0), atol=1e-5)


def test_logit_bias_is_added_after_scaling():
    q, k, v = jnp.zeros((1, 1, 1, 2)), jnp.zeros((1, 2, 1, 2)), jnp.asarray([[[[1.0, 0]], [[0, 1.0]]]])
    bias = jnp.log(jnp.asarray([[[[3.0, 1.0]]]]))
    np.testing.assert_allclose(dot_product_attention(q, k, v, logit_bias=bias)[0, 0, 0], [0.75, 0.25], atol=1e-6)


def test_a_query_that_sees_nothing_gets_the_mean_and_finite_gradients(qkv):
    mask = jnp.zeros((1, 1, 1, 6), bool)
    got = dot_product_attention(*qkv, mask)
    np.testing.assert_allclose(got[0, 0], qkv[2][0].mean(axis=0), atol=1e-6)
    grad = jax.grad(lambda q: dot_product_attention(q, qkv[1], qkv[2], mask).sum())(qkv[0])
    assert np.isfinite(grad).all()


def test_softmax_is_float32_for_bfloat16_inputs():
    """Two logits near 8 that differ by one bfloat16 step: their softmax is right to 1e-6."""
    key = jnp.full((1, 2, 1, 1), 8.0, jnp.bfloat16).at[0, 1].set(8.0625)
    query = jnp.ones((1, 1, 1, 1), jnp.bfloat16)
    value = jnp.asarray([[[[0.0]], [[1.0]]]])
    got = float(dot_product_attention(query, key, value, scale=1.0)[0, 0, 0, 0])
    assert got == pytest.approx(1 / (1 + np.exp(-0.0625)), abs=1e-6)


def test_module_has_the_documented_parameters_and_equals_loops():
    rng = np.random.default_rng(0)
    x, memory = rng.normal(size=(2, 3, 8)).astype(np.float32), rng.normal(size=(2, 5, 6)).astype(np.float32)
    module = MultiHeadAttention(heads=2)
    params = module.init(jax.random.key(0), x, memory)["params"]
    params = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params)
    shapes = {f"{a}/{b}": leaf.shape for a, leaves in params.items() for b, leaf in leaves.items()}
    assert shapes == {
        "query/kernel": (8, 2, 4),
        "key/kernel": (6, 2, 4),
        "value/kernel": (6, 2, 4),
        "out/kernel": (2, 4, 8),
        "query/bias": (2, 4),
        "key/bias": (2, 4),
        "value/bias": (2, 4),
        "out/bias": (8,),
    }
    project = lambda y, p: np.einsum("bld,dhe->blhe", y, p["kernel"]) + p["bias"]
    mixed = slow_attention(
        project(x, params["query"]),
        project(memory, params["key"]),
        project(memory, params["value"]),
        np.ones((2, 2, 3, 5), bool),
        0.5,
    )
    expected = np.einsum("blhe,hed->bld", mixed, params["out"]["kernel"]) + params["out"]["bias"]
    np.testing.assert_allclose(module.apply({"params": params}, x, memory), expected, atol=1e-4)


def test_dropout_acts_on_probabilities_in_training_only():
    x = jnp.ones((1, 4, 8))
    module = MultiHeadAttention(heads=2, dropout=0.5)
    variables = module.init(jax.random.key(0), x)

    def apply(seed, train):
        return module.apply(variables, x, train=train, rngs={"dropout": jax.random.key(seed)})

    np.testing.assert_array_equal(apply(1, False), apply(2, False))
    assert not np.array_equal(apply(1, True), apply(2, True))
    # Equal values: a row's output is the kept share of its (uniform) probabilities, a multiple of 1/4 over 0.5.
    out = variables["params"]["out"]["kernel"]
    values = jnp.einsum("bld,dhe->blhe", x, variables["params"]["value"]["kernel"])
    shares = jnp.linalg.lstsq(jnp.einsum("he,hed->dh", values[0, 0], out), apply(1, True)[0].T)[0]
    np.testing.assert_allclose(shares, np.round(np.asarray(shares) * 2) / 2, atol=1e-4)


def test_width_must_split_into_heads():
    with pytest.raises(VtjaxError, match="width 7 is not a multiple of heads=2"):
        MultiHeadAttention(heads=2).init(jax.random.key(0), jnp.zeros((1, 2, 7)))
