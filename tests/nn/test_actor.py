"""ACTOR-style encoder and decoder: padding, patches and positions (numbers against torch: tests/parity/test_tmr.py)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.errors import VtjaxError
from vtjax.nn.actor import RULES, ActorDecoder, ActorEncoder
from vtjax.nn.transformer import LayerConfig
from vtjax.sharding.mesh import AXES
from vtjax.sharding.partition import partition

# Compiling is most of the time here; the results are the same to rounding.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
LAYER = LayerConfig(heads=2, hidden=32, dropout=0.1, attention_dropout=0.1)


def example(length=12, features=5, valid=(12, 7)):
    x = np.random.default_rng(0).normal(size=(len(valid), length, features)).astype(np.float32)
    mask = np.arange(length) < np.asarray(valid)[:, None]
    return np.where(mask[..., None], x, 0).astype(np.float32), mask


@functools.cache
def encoder(patch=1, tokens=2):
    """(apply, variables), compiled as a whole: eager Linen compiles each primitive by itself."""
    module = ActorEncoder(16, 1, LAYER, tokens, patch)
    variables = jit(module.init)(jax.random.key(0), *example())
    return jit(module.apply, static_argnames="train"), variables


@pytest.mark.parametrize("patch", [1, 3])
def test_more_padding_and_what_stands_in_it_change_nothing(patch):
    apply, variables = encoder(patch)
    x, mask = example()
    expected = apply(variables, x, mask)
    assert expected.shape == (2, 2, 16) and expected.dtype == jnp.float32
    longer = np.concatenate([np.where(mask[..., None], x, np.nan), np.full((2, 6, 5), np.nan, np.float32)], axis=1)
    got = apply(variables, longer, np.concatenate([mask, np.zeros((2, 6), bool)], axis=1))
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_valid_rows_their_order_and_the_length_matter():
    apply, variables = encoder()
    x, mask = example()
    out = apply(variables, x, mask)
    assert np.abs(apply(variables, x[:, ::-1], mask)[0] - out[0]).max() > 1e-2
    assert np.abs(apply(variables, x, mask & (np.arange(12) < 11))[0] - out[0]).max() > 1e-3


def test_a_patch_is_valid_when_any_of_its_frames_is():
    apply, variables = encoder(patch=4)
    x, _ = example()
    four, five, eight = (np.broadcast_to(np.arange(12) < n, (2, 12)) for n in (4, 5, 8))
    x = np.where((np.arange(12) < 5)[:, None], x, 0)
    # Frames 5..7 are zeros: with frame 4 valid, the second token is the same whether they are valid or not.
    np.testing.assert_allclose(apply(variables, x, five), apply(variables, x, eight), atol=1e-6)
    assert np.abs(apply(variables, x, four) - apply(variables, x, five)).max() > 1e-3


def test_one_token_gives_one_vector():
    apply, variables = encoder(tokens=1)
    assert variables["params"]["tokens"].shape == (1, 16)
    assert apply(variables, *example()).shape == (2, 1, 16)


def test_length_must_be_a_multiple_of_the_patch():
    with pytest.raises(VtjaxError, match="length 12 is not a multiple of patch=5"):
        encoder(patch=5)


@pytest.mark.parametrize("patch", [1, 4])
def test_decoder_zeroes_padding_and_ignores_its_length(patch):
    module = ActorDecoder(5, 1, LAYER, patch)
    apply = jit(module.apply)
    z = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)
    _, mask = example(valid=(12, 8))
    variables = jit(module.init)(jax.random.key(0), z, mask)
    out = apply(variables, z, mask)
    assert out.shape == (2, 12, 5) and out.dtype == jnp.float32
    assert (np.asarray(out)[~mask] == 0).all() and (np.asarray(out)[mask] != 0).any(axis=-1).all()
    longer = apply(variables, z, np.concatenate([mask, np.zeros((2, 4), bool)], axis=1))
    np.testing.assert_allclose(longer[:, :12], out, atol=1e-5)
    assert np.abs(apply(variables, z + 1, mask) - out).max() > 1e-3


def test_decoder_patches_lie_in_frame_order():
    """With the last kernel at zero every token emits its bias: frame f shows part f % patch of it."""
    module = ActorDecoder(2, 1, LAYER, patch=3)
    z, mask = np.zeros((1, 16), np.float32), np.ones((1, 6), bool)
    params = jit(module.init)(jax.random.key(0), z, mask)["params"]
    params["final"] = {"kernel": params["final"]["kernel"] * 0, "bias": jnp.arange(6.0)}
    out = module.apply({"params": params}, z, mask)
    np.testing.assert_array_equal(out[0], np.tile(np.arange(6.0).reshape(3, 2), (2, 1)))


def test_dropout_differs_between_items_and_keys():
    apply, variables = encoder()
    x, mask = example(valid=(12, 12))
    same = np.broadcast_to(x[:1], x.shape)
    run = lambda seed: apply(variables, same, mask, train=True, rngs={"dropout": jax.random.key(seed)})
    assert not np.array_equal(run(0)[0], run(0)[1]) and not np.array_equal(run(0), run(1))
    np.testing.assert_array_equal(run(0), run(0))


def test_bfloat16_compute_stays_close():
    x, mask = example()
    apply, variables = encoder()
    low = ActorEncoder(16, 1, LayerConfig(heads=2, hidden=32, dtype=jnp.bfloat16))
    low = jit(low.apply)(variables, x, mask)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, apply(variables, x, mask), atol=0.1)


def test_rules_cover_every_parameter():
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()).reshape(2, 2, 2), AXES)
    _, variables = encoder()
    inputs = (np.zeros((1, 16)), np.ones((1, 3), bool))
    decoder = jax.eval_shape(ActorDecoder(5, 1, LAYER).init, jax.random.key(0), *inputs)
    for params in (variables["params"], decoder["params"]):
        assert partition(params, RULES, mesh).replicated_bytes > 0
