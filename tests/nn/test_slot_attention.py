"""Slot attention and its relatives against slow loops of the published algorithms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.errors import VtjaxError
from vtjax.nn.grouping import AssignAttention, Assignment, GroupingBlock
from vtjax.nn.gumbel_softmax import gumbel_softmax
from vtjax.nn.slot_attention import SlotAttention, SlotConfig, assign, normalised
from vtjax.nn.transformer import LayerConfig

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, 3, 7)).astype(np.float32)


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def layer_norm(x, p, eps=1e-5):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * p["scale"] + p["bias"]


def dense(x, p):
    return x @ p["kernel"] + p.get("bias", 0.0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru(state, update, p):
    """Cho et al., 2014, in the form of torch's GRUCell: the reset gate acts after the state's matrix."""
    r = sigmoid(dense(update, p["ir"]) + dense(state, p["hr"]))
    z = sigmoid(dense(update, p["iz"]) + dense(state, p["hz"]))
    n = np.tanh(dense(update, p["in"]) + r * dense(state, p["hn"]))
    return (1 - z) * n + z * state


def slow_slot_attention(p, slots, x, iterations, use_gru):
    """Algorithm 1 of arXiv 2006.15055, one slot and one input at a time."""
    count, width = slots.shape
    x = layer_norm(x, p["norm_inputs"])
    keys, values = dense(x, p["key_slots"]), dense(x, p["value_slots"])
    for _ in range(iterations):
        before = slots.copy()
        queries = dense(layer_norm(slots, p["norm_slots"]), p["query_slots"])
        share = np.zeros((len(x), count))
        for n in range(len(x)):
            share[n] = softmax(np.array([keys[n] @ queries[k] for k in range(count)]) / np.sqrt(width), 0)
        share += 1e-8
        for k in range(count):
            weights = share[:, k] / share[:, k].sum()
            update = sum(weights[n] * values[n] for n in range(len(x)))
            slots[k] = gru(before[k], update, p["gru"]) if use_gru else before[k] + update
        for k in range(count):
            hidden = np.maximum(dense(layer_norm(slots[k], p["norm_ffn"]), p["ffn"]["up"]), 0)
            slots[k] = slots[k] + dense(hidden, p["ffn"]["down"])
    return slots


def random_params(module, *args):
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *args))["params"]
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32) * 0.4, shapes)


@pytest.mark.parametrize("use_gru", [True, False])
@pytest.mark.parametrize("iterations", [1, 3])
def test_the_published_algorithm(iterations, use_gru):
    slots = RNG.normal(size=(2, 4, 8)).astype(np.float32)
    x = RNG.normal(size=(2, 6, 5)).astype(np.float32)
    module = SlotAttention(SlotConfig(iterations=iterations, gru=use_gru, hidden=16))
    params = random_params(module, slots, x)
    out, logits = module.apply({"params": params}, slots, x)
    wide = jax.tree.map(lambda v: v.astype(np.float64), params)
    for i in range(2):
        expected = slow_slot_attention(wide, slots[i].astype(np.float64), x[i].astype(np.float64), iterations, use_gru)
        np.testing.assert_allclose(out[i], expected, atol=2e-5)
    assert logits.shape == (2, 4, 6)


def test_slots_do_not_see_what_is_not_valid():
    slots, x = RNG.normal(size=(1, 3, 8)).astype(np.float32), RNG.normal(size=(1, 6, 8)).astype(np.float32)
    valid = np.array([[True, True, False, True, False, True]])
    module = SlotAttention(SlotConfig(iterations=2, normalise="sum_plus_one"))
    params = {"params": random_params(module, slots, x)}
    run = lambda x, v: module.apply(params, slots, x, v)[0]
    kept, other = run(x, valid), run(np.where(valid[..., None], x, 9.0).astype(np.float32), valid)
    np.testing.assert_allclose(kept, other, atol=1e-6)
    np.testing.assert_allclose(kept, run(x[:, valid[0]], None), atol=1e-5)


@pytest.mark.parametrize("over, axis", [("slots", 1), ("inputs", 2)])
def test_assign_is_a_softmax_over_its_axis(over, axis):
    np.testing.assert_allclose(assign(LOGITS, over=over), softmax(LOGITS, axis), atol=1e-6)
    valid = np.arange(7)[None] < np.array([7, 4])[:, None]
    masked = np.asarray(assign(LOGITS, valid, over=over))
    assert (masked[~np.broadcast_to(valid[:, None], masked.shape)] == 0).all()
    np.testing.assert_allclose(masked[1, :, :4], softmax(LOGITS[1:, :, :4], axis)[0], atol=1e-6)
    with pytest.raises(VtjaxError, match="slots, inputs"):
        assign(LOGITS, over="groups")


def test_a_hard_assignment_is_exactly_one_hot_and_has_the_gradient_of_the_softmax():
    """ovoad.md section 14, with noise as in training."""
    rng, weights = jax.random.key(1), RNG.normal(size=LOGITS.shape).astype(np.float32)
    noise = np.asarray(jax.random.gumbel(rng, LOGITS.shape, jnp.float32))
    hard = np.asarray(assign(LOGITS, hard=True, rng=rng, temperature=0.7))
    assert set(np.unique(hard)) == {0.0, 1.0} and (hard.sum(1) == 1).all()
    np.testing.assert_array_equal(hard.argmax(1), (LOGITS + noise).argmax(1))
    assert (hard.argmax(1) != LOGITS.argmax(1)).any(), "the noise changes something"

    def slow_gradient(i, k, n):
        p = softmax((LOGITS[i, :, n] + noise[i, :, n]).astype(np.float64) / 0.7, 0)
        return sum(weights[i, j, n] * p[j] * ((j == k) - p[k]) / 0.7 for j in range(3))

    gradient = jax.grad(lambda x: jnp.sum(weights * assign(x, hard=True, rng=rng, temperature=0.7)))(LOGITS)
    for index in np.ndindex(LOGITS.shape):
        np.testing.assert_allclose(gradient[index], slow_gradient(*index), atol=1e-5)


def test_gumbel_noise_has_its_distribution():
    zeros = jnp.zeros((20000, 2)).at[:, 0].set(np.log(3.0))
    chosen = np.asarray(gumbel_softmax(zeros, hard=True, rng=jax.random.key(0)))[:, 0].mean()
    assert abs(chosen - 0.75) < 0.012  # 4 standard deviations


def test_groups_of_c_frames_weigh_c_over_c_plus_one():
    """ovoad.md section 14; an empty group receives zeros."""
    one_hot = np.zeros((1, 3, 5), np.float32)
    one_hot[0, [0, 0, 2, 0, 2], np.arange(5)] = 1
    sums = np.asarray(normalised(one_hot, "sum_plus_one")).sum(-1)
    np.testing.assert_allclose(sums, [[3 / 4, 0, 2 / 3]], atol=1e-6)
    np.testing.assert_allclose(normalised(one_hot, "sum").sum(-1)[0, [0, 2]], 1, atol=1e-5)
    np.testing.assert_array_equal(normalised(one_hot, "none"), one_hot)
    with pytest.raises(VtjaxError, match="sum_plus_one"):
        normalised(one_hot, "mean")
    module = AssignAttention(Assignment())
    groups, x = RNG.normal(size=(1, 3, 4)).astype(np.float32), RNG.normal(size=(1, 5, 4)).astype(np.float32)
    params = random_params(module, groups, x)
    params["query"] = {"kernel": np.zeros((4, 4), np.float32), "bias": np.zeros(4, np.float32)}  # all to group 0
    update, logits = module.apply({"params": params}, groups, x)
    np.testing.assert_array_equal(logits, 0)
    np.testing.assert_allclose(update[0, 1:], np.tile(params["out"]["bias"], (2, 1)), atol=1e-6)
    mean = dense(x[0], params["value"]).sum(0) / 6
    np.testing.assert_allclose(update[0, 0], dense(mean, params["out"]), atol=1e-5)


def test_training_draws_noise_and_evaluation_does_not():
    tokens, x = RNG.normal(size=(2, 8, 16)).astype(np.float32), RNG.normal(size=(2, 9, 16)).astype(np.float32)
    module = GroupingBlock(LayerConfig(4, 32), 2)
    params = {"params": random_params(module, tokens, x)}
    run = lambda seed: module.apply(
        params, tokens, x, None, train=True, rngs={"gumbel": jax.random.key(seed)}
    )[0]
    assert not np.allclose(run(0), run(1)), "hard assignments differ by the noise"
    quiet = module.apply(params, tokens, x)[0]
    np.testing.assert_array_equal(quiet, module.apply(params, tokens, x)[0])
