"""InfoNCE and its chronological form against loops over queries and candidates, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.errors import VtjaxError
from vtjax.losses import contrastive
from vtjax.losses.contrastive import chronological_info_nce, chronology_accuracy, false_negatives, info_nce

N, K, M, D, TAU = 5, 3, 2, 4, 0.3


def cos(a, b):
    return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))


def slow_loss(text, motion, exclude, shuffled, shuffled_valid, shuffled_exclude, swapped, swapped_valid, scope):
    """car.md 3.4, term by term: each query's own partner over the sum of all its candidates."""
    total = 0.0
    for i in range(len(text)):
        own = np.exp(cos(text[i], motion[i]) / TAU)
        candidates = [np.exp(cos(text[i], motion[j]) / TAU) for j in range(len(text)) if not exclude[i, j]]
        for j, m in np.ndindex(swapped_valid.shape):
            if swapped_valid[j, m] and (scope == "batch" or i == j):
                candidates.append(np.exp(cos(text[i], swapped[j, m]) / TAU))
        total += -0.5 * np.log(own / np.sum(candidates))
        candidates = [np.exp(cos(text[j], motion[i]) / TAU) for j in range(len(text)) if not exclude[j, i]]
        for j, k in np.ndindex(shuffled_valid.shape):
            if shuffled_valid[j, k] and not shuffled_exclude[j, k, i] and (scope == "batch" or i == j):
                candidates.append(np.exp(cos(shuffled[j, k], motion[i]) / TAU))
        total += -0.5 * np.log(own / np.sum(candidates))
    return total


@pytest.fixture
def items():
    rng = np.random.default_rng(0)
    exclude = rng.random((N, N)) < 0.2
    exclude = (exclude | exclude.T) & ~np.eye(N, dtype=bool)
    assert exclude.any()
    return dict(
        text=rng.normal(size=(N, D)),
        motion=rng.normal(size=(N, D)),
        exclude=exclude,
        shuffled=rng.normal(size=(N, K, D)),
        shuffled_valid=rng.random((N, K)) < 0.6,
        shuffled_exclude=rng.random((N, K, N)) < 0.2,
        swapped=rng.normal(size=(N, M, D)),
        swapped_valid=rng.random((N, M)) < 0.6,
    )


def ours(items, scope="batch"):
    f32 = {name: jnp.asarray(x, jnp.float32 if x.dtype == np.float64 else None) for name, x in items.items()}
    total, weight = chronological_info_nce(
        f32["text"],
        f32["motion"],
        temperature=TAU,
        exclude=f32["exclude"],
        negative_text=f32["shuffled"],
        negative_text_valid=f32["shuffled_valid"],
        negative_text_exclude=f32["shuffled_exclude"],
        negative_motion=f32["swapped"],
        negative_motion_valid=f32["swapped_valid"],
        scope=scope,
    )
    assert isinstance(weight, jax.core.Tracer) or float(weight) == N
    return total


@pytest.mark.parametrize("scope", ["batch", "own"])
def test_value_is_the_loops(items, scope):
    assert float(ours(items, scope)) == pytest.approx(slow_loss(**items, scope=scope), rel=1e-5)


@pytest.mark.parametrize("scope", ["batch", "own"])
def test_gradients_are_the_loops_finite_differences(items, scope):
    names = ("text", "motion", "shuffled", "swapped")
    loss = lambda *xs: ours({**items, **dict(zip(names, xs, strict=True))}, scope)
    grads = jax.jit(jax.grad(loss, (0, 1, 2, 3)))(
        *(jnp.asarray(items[name], jnp.float32) for name in names)
    )
    for name, grad in zip(names, grads, strict=True):
        expected = np.zeros(items[name].shape)
        for index in np.ndindex(expected.shape):
            step = np.zeros(expected.shape)
            step[index] = 1e-5
            ends = [slow_loss(**{**items, name: items[name] + sign * step}, scope=scope) for sign in (1, -1)]
            expected[index] = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(grad, expected, atol=2e-5)
    assert (np.asarray(grads[2])[~items["shuffled_valid"]] == 0).all()
    assert (np.asarray(grads[3])[~items["swapped_valid"]] == 0).all()


def test_without_valid_negatives_it_is_plain_info_nce(items):
    plain, weight = info_nce(items["text"], items["motion"], temperature=TAU, exclude=items["exclude"])
    assert float(weight) == N
    none = {**items, "shuffled_valid": np.zeros((N, K), bool), "swapped_valid": np.zeros((N, M), bool)}
    for scope in ("batch", "own"):
        assert float(ours(none, scope)) == pytest.approx(float(plain), rel=1e-6)
        assert float(ours(items, scope)) > float(plain) + 0.1


