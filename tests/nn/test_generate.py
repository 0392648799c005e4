"""Decoding against a plain loop over full forward passes, padding, stops, sampling and log-probabilities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.config import Mesh
from vtjax.errors import VtjaxError
from vtjax.nn.generate import Sampling, choose, generate, truncate
from vtjax.nn.llama import RULES, LanguageModel, LlamaConfig, splice
from vtjax.nn.lora import LoraConfig, init_lora, merge
from vtjax.sharding.mesh import make_mesh
from vtjax.sharding.partition import partition
from vtjax.text.llama_tokenizer import expand_media
from vtjax.text.tokenizer import pad_rows

CONFIG = LlamaConfig(
    vocab_size=48, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffn_width=48, positions=128, init_std=0.25
)
LORA = LoraConfig(rank=2, alpha=4)
MODEL = LanguageModel(CONFIG, (("a", LORA),))
PROMPTS = [[1, 5, 9, 30, 4], [1, 7], [1, 40, 3, 8, 22, 17, 11]]
NEW = 12
NEVER = Sampling(max_new_tokens=NEW, stop_ids=())


@pytest.fixture(scope="module")
def params():
    return jax.jit(MODEL.init)(jax.random.key(0))


@functools.cache
def full():
    return jax.jit(lambda p, ids: jax.nn.log_softmax(MODEL(p, ids)))


def slow_greedy(params, prompt, new=NEW):
    """Tokens and log-probabilities, the whole sequence run again for each; right padding to one compiled length."""
    row, log_probs = list(prompt), []
    for _ in range(new):
        padded = np.zeros((1, 20), np.int32)
        padded[0, : len(row)] = row
        scores = np.asarray(full()(params, padded))[0, len(row) - 1]
        row.append(int(scores.argmax()))
        log_probs.append(scores.max())
    return row[len(prompt) :], log_probs


@pytest.mark.parametrize(("left", "cached"), [(False, True), (True, True), (True, False)])
def test_greedy_equals_plain_loop_for_any_padding(params, left, cached):
    ids, valid = pad_rows(PROMPTS, 8, 0, left)
    found = generate(MODEL, params, NEVER, ids=ids, valid=valid, cached=cached)
    for prompt, row, log_probs in zip(PROMPTS, found.rows(), found.log_probs, strict=True):
        tokens, expected = slow_greedy(params, prompt)
        assert row == tokens
        np.testing.assert_allclose(log_probs, expected, atol=1e-4)
    assert found.lengths.tolist() == [NEW] * 3 and not found.stopped.any()


def test_rows_stop_by_themselves(params):
    ids, valid = pad_rows(PROMPTS, 8, 0)
    plain = [slow_greedy(params, prompt)[0] for prompt in PROMPTS]
    stops = (plain[0][2], plain[1][5])
    sampling = Sampling(max_new_tokens=NEW, stop_ids=stops, pad_id=47)
    found = generate(MODEL, params, sampling, ids=ids, valid=valid)
    for row, tokens, length, stopped in zip(plain, found.tokens, found.lengths, found.stopped, strict=True):
        end = next((n + 1 for n, t in enumerate(row) if t in stops), NEW)
        assert length == end and stopped == (end < NEW or row[-1] in stops)
        assert tokens.tolist() == row[:end] + [47] * (NEW - end)
    assert found.lengths[0] <= 3 and np.all(found.log_probs[0, found.lengths[0] :] == 0)


@pytest.mark.parametrize("check_every", [1, 5, 16])
def test_stop_strings(params, check_every):
    decode = lambda ids: "".join(f"<{i}>" for i in ids)
    ids, valid = pad_rows(PROMPTS, 8, 0)
    plain = [slow_greedy(params, prompt)[0] for prompt in PROMPTS]
    stop = f"<{plain[2][3]}><{plain[2][4]}>"
    found = generate(
        MODEL, params, NEVER, ids=ids, valid=valid, stop_strings=(stop,), decode=decode, check_every=check_every
    )
    for row, got, stopped in zip(plain, found.rows(), found.stopped, strict=True):
        end = next((n for n in range(1, NEW + 1) if stop in decode(row[:n])), None)
        assert got == row[: end or NEW] and stopped == (end is not None)
    assert found.lengths[2] <= 5


def test_spliced_media_and_adapters(params):
    """Embeddings in place of a placeholder; an adapter at work equals the merged model."""
    media = jax.random.normal(jax.random.key(5), (1, 3, 32))
    ids, index = expand_media([1, 9, -200, 5, 6], 3)
    x = splice(MODEL.embed(params, ids[None]), media, index[None])
    tree = jax.tree.map(lambda v: v + 0.05, init_lora(jax.random.key(1), params, LORA))
    found = generate(MODEL, params, NEVER, embeddings=x, lora={"a": tree})
    merged = generate(MODEL, merge(params, [(LORA, tree)]), NEVER, embeddings=x)
    assert found.rows() == merged.rows()
    assert found.rows() != generate(MODEL, params, NEVER, embeddings=x).rows()
    assert found.rows() != generate(MODEL, params, NEVER, embeddings=x[:, ::-1], lora={"a": tree}).rows()


def test_hidden_states_are_those_that_predicted(params):
    ids, valid = pad_rows(PROMPTS, 8, 0)
    found = generate(MODEL, params, NEVER, ids=ids, valid=valid, return_hidden=True)
    logits = jax.jit(MODEL.logits)(params, found.hidden)
    assert found.hidden.shape == (3, NEW, 32)
    np.testing.assert_array_equal(np.argmax(logits, -1), found.tokens)


def slow_truncate(logits, temperature, k, p):
    scaled = logits / temperature
    order = sorted(range(len(scaled)), key=lambda i: -scaled[i])
    if k:
        order = order[:k]
    weights = np.exp(scaled[order] - scaled[order[0]])
    weights /= weights.sum()
    kept, total = [], 0.0
    for i, w in zip(order, weights, strict=True):
        kept.append(i)
        total += w
        if total >= p:
            break
    return {i: scaled[i] for i in kept}


@pytest.mark.parametrize(("temperature", "k", "p"), [(0.7, 5, 1.0), (1.3, 0, 0.6), (0.9, 9, 0.8), (0.05, 50, 0.6)])
def test_truncation_against_loop(temperature, k, p):
    logits = np.random.default_rng(0).standard_normal((4, 60)).astype(np.float32)
    found = np.asarray(truncate(jnp.asarray(logits), Sampling(temperature=temperature, top_k=k, top_p=p)))
    for row, got in zip(logits, found, strict=True):
        expected = slow_truncate(row, temperature, k, p)
        assert set(np.flatnonzero(np.isfinite(got))) == set(expected)
        np.testing.assert_allclose([got[i] for i in expected], list(expected.values()), rtol=1e-5)


def test_sampled_frequencies():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))
    sampling = Sampling(temperature=1.0, top_p=0.9)
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = jax.jit(lambda k: choose(jnp.repeat(logits, len(k), 0), sampling, k))(keys)
    share = np.bincount(drawn, minlength=4) / len(keys)
    np.testing.assert_allclose(share, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0], atol=0.015)


def test_sampling_is_a_function_of_key_and_row(params):
    sampling = Sampling(max_new_tokens=NEW, temperature=1.0, stop_ids=())
    ids, valid = pad_rows(PROMPTS, 8, 0)
    run = lambda rows, seed: generate(
        MODEL, params, sampling, ids=ids[:rows], valid=valid[:rows], rng=jax.random.key(seed)
    )
    one = run(3, 0)
    assert one.rows() == run(3, 0).rows() and one.rows() != run(3, 1).rows()
    assert run(2, 0).rows() == one.rows()[:2]
    row = [*PROMPTS[2], *one.rows()[2]]
    scores = np.asarray(full()(params, np.array([row + [0] * (20 - len(row))])))[0]
    expected = [scores[len(PROMPTS[2]) - 1 + n, t] for n, t in enumerate(one.rows()[2])]
    np.testing.assert_allclose(one.log_probs[2], expected, atol=1e-4)


def test_on_a_mesh(params):
    mesh = make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    model = LanguageModel(CONFIG, mesh=mesh)
    ids, valid = pad_rows([*PROMPTS, [1, 2, 3]], 8, 0)
    placed = jax.device_put(params, partition(params, RULES, mesh).shardings)
    found = generate(model, placed, NEVER, ids=ids, valid=valid)
    assert found.rows()[:3] == [slow_greedy(params, prompt)[0] for prompt in PROMPTS]


def test_errors(params):
    ids = np.ones((2, 3), np.int32)
    with pytest.raises(VtjaxError, match="either ids or embeddings"):
        generate(MODEL, params, NEVER)
    with pytest.raises(VtjaxError, match="needs decode"):
        generate(MODEL, params, NEVER, ids=ids, stop_strings=("x",))
    with pytest.raises(VtjaxError, match="needs rng"):
        generate(MODEL, params, Sampling(temperature=1.0), ids=ids)
    with pytest.raises(VtjaxError, match=r"rows \[1\] have no token"):
        generate(MODEL, params, NEVER, ids=ids, valid=np.array([[True] * 3, [False] * 3]))
    with pytest.raises(VtjaxError, match="503 tokens; this model has 128 positions"):
        generate(MODEL, params, Sampling(max_new_tokens=500), ids=ids, cached=False)
    with pytest.raises(VtjaxError, match="positions"):
        generate(MODEL, params, Sampling(max_new_tokens=500), ids=ids)
    with pytest.raises(VtjaxError, match="top_p"):
        Sampling(top_p=0.0)
