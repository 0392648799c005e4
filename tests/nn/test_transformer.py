"""Transformer layers: composition, names, dtypes, partition rules (numbers against torch: tests/parity/test_tmr.py)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.errors import VtjaxError
from vtjax.nn.transformer import RULES, Decoder, Encoder, EncoderLayer, LayerConfig, LayerNorm, activation, quick_gelu
from vtjax.sharding.mesh import AXES
from vtjax.sharding.partition import flatten, partition

# Compiling is most of the time here; the results are the same to rounding.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
LAYER = LayerConfig(heads=2, hidden=16)


def random_like(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32) * 0.5, tree)


def test_activations():
    x = np.linspace(-4, 4, 33).astype(np.float32)
    np.testing.assert_allclose(quick_gelu(x), x / (1 + np.exp(-1.702 * x)), atol=1e-6)
    exact, tanh = activation("gelu")(x), activation("gelu_tanh")(x)
    assert 1e-5 < np.abs(exact - tanh).max() < 1e-2
    assert activation(np.tanh) is np.tanh
    with pytest.raises(VtjaxError, match="did you mean 'quick_gelu'"):
        activation("quickgelu")


def test_layer_norm_is_float32_inside():
    rng = np.random.default_rng(0)
    x = (100 + rng.normal(size=(3, 64))).astype(np.float32)
    params = {"scale": rng.normal(size=64).astype(np.float32), "bias": rng.normal(size=64).astype(np.float32)}
    x64 = x.astype(np.float64)
    expected = (x64 - x64.mean(-1, keepdims=True)) / np.sqrt(x64.var(-1, keepdims=True) + 1e-5)
    expected = expected * params["scale"] + params["bias"]
    np.testing.assert_allclose(LayerNorm().apply({"params": params}, x), expected, atol=2e-4)
    low = LayerNorm().apply({"params": params}, jnp.asarray(x, jnp.bfloat16))
    assert low.dtype == jnp.bfloat16


def test_pre_norm_stack_is_the_sum_of_its_branches():
    """With the output projections at zero a pre-norm stack is the identity; a post-norm one normalises."""
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    for pre_norm, final_norm in ((True, False), (True, True), (False, False)):
        stack = Encoder(LayerConfig(heads=2, hidden=16, pre_norm=pre_norm), 2, final_norm=final_norm)
        params = jit(stack.init)(jax.random.key(0), x)["params"]
        params = jax.tree_util.tree_map_with_path(
            lambda path, p: p * 0 if path[-2].key in ("out", "down") else p, params
        )
        normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        expected = x if pre_norm and not final_norm else normed
        np.testing.assert_allclose(jit(stack.apply)({"params": params}, x), expected, atol=1e-4)


def test_names_are_stable():
    x, memory = jnp.zeros((1, 3, 8)), jnp.zeros((1, 2, 8))
    encoder = flatten(jax.eval_shape(Encoder(LAYER, 2).init, jax.random.key(0), x)["params"])
    modules = {"attention/query", "attention/key", "attention/value", "attention/out", "ffn/up", "ffn/down"}
    assert {n.rpartition("/")[0] for n in encoder} == {
        f"layer_{i}/{m}" for i in range(2) for m in modules | {"norm1", "norm2"}
    }
    decoder = flatten(jax.eval_shape(Decoder(LAYER, 1, True).init, jax.random.key(0), x, memory)["params"])
    assert {n.split("/")[1] for n in decoder if n.startswith("layer_0")} == {
        "self_attention", "cross_attention", "ffn", "norm1", "norm2", "norm3",
    }  # fmt: skip
    assert "norm/scale" in decoder


def test_rules_cover_and_shard_every_parameter():
    x = jnp.zeros((1, 3, 8))
    params = jax.eval_shape(Decoder(LAYER, 1, True).init, jax.random.key(0), x, x)["params"]
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()).reshape(2, 2, 2), AXES)
    specs = partition(params, RULES, mesh).specs
    spec = jax.sharding.PartitionSpec
    assert specs["layer_0/ffn/up/kernel"] == spec("fsdp", "tensor")
    assert specs["layer_0/cross_attention/out/kernel"] == spec("tensor", None, "fsdp")
    assert specs["layer_0/norm3/scale"] == specs["norm/bias"] == spec()


def test_causal_mask_hides_the_future_and_dtype_is_kept():
    from vtjax.nn.attention import causal_mask

    layer = EncoderLayer(LayerConfig(heads=2, hidden=16, dtype=jnp.bfloat16))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 8)), jnp.bfloat16)
    initial, apply = jit(layer.init)(jax.random.key(0), x), jit(layer.apply)
    assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype("float32")}
    variables = {"params": random_like(initial["params"])}
    out = apply(variables, x, causal_mask(5))
    assert out.dtype == jnp.bfloat16
    changed = apply(variables, x.at[:, 3:].add(1), causal_mask(5))
    np.testing.assert_array_equal(out[:, :3], changed[:, :3])
    assert not np.array_equal(out[:, 3:], changed[:, 3:])


def test_dropout_needs_training_and_a_key():
    x = np.random.default_rng(0).normal(size=(1, 4, 8)).astype(np.float32)
    layer = EncoderLayer(LayerConfig(heads=2, hidden=16, dropout=0.3))
    variables = jit(layer.init)(jax.random.key(0), x)
    apply = jit(layer.apply, static_argnames="train")
    run = lambda seed: apply(variables, x, train=True, rngs={"dropout": jax.random.key(seed)})
    np.testing.assert_array_equal(apply(variables, x), apply(variables, x))
    np.testing.assert_array_equal(run(1), run(1))
    assert not np.array_equal(run(1), run(2))
