"""LoRA on modules that know nothing of it: against the formula, merged, stacked, scanned, rematerialised."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.errors import VtjaxError
from vtjax.nn import lora
from vtjax.nn.attention import MultiHeadAttention
from vtjax.nn.llama import PRESETS, LanguageModel
from vtjax.nn.lora import LoraConfig, init_lora, merge
from vtjax.nn.quantize import quantize
from vtjax.sharding.partition import split
from vtjax.trees import flatten

X = np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32)


class Block(nn.Module):
    """Dense and attention projections as any model of this package has them."""

    @nn.compact
    def __call__(self, x):
        x = x + MultiHeadAttention(2, name="attention")(x)
        return nn.Dense(5, name="dense")(x)


def noisy(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: np.asarray(x) + 0.1 * rng.standard_normal(x.shape).astype(np.float32), tree)


def apply(module, params, adapters, configs, train=False, **more):
    with lora.intercept(configs, train):
        return module.apply(lora.with_adapters({"params": params}, adapters), X, **more)


@pytest.fixture(scope="module")
def block():
    return jax.jit(Block().init)(jax.random.key(0), X)["params"]


def test_dense_and_attention_against_the_formula(block):
    config = LoraConfig(rank=3, alpha=6, targets=r".*/kernel")
    tree = noisy(init_lora(jax.random.key(1), block, config))
    assert set(flatten(tree)) == {
        f"{m}/{f}" for m in ("dense", *(f"attention/{p}" for p in ("query", "key", "value", "out"))) for f in "ab"
    }
    assert tree["attention"]["query"]["a"].shape == (8, 3) and tree["attention"]["query"]["b"].shape == (3, 2, 4)
    assert tree["attention"]["out"]["a"].shape == (2, 4, 3) and tree["attention"]["out"]["b"].shape == (3, 8)
    found = apply(Block(), block, {"one": tree}, {"one": config})
    # The same with every W replaced by W + 2 A B, by hand.
    moved = jax.tree.map(np.asarray, block)
    for m in ("query", "key", "value"):
        f = tree["attention"][m]
        moved["attention"][m]["kernel"] = moved["attention"][m]["kernel"] + 2 * np.einsum("ir,rho->iho", f["a"], f["b"])
    f = tree["attention"]["out"]
    moved["attention"]["out"]["kernel"] = moved["attention"]["out"]["kernel"] + 2 * np.einsum(
        "hdr,ro->hdo", f["a"], f["b"]
    )
    moved["dense"]["kernel"] = moved["dense"]["kernel"] + 2 * tree["dense"]["a"] @ tree["dense"]["b"]
    expected = Block().apply({"params": moved}, X)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert float(jnp.abs(found - Block().apply({"params": block}, X)).max()) > 0.1
    merged = merge(block, [(config, tree)])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), merged, moved)


def test_fresh_adapter_changes_nothing_and_starts_as_in_peft(block):
    config = LoraConfig(rank=64, targets="dense/kernel")
    tree = init_lora(jax.random.key(1), block, config)
    np.testing.assert_array_equal(
        apply(Block(), block, {"one": tree}, {"one": config}), Block().apply({"params": block}, X)
    )
    a = np.asarray(tree["dense"]["a"])
    assert 0.95 / 8**0.5 < np.abs(a).max() <= 1 / 8**0.5 and abs(a.mean()) < 0.05
    more = init_lora(jax.random.key(1), block, dataclasses.replace(config, targets=r".*/kernel"))
    np.testing.assert_array_equal(more["dense"]["a"], a)


def test_rank_stabilised_scale():
    assert LoraConfig(rank=16, alpha=8).scale == 0.5
    assert LoraConfig(rank=16, alpha=8, rslora=True).scale == 2.0


def test_dropout_on_the_branch_only_while_training(block):
    config = LoraConfig(rank=2, alpha=2, dropout=0.5, targets="dense/kernel")
    tree = noisy(init_lora(jax.random.key(1), block, config))

    @functools.partial(jax.jit, static_argnums=1)
    def run(seed, train):
        return apply(Block(), block, {"one": tree}, {"one": config}, train, rngs={"dropout": jax.random.key(seed)})

    base, still = Block().apply({"params": block}, X), run(0, False)
    np.testing.assert_allclose(still, apply(Block(), block, {"one": tree}, {"one": config}), atol=1e-6)
    np.testing.assert_array_equal(run(0, True), run(0, True))
    assert jnp.any(run(0, True) != run(1, True))
    # Averaged over masks, the branch is what it is without dropout.
    many = np.mean([run(k, True) for k in range(600)], axis=0)
    np.testing.assert_allclose(many - base, still - base, atol=0.12 * float(jnp.abs(still - base).max()))


MODEL = LanguageModel(
    PRESETS["tiny"],
    adapters=(
        ("one", LoraConfig(rank=4, alpha=8)),
        ("two", LoraConfig(rank=3, alpha=5, rslora=True, targets=r"layers/attention/\w+/kernel")),
        ("three", LoraConfig(rank=2, alpha=4)),
    ),
)
CONFIGS = dict(MODEL.adapters)
IDS = np.random.default_rng(1).integers(0, 512, (2, 10)).astype(np.int32)


@pytest.fixture(scope="module")
def llama():
    params = jax.jit(MODEL.init)(jax.random.key(0))
    return params, {
        name: noisy(init_lora(jax.random.key(2), params, config), seed)
        for seed, (name, config) in enumerate(CONFIGS.items())
    }


def test_scanned_layers_have_factors_of_their_own(llama):
    params, adapters = llama
    assert adapters["one"]["layers"]["ffn"]["down"]["a"].shape == (2, 172, 4)
    run = jax.jit(MODEL)
    both = run(params, IDS, lora=adapters)
    merged = run(merge(params, [(CONFIGS[n], t) for n, t in adapters.items()]), IDS)
    np.testing.assert_allclose(both, merged, atol=2e-5 * float(jnp.abs(merged).max()))
    # A layer's factors act in that layer: without the second layer's, the result is another.
    first = jax.tree.map(lambda x: np.asarray(x) * np.array([1, 0]).reshape(-1, *(1,) * (x.ndim - 1)), adapters["one"])
    halved, whole = run(params, IDS, lora={"one": first}), run(params, IDS, lora={"one": adapters["one"]})
    assert float(jnp.abs(halved - whole).max()) > 0.1


def test_three_merges_in_turn_equal_one_sum(llama):
    params, adapters = llama
    in_turn = params
    for name, tree in adapters.items():
        in_turn = merge(in_turn, [(CONFIGS[name], tree)])
    at_once = merge(params, [(CONFIGS[n], t) for n, t in adapters.items()])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), in_turn, at_once)
    by_hand = np.asarray(params["layers"]["ffn"]["up"]["kernel"], np.float64)
    for name in ("one", "three"):
        f = jax.tree.map(lambda x: np.asarray(x, np.float64), adapters[name]["layers"]["ffn"]["up"])
        by_hand = by_hand + 2.0 * np.einsum("lir,lro->lio", f["a"], f["b"])
    np.testing.assert_allclose(at_once["layers"]["ffn"]["up"]["kernel"], by_hand, atol=1e-6)


def test_merge_rounds_once(llama):
    params, adapters = llama
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    pair = [(CONFIGS[n], adapters[n]) for n in ("one", "three")]
    merged, exact = merge(low, pair), merge(jax.tree.map(lambda x: x.astype(jnp.float32), low), pair)
    for path, leaf in flatten(merged).items():
        assert leaf.dtype == jnp.bfloat16
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(flatten(exact)[path].astype(jnp.bfloat16)))


def test_concatenated_adapters_do_the_same(llama):
    params, adapters = llama
    pair = [(CONFIGS[n], adapters[n]) for n in ("one", "three")]
    config, tree = lora.concatenate(pair)
    assert (config.rank, config.scale) == (6, 1.0)
    model = LanguageModel(PRESETS["tiny"], (("both", config), *MODEL.adapters))
    run = jax.jit(model)
    expected = run(params, IDS, lora={n: adapters[n] for n in ("one", "three")})
    found = run(params, IDS, lora={"both": tree})
    np.testing.assert_allclose(found, expected, atol=1e-5 * float(jnp.abs(expected).max()))


def test_gradients_reach_factors_alone_and_survive_rematerialisation(llama):
    params, adapters = llama
    tree = {"llm": params, "lora": adapters}
    trainable, frozen = split(tree, "lora/three/")
    assert set(trainable) == {"lora"} and set(trainable["lora"]) == {"three"} and set(frozen["lora"]) == {"one", "two"}
    config = dataclasses.replace(CONFIGS["three"], dropout=0.3)

    def loss(trainable, remat):
        model = dataclasses.replace(MODEL, adapters=(*MODEL.adapters[:2], ("three", config)), remat=remat)
        all_adapters = frozen["lora"] | trainable["lora"]
        return jnp.mean(model(params, IDS, lora=all_adapters, train=True, rng=jax.random.key(3)) ** 2)

    grad = jax.jit(jax.grad(loss), static_argnums=1)
    plain, again = grad(trainable, "none"), grad(trainable, "dots_no_batch")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), plain, again)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(plain))


def test_scanned_layers_draw_different_dropout(llama):
    """With equal factors in both layers, equal masks would make the layers' branches equal."""
    params, _ = llama
    seen = []

    class Spy(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            y = nn.Dense(4, use_bias=False, name="dense")(x)
            self.sow("seen", "y", y)
            return x, None

    axes, rngs = {"params": 0, "lora": 0, "seen": 0}, {"params": True, "dropout": True}
    stack = nn.scan(Spy, variable_axes=axes, split_rngs=rngs, length=2)
    variables = {"params": {"dense": {"kernel": jnp.zeros((2, 8, 4))}}}
    tree = {"dense": {"a": jnp.ones((2, 8, 2)), "b": jnp.ones((2, 2, 4))}}
    with lora.intercept({"one": LoraConfig(rank=2, dropout=0.5)}, train=True):
        _, out = stack().apply(
            lora.with_adapters(variables, {"one": tree}), X, None, rngs={"dropout": jax.random.key(0)}, mutable="seen"
        )
    seen = np.asarray(out["seen"]["y"][0])
    assert seen.shape[0] == 2 and np.any(seen[0] != seen[1]) and np.any(seen != 0)


def test_errors(block, llama):
    with pytest.raises(VtjaxError, match="match no parameter"):
        init_lora(jax.random.key(0), block, LoraConfig(targets="nothing/kernel"))
    with pytest.raises(VtjaxError, match="not the kernel of a dense"):
        init_lora(jax.random.key(0), {"patch": {"kernel": jnp.ones((14, 14, 3, 8))}}, LoraConfig(targets=".*"))
    with pytest.raises(VtjaxError, match="not the kernel of a dense"):
        init_lora(jax.random.key(0), block, LoraConfig(targets="dense/bias"))
    with pytest.raises(VtjaxError, match="not a regular expression"):
        LoraConfig(targets="(")
    with pytest.raises(VtjaxError, match="rank 0"):
        LoraConfig(rank=0)
    params, adapters = llama
    with pytest.raises(VtjaxError, match="is int8; merge adapters before"):
        merge(quantize(params), [(CONFIGS["one"], adapters["one"])])
    with pytest.raises(VtjaxError, match="does not have, for example 'dense/kernel'"):
        merge(params, [(LoraConfig(), {"dense": {"a": jnp.ones((8, 2)), "b": jnp.ones((2, 5))}})])
    with pytest.raises(VtjaxError, match="do not fit it"):
        merge(block, [(LoraConfig(), {"dense": {"a": jnp.ones((7, 2)), "b": jnp.ones((2, 5))}})])
    with pytest.raises(VtjaxError, match="same kernels"):
        lora.concatenate([(CONFIGS["one"], adapters["one"]), (CONFIGS["two"], adapters["two"])])