def test_each_kind_of_negative_enters_one_direction_only(items):
    """Shuffled texts leave the text-to-motion half as it is, swapped motions the other (car.md 3.4)."""
    text, motion = items["text"], items["motion"]
    half = lambda queries, others: np.mean(
        [np.log(sum(np.exp(cos(q, o) / TAU) for o in others)) - cos(q, p) / TAU for q, p in queries]
    )
    valid = items["shuffled_valid"]
    total, _ = chronological_info_nce(
        text, motion, temperature=TAU, negative_text=items["shuffled"], negative_text_valid=valid
    )
    gallery = [*text, *items["shuffled"][valid]]
    expected = half(zip(text, motion, strict=True), motion) + half(zip(motion, text, strict=True), gallery)
    assert float(total) / N == pytest.approx(expected / 2, rel=1e-5)
    total, _ = chronological_info_nce(text, motion, temperature=TAU, negative_motion=items["swapped"])
    gallery = [*motion, *items["swapped"].reshape(-1, D)]
    expected = half(zip(text, motion, strict=True), gallery) + half(zip(motion, text, strict=True), text)
    assert float(total) / N == pytest.approx(expected / 2, rel=1e-5)


def test_threshold_is_on_the_rescaled_cosine_and_spares_the_diagonal():
    angles = np.arccos([1.0, 0.61, 0.59])
    sentence = 3 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    got = np.asarray(false_negatives(jnp.asarray(sentence, jnp.float32), 0.8))
    assert got.dtype == bool and not got.diagonal().any()
    assert got[0, 1] and got[1, 0] and not got[0, 2] and got[1, 2]


def test_large_logits_and_zero_vectors_stay_finite():
    text = jnp.zeros((3, D)).at[0, 0].set(1e-20)
    value, grad = jax.value_and_grad(lambda t: info_nce(t, jnp.ones((3, D)), temperature=1e-3)[0])(text)
    assert np.isfinite(value) and np.isfinite(grad).all()
    eye = jnp.eye(3)
    assert float(info_nce(eye, -eye, temperature=1e-3)[0]) == pytest.approx(3 * 1000 + 3 * np.log(2), rel=1e-5)


def test_bfloat16_inputs_are_compared_in_float32(items):
    low = [jnp.asarray(items[name], jnp.bfloat16) for name in ("text", "motion")]
    expected = info_nce(*(x.astype(jnp.float32) for x in low), temperature=TAU)[0]
    got = info_nce(*low, temperature=TAU)[0]
    assert got.dtype == jnp.float32 and float(got) == float(expected)


def test_unknown_scope_is_named():
    with pytest.raises(VtjaxError, match="scope='all': one of batch, own"):
        chronological_info_nce(jnp.eye(2), jnp.eye(2), temperature=1.0, scope="all")


def test_accuracy_is_strict_and_leaves_excluded_pairs_out():
    text = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1]], np.float32)
    motion = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 0.5, 1]], np.float32)
    got = contrastive.contrastive_accuracy(text, motion)
    # text 0 finds motion 0, text 1 prefers motion 0; motion 0 ties between texts 0 and 1, and so does motion 1.
    assert [float(s) for s, _ in got] == [2.0, 1.0]
    exclude = np.zeros((3, 3), bool)
    exclude[0, 1] = exclude[1, 0] = True
    got = contrastive.contrastive_accuracy(text, motion, exclude)
    assert [(float(s), float(w)) for s, w in got] == [(3.0, 3.0), (3.0, 3.0)]


def test_chronology_counts_valid_pairs_and_a_tie_is_wrong():
    rng = np.random.default_rng(0)
    query, positive = rng.normal(size=(40, D)).astype(np.float32), rng.normal(size=(40, D)).astype(np.float32)
    negative = rng.normal(size=(40, 2, D)).astype(np.float32)
    valid = rng.random((40, 2)) < 0.7
    right = sum(
        cos(query[i], positive[i]) > cos(query[i], negative[i, k]) for i, k in np.ndindex(valid.shape) if valid[i, k]
    )
    assert [float(x) for x in chronology_accuracy(query, positive, negative, valid)] == [right, valid.sum()]
    same = np.repeat(positive[:, None], 2, axis=1)
    assert [float(x) for x in chronology_accuracy(query, positive, same, valid)] == [0, valid.sum()]
