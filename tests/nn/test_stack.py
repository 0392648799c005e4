"""Scanned and rematerialised stacks compute what looped ones do, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.errors import VtjaxError
from vtjax.nn.actor import ActorDecoder, ActorEncoder
from vtjax.nn.bert import BertConfig, BertEncoder
from vtjax.nn.stack import REMAT
from vtjax.nn.transformer import LayerConfig
from vtjax.nn.vit import stack_layers, unstack_layers

RNG = np.random.default_rng(0)
X, MASK = RNG.standard_normal((2, 4, 5)).astype(np.float32), np.array([[1, 1, 1, 0], [1, 1, 1, 1]], bool)
IDS = RNG.integers(0, 20, (2, 4)).astype(np.int32)
LAYER = LayerConfig(2, 16)
BERT = BertConfig(
    vocab_size=20, width=8, layers=2, heads=2, ffn_width=16, positions=8, dropout=0.0, attention_dropout=0.0
)
MODELS = {
    "encoder": (lambda **how: ActorEncoder(8, 2, LAYER, **how), (X, MASK)),
    "decoder": (lambda **how: ActorDecoder(3, 2, LAYER, **how), (X[:, 0, :4].repeat(2, axis=1), MASK)),
    "bert": (lambda **how: BertEncoder(BERT, **how), (IDS, MASK)),
}


@pytest.mark.parametrize("name", MODELS)
def test_scan_and_remat_change_nothing(name):
    make, inputs = MODELS[name]
    params = jax.jit(make().init)(jax.random.key(0), *inputs)["params"]

    def gradient(params, **how):
        return jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(make(**how).apply({"params": p}, *inputs)))))(params)

    expected = gradient(params)
    scanned = unstack_layers(gradient(stack_layers(params), scan=True, remat="full"))
    looped = gradient(params, remat="dots")
    def close(a, b):  # sums of terms as large as the largest entry: up to 42 in the embeddings
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6 * max(1.0, float(jnp.abs(b).max())))

    for found in (scanned, looped):
        jax.tree.map(close, found, expected)


def test_a_scan_initialises_the_parameters_of_all_layers():
    make, inputs = MODELS["bert"]
    shapes = lambda tree: jax.tree.map(lambda x: x.shape, tree)
    looped = jax.eval_shape(make().init, jax.random.key(0), *inputs)["params"]
    scanned = jax.eval_shape(make(scan=True).init, jax.random.key(0), *inputs)["params"]
    assert shapes(jax.eval_shape(stack_layers, looped)) == shapes(scanned)


def test_scanned_dropout_is_a_function_of_its_key():
    encoder = ActorEncoder(8, 2, LayerConfig(2, 16, dropout=0.5), scan=True, remat="full")
    variables = jax.jit(encoder.init)(jax.random.key(0), X, MASK)
    run = lambda seed: encoder.apply(variables, X, MASK, train=True, rngs={"dropout": jax.random.key(seed)})
    once, again, other = run(1), run(1), run(2)
    np.testing.assert_array_equal(once, again)
    assert np.abs(once - other).max() > 0.01


def test_unknown_policies_are_refused():
    assert set(REMAT) == {"none", "full", "dots", "dots_no_batch"}
    with pytest.raises(VtjaxError, match="remat='ful'.*did you mean 'full'"):
        BertEncoder(BERT, remat="ful").init(jax.random.key(0), IDS, MASK)
