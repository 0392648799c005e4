"""The LLaMA decoder against loops in numpy, padding, cache, rematerialisation, sharding and published sizes."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.config import Mesh
from vtjax.errors import VtjaxError
from vtjax.nn.llama import PRESETS, RULES, LanguageModel, LlamaConfig, positions_of, splice
from vtjax.nn.lora import LoraConfig, init_lora
from vtjax.sharding.mesh import batch_sharding, make_mesh
from vtjax.sharding.partition import partition
from vtjax.trees import flatten

CONFIG = LlamaConfig(
    vocab_size=32, width=16, layers=3, heads=4, kv_heads=2, head_dim=6, ffn_width=24, positions=64, init_std=0.3
)
MODEL = LanguageModel(CONFIG)
RUN = jax.jit(MODEL)
IDS = np.random.default_rng(0).integers(0, 32, (2, 7)).astype(np.int32)


@pytest.fixture(scope="module")
def params():
    tree = jax.jit(MODEL.init)(jax.random.key(0))
    norms = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + 0.3 * norms.standard_normal(x.shape) if np.all(np.asarray(x) == 1) else x, tree)


def slow_logits(params, config, ids):
    """One row, token by token and head by head, in float64."""
    p = {k: np.asarray(v, np.float64) for k, v in flatten(params).items()}
    half = config.head_dim // 2
    norm = lambda x, w: x / math.sqrt(np.mean(x**2) + config.norm_eps) * w

    def turn(x, t):
        z = x[:half] + 1j * x[half:]
        z = z * np.exp(1j * t * config.rope_theta ** (-2 * np.arange(half) / config.head_dim))
        return np.concatenate([z.real, z.imag])

    xs = [p["embed/embedding"][i] for i in ids]
    for n in range(config.layers):
        w = {k.removeprefix("layers/"): v[n] for k, v in p.items() if k.startswith("layers/")}
        normed = [norm(x, w["norm1/scale"]) for x in xs]
        mixed = []
        for t in range(len(ids)):
            heads = np.zeros((config.heads, config.head_dim))
            for h in range(config.heads):
                g = h // (config.heads // config.kv_heads)
                q = turn(normed[t] @ w["attention/query/kernel"][:, h], t)
                keys = [turn(normed[s] @ w["attention/key/kernel"][:, g], s) for s in range(t + 1)]
                values = [normed[s] @ w["attention/value/kernel"][:, g] for s in range(t + 1)]
                scores = np.exp([q @ k / math.sqrt(config.head_dim) for k in keys])
                heads[h] = sum(s * v for s, v in zip(scores / scores.sum(), values, strict=True))
            mixed.append(np.einsum("hd,hdw->w", heads, w["attention/out/kernel"]))
        xs = [x + m for x, m in zip(xs, mixed, strict=True)]
        for t, x in enumerate(xs):
            y = norm(x, w["norm2/scale"])
            gate = y @ w["ffn/gate/kernel"]
            xs[t] = x + (gate / (1 + np.exp(-gate)) * (y @ w["ffn/up/kernel"])) @ w["ffn/down/kernel"]
    head = p["embed/embedding"].T if config.tied else p["head/kernel"]
    return np.stack([norm(x, p["norm/scale"]) @ head for x in xs])


def test_against_loops(params):
    for row, ids in zip(RUN(params, IDS), IDS, strict=True):
        expected = slow_logits(params, CONFIG, ids)
        np.testing.assert_allclose(row, expected, atol=1e-5 * np.abs(expected).max())


def test_tied_head_has_no_parameter_of_its_own():
    model = LanguageModel(dataclasses.replace(CONFIG, tied=True, layers=1))
    params = jax.jit(model.init)(jax.random.key(1))
    assert "head" not in params
    expected = slow_logits(params, model.config, IDS[0])
    np.testing.assert_allclose(jax.jit(model)(params, IDS[:1])[0], expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("left", [False, True])
def test_padding_changes_nothing(params, left):
    plain = np.asarray(RUN(params, IDS))
    at = slice(4, 11) if left else slice(0, 7)
    padded, valid = np.full((2, 11), 9, np.int32), np.zeros((2, 11), bool)
    padded[:, at], valid[:, at] = IDS, True
    found = np.asarray(RUN(params, padded, valid))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:, at], plain, atol=1e-5 * np.abs(plain).max())


def test_cache_equals_recomputing(params):
    expected = RUN(params, IDS)

    @functools.partial(jax.jit, static_argnames=("start", "stop"))
    def piece(cache, start, stop):
        valid = jnp.ones((2, stop), bool)
        x = MODEL.embed(params, IDS[:, start:stop])
        positions = jnp.tile(jnp.arange(start, stop)[None], (2, 1))
        hidden, cache = MODEL.cached(params, x, valid, positions, cache, jnp.int32(start))
        return MODEL.logits(params, hidden), cache

    cache, found = MODEL.init_cache(2, 10), []
    for start, stop in ((0, 4), (4, 6), (6, 7)):
        logits, cache = piece(cache, start, stop)
        found.append(logits)
    assert cache["key"].shape == (3, 2, 10, 2, 6)
    np.testing.assert_allclose(np.concatenate(found, 1), expected, atol=1e-5 * float(jnp.abs(expected).max()))


def test_rematerialisation_leaves_gradients_alone(params):
    def gradient(remat):
        model = dataclasses.replace(MODEL, remat=remat)
        return jax.jit(jax.grad(lambda p: jnp.mean(model(p, IDS) ** 2)))(params)

    plain = gradient("none")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), gradient("full"), plain)


def test_bfloat16_keeps_float32_logits(params):
    model = LanguageModel(CONFIG, dtype="bfloat16")
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    hidden, logits = jax.jit(
        lambda p: (h := model.hidden(p, model.embed(p, IDS), jnp.ones((2, 7), bool)), model.logits(p, h))
    )(low)
    assert hidden.dtype == jnp.bfloat16 and logits.dtype == jnp.float32
    assert jnp.any(logits != logits.astype(jnp.bfloat16))  # more digits than bfloat16 has
    full = RUN(params, IDS)
    assert float(jnp.linalg.norm(logits - full) / jnp.linalg.norm(full)) < 0.05


@pytest.mark.parametrize(("preset", "count"), [("7b", 6_738_415_616), ("13b", 13_015_864_320)])
def test_published_sizes(preset, count):
    model = LanguageModel(PRESETS[preset], adapters=(("stage1", LoraConfig()),), param_dtype="bfloat16")
    shapes = model.shapes()
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == count
    adapter = jax.eval_shape(lambda p: init_lora(jax.random.key(0), p, LoraConfig()), shapes)
    published = {"7b": 159_907_840, "13b": 250_347_520}[preset]
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(adapter)) == published
    mesh = make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    plan = partition({"llm": shapes, "lora": {"stage1": adapter}}, RULES, mesh)
    assert plan.replicated_bytes < 0.001 * plan.total_bytes
    assert tuple(plan.specs["llm/layers/attention/out/kernel"]) == (None, "tensor", None, "fsdp")
    assert tuple(plan.specs["lora/stage1/layers/ffn/down/a"]) == (None, "tensor")


def test_sharded_equals_single_device():
    mesh = make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    adapters = (("a", LoraConfig(rank=2, alpha=4)),)
    model = LanguageModel(CONFIG, adapters)
    params = jax.jit(model.init)(jax.random.key(0))
    lora = init_lora(jax.random.key(1), params, adapters[0][1])
    lora = jax.tree.map(lambda x: x + 0.1, lora)
    ids = np.random.default_rng(2).integers(0, 32, (4, 6)).astype(np.int32)

    def loss(model):
        return jax.jit(jax.value_and_grad(lambda lora, p, ids: jnp.mean(model(p, ids, lora={"a": lora}) ** 2)))

    expected, grads = loss(model)(lora, params, ids)
    place = lambda tree: jax.device_put(tree, partition(tree, RULES, mesh).shardings)
    sharded = dataclasses.replace(model, mesh=mesh, remat="full")
    found, sharded_grads = loss(sharded)(place(lora), place(params), jax.device_put(ids, batch_sharding(mesh)))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), grads, sharded_grads)


def test_splice_puts_each_soft_token_in_its_place():
    text, media = np.zeros((2, 5, 3)), np.arange(2 * 2 * 3, dtype=float).reshape(2, 2, 3) + 1
    index = np.array([[-1, 0, 1, -1, -1], [-1, -1, -1, 1, 0]])
    found = splice(jnp.asarray(text), jnp.asarray(media), jnp.asarray(index))
    for b in range(2):
        for t in range(5):
            np.testing.assert_array_equal(found[b, t], media[b, index[b, t]] if index[b, t] >= 0 else text[b, t])


def test_positions_count_valid_tokens():
    valid = jnp.array([[False, True, True], [True, True, False]])
    assert positions_of(valid).tolist() == [[0, 0, 1], [0, 1, 1]]


def test_errors(params):
    with pytest.raises(VtjaxError, match="65 tokens; this model has 64"):
        MODEL(params, np.zeros((1, 65), np.int32))
    with pytest.raises(VtjaxError, match="adapter 'stage2' has no config"):
        LanguageModel(CONFIG, (("stage1", LoraConfig()),))(params, IDS, lora={"stage2": {}})
    with pytest.raises(VtjaxError, match="did you mean 'full'"):
        LanguageModel(CONFIG, remat="ful")
    with pytest.raises(VtjaxError, match="not a multiple of kv_heads"):
        LlamaConfig(heads=4, kv_heads=3)
    with pytest.raises(VtjaxError, match="head_dim"):
        LlamaConfig(head_dim=7)
