"""Dropout of the BERT encoder; its values against published code are in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np

from vtjax.nn.bert import BertConfig, BertEmbeddings, BertEncoder

SIZES = {"vocab_size": 50, "width": 16, "layers": 1, "heads": 2, "ffn_width": 16, "positions": 40}
IDS, MASK = jnp.arange(24).reshape(2, 12), jnp.ones((2, 12), bool)


def test_dropout_acts_in_training_only_and_is_a_function_of_the_key():
    config = BertConfig(**SIZES)
    variables = jax.jit(BertEncoder(config).init)(jax.random.key(0), IDS, MASK)

    def encoder(config, train):
        apply = jax.jit(lambda key: BertEncoder(config).apply(variables, IDS, MASK, train=train, rngs={"dropout": key}))
        return lambda seed: np.asarray(apply(jax.random.key(seed)))

    plain, dropped = encoder(config, False)(0), encoder(config, True)
    first = dropped(1)
    np.testing.assert_array_equal(first, dropped(1))
    assert np.abs(first - dropped(2)).max() > 0.1 < np.abs(first - plain).max()
    none = BertConfig(**SIZES, dropout=0.0, attention_dropout=0.0)
    np.testing.assert_allclose(encoder(none, True)(1), plain, atol=1e-6)


def test_embeddings_are_dropped_at_the_configured_rate_and_rescaled():
    config = BertConfig(**SIZES, dropout=0.25)
    ids = jnp.tile(jnp.arange(40)[None], (20, 1))
    module = BertEmbeddings(config)
    variables = module.init(jax.random.key(0), ids, None, False)
    plain = np.asarray(module.apply(variables, ids, None, False))
    dropped = np.asarray(module.apply(variables, ids, None, True, rngs={"dropout": jax.random.key(3)}))
    share = (dropped == 0).mean()
    assert abs(share - 0.25) < 5 * np.sqrt(0.25 * 0.75 / dropped.size)
    np.testing.assert_allclose(dropped[dropped != 0], (plain / 0.75)[dropped != 0], rtol=1e-6)
