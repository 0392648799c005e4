"""The chunked next-token loss against a loop over tokens in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.losses.language import next_token_loss

RNG = np.random.default_rng(0)
B, L, D, V = 3, 7, 5, 11
HIDDEN = RNG.standard_normal((B, L, D)).astype(np.float32)
HEAD = RNG.standard_normal((D, V)).astype(np.float32)
IDS = RNG.integers(0, V, (B, L)).astype(np.int32)
COUNTED = RNG.random((B, L)) < 0.6


def slow(hidden, head):
    """Sum of -log softmax at the next token, tokens, and how often it was the largest."""
    total, count, hits = 0.0, 0, 0
    for b in range(B):
        for t in range(1, L):
            if COUNTED[b, t]:
                scores = hidden[b, t - 1].astype(np.float64) @ head.astype(np.float64)
                total -= scores[IDS[b, t]] - np.log(np.sum(np.exp(scores)))
                count += 1
                hits += int(np.argmax(scores) == IDS[b, t])
    return total, count, hits


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_against_the_loop(chunk):
    (missed, count), (hits, again) = next_token_loss(lambda h: h @ HEAD, HIDDEN, IDS, COUNTED, chunk)
    total, expected, right = slow(HIDDEN, HEAD)
    np.testing.assert_allclose(missed, total, rtol=1e-5)
    assert (count, again, hits) == (expected, expected, right)


@pytest.mark.parametrize("chunk", [2, 7])
def test_gradient_against_differences(chunk):
    loss = jax.jit(lambda h, w: next_token_loss(lambda x: x @ w, h, IDS, COUNTED, chunk)[0][0])
    found = jax.grad(loss, argnums=(0, 1))(HIDDEN, HEAD)
    for place, values in enumerate((HIDDEN, HEAD)):
        index = (1, 2, 3)[: values.ndim]
        ends = []
        for step in (1e-4, -1e-4):
            moved = [HIDDEN.astype(np.float64), HEAD.astype(np.float64)]
            moved[place][index] += step
            ends.append(slow(*moved)[0])
        np.testing.assert_allclose(found[place][index], (ends[0] - ends[1]) / 2e-4, rtol=2e-4, atol=1e-5)


def test_no_array_of_all_logits_is_formed():
    loss = lambda h: next_token_loss(lambda x: x @ HEAD, h, IDS, COUNTED, 2)[0][0]
    text = str(jax.make_jaxpr(jax.grad(loss))(HIDDEN))
    assert f"[{B},2,{V}]" in text and f"[{B},{L},{V}]" not in text and f"[4,{B},2,{V}]" not in text


def test_nothing_counted_is_zero():
    (missed, count), _ = next_token_loss(lambda h: h @ HEAD, HIDDEN, IDS, jnp.zeros((B, L), bool))
    assert missed == 0 and count == 0
