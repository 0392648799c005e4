"""CLIP's towers against slow numpy loops, published parameter counts, and each other (looped, scanned, rematerialised).

tests/parity/test_clip.py compares them with transformers.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.config import Mesh
from vtjax.errors import VtjaxError
from vtjax.nn.clip import (
    PRESETS,
    RULES,
    Clip,
    ClipConfig,
    TextConfig,
    TextTower,
    clip_config,
    eot_positions,
    similarity_logits,
    with_image_size,
)
from vtjax.nn.stack import REMAT
from vtjax.nn.vit import VisionConfig, VisionTower, interpolate_positions, stack_layers, unstack_layers
from vtjax.sharding.mesh import make_mesh
from vtjax.sharding.partition import partition

VISION = VisionConfig(image_size=12, patch_size=4, width=8, layers=2, heads=2, mlp_width=12)
TEXT = TextConfig(vocab_size=30, context_length=9, width=8, layers=2, heads=2, mlp_width=12)
CONFIG = ClipConfig(6, VISION, TEXT)


def random_like(tree, seed=0, spread=0.5):
    leaves, structure = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    return structure.unflatten([spread * rng.standard_normal(leaf.shape).astype(np.float32) for leaf in leaves])


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).standard_normal((2, 12, 12, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def ids():
    return np.array([[28, 3, 4, 29, 0, 0], [28, 3, 29, 7, 29, 5], [28, 1, 2, 3, 4, 29]], np.int32)


@pytest.fixture(scope="module")
def params(images, ids):
    return random_like(jax.eval_shape(Clip(CONFIG).init, jax.random.key(0), images, ids)["params"])


@pytest.fixture(scope="module")
def output(params, images, ids):
    return jax.jit(Clip(CONFIG).apply)({"params": params}, images, ids)


def slow_norm(p, x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def slow_layer(p, x, sees):
    """One item's tokens [N, width]; sees(query, key). Returns tokens, keys [N, heads, head_dim]."""
    y, a = slow_norm(p["norm1"], x), p["attention"]
    q, k, v = (np.einsum("nw,whd->nhd", y, a[n]["kernel"]) + a[n]["bias"] for n in ("query", "key", "value"))
    mixed = np.zeros_like(v)
    for h, i in np.ndindex(2, len(x)):
        seen = [j for j in range(len(x)) if sees(i, j)]
        logits = np.array([q[i, h] @ k[j, h] / math.sqrt(q.shape[-1]) for j in seen])
        weights = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        mixed[i, h] = sum(w * v[j, h] for w, j in zip(weights, seen, strict=True))
    x = x + np.einsum("nhd,hdw->nw", mixed, a["out"]["kernel"]) + a["out"]["bias"]
    y = slow_norm(p["norm2"], x) @ p["ffn"]["up"]["kernel"] + p["ffn"]["up"]["bias"]
    y = y / (1 + np.exp(-1.702 * y))
    return x + y @ p["ffn"]["down"]["kernel"] + p["ffn"]["down"]["bias"], k


def slow_image(p, image):
    patches = [
        sum(image[4 * r + i, 4 * c + j] @ p["patch_embedding"]["kernel"][i, j] for i in range(4) for j in range(4))
        for r in range(3)
        for c in range(3)
    ]
    x = slow_norm(p["pre_norm"], np.stack([p["class_embedding"], *patches]) + p["position_embedding"])
    hidden, keys = [x], []
    for i in range(2):
        x, key = slow_layer(p["transformer"][f"layer_{i}"], x, lambda q, k: True)
        hidden.append(x)
        keys.append(key)
    own, _ = slow_layer(p["transformer"]["layer_1"], hidden[1], lambda q, k: q == k)
    return hidden, keys, own


def test_vision_against_loops(params, images, output):
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["vision"])
    for b in range(2):
        hidden, keys, own = slow_image(p, images[b].astype(np.float64))
        close = dict(rtol=1e-4, atol=1e-4)
        for i in range(3):
            np.testing.assert_allclose(output.image.hidden_states[i][b], hidden[i], **close)
        for i in range(2):
            np.testing.assert_allclose(output.image.keys[i][b], keys[i], **close)
        np.testing.assert_allclose(output.image.tokens[b], hidden[2], **close)
        normed, project = slow_norm(p["post_norm"], hidden[2]), p["projection"]["kernel"]
        np.testing.assert_allclose(output.image.normed_tokens[b], normed, **close)
        np.testing.assert_allclose(output.image.class_token[b], normed[0], **close)
        np.testing.assert_allclose(output.image.token_embeddings[b], normed @ project, **close)
        np.testing.assert_allclose(output.image.embedding[b], normed[0] @ project, **close)
        np.testing.assert_allclose(output.image.value_tokens[b], own, **close)
        regions = slow_norm(p["post_norm"], own) @ project
        np.testing.assert_allclose(output.image.value_embeddings[b], regions, **close)


def test_text_against_loops(params, ids, output):
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["text"])
    for b, end in enumerate((3, 2, 5)):  # the first end of text
        x = p["token_embedding"]["embedding"][ids[b]] + p["position_embedding"][:6]
        for i in range(2):
            x, _ = slow_layer(p["transformer"][f"layer_{i}"], x, lambda q, k: k <= q)
        tokens = slow_norm(p["final_norm"], x)
        np.testing.assert_allclose(output.text.hidden_states[2][b], x, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(output.text.tokens[b], tokens, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(output.text.eot[b], tokens[end], rtol=1e-4, atol=1e-4)
        projected = tokens @ p["projection"]["kernel"]
        np.testing.assert_allclose(output.text.embedding[b], projected[end], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(output.text.token_embeddings[b], projected, rtol=1e-4, atol=1e-4)


def test_similarity(output):
    a, b = np.asarray(output.image.embedding, np.float64), np.asarray(output.text.embedding, np.float64)
    expected = [[x @ y / np.linalg.norm(x) / np.linalg.norm(y) * 100 for y in b] for x in a]
    got = similarity_logits(output.image.embedding, output.text.embedding, math.log(100))
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_end_of_text():
    ids = jnp.array([[5, 2, 9, 9, 0], [5, 9, 2, 1, 2], [9, 9, 9, 9, 9]])
    np.testing.assert_array_equal(eot_positions(ids), [2, 1, 0])
    np.testing.assert_array_equal(eot_positions(ids, 2), [1, 2, 0])


@pytest.mark.parametrize(
    "name, millions",  # published: vision tower, text tower, all
    [
        ("ViT-B/32", (87.85, 63.43, 151_277_313)),
        ("ViT-B/16", (86.19, 63.43, 149_620_737)),
        ("ViT-L/14", (303.97, 123.65, 427_616_513)),
        ("ViT-L/14@336px", (304.29, 123.65, 427_944_193)),
    ],
)
def test_published_parameter_counts(name, millions):
    config = clip_config(name)
    side = config.vision.image_size
    image, ids = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32), jax.ShapeDtypeStruct((1, 77), jnp.int32)
    shapes = jax.eval_shape(Clip(config, scan=True).init, jax.random.key(0), image, ids)["params"]
    trees = (shapes["vision"], shapes["text"], shapes)
    vision, text, total = (sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) for tree in trees)
    assert (round(vision / 1e6, 2), round(text / 1e6, 2), total) == millions


def test_scan_equals_loop(params, images, ids, output):
    stacked = stack_layers(params)
    assert jax.tree.leaves(stacked["text"]["transformer"])[0].shape[0] == 2
    scanned = jax.jit(Clip(CONFIG, scan=True).apply)({"params": stacked}, images, ids)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), output, scanned)
    jax.tree.map(np.testing.assert_array_equal, params, unstack_layers(stacked))
    fresh = jax.eval_shape(Clip(CONFIG, scan=True).init, jax.random.key(0), images, ids)["params"]
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, stacked)


def test_scanned_layers_are_initialised_apart(images):
    drawn = jax.jit(VisionTower(VISION, 6, scan=True).init)(jax.random.key(0), images)["params"]
    kernel = np.asarray(drawn["transformer"]["layers"]["ffn"]["up"]["kernel"])
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1


def test_gradients_of_scanned_and_rematerialised_layers_agree(params, images):
    def gradient(tree, **how):
        def loss(p):
            out = VisionTower(VISION, 6, **how).apply({"params": p}, images)
            return jnp.sum(out.embedding**2) + jnp.sum(out.value_embeddings[:, 1:] ** 2)

        return jax.jit(jax.grad(loss))(tree)

    looped = gradient(params["vision"])
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(looped))
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(looped))
    scanned = unstack_layers(gradient(stack_layers(params["vision"]), scan=True, remat="full"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * largest), looped, scanned)


def test_every_remat_policy_is_accepted(images):
    for name in REMAT:
        jax.eval_shape(VisionTower(VISION, 6, remat=name).init, jax.random.key(0), images)


@pytest.mark.parametrize("scan", [False, True])
def test_what_is_not_used_is_not_computed(scan):
    config = VisionConfig(image_size=40, patch_size=8, width=64, layers=4, heads=4, mlp_width=64)
    image = jax.ShapeDtypeStruct((1, 40, 40, 3), jnp.float32)
    tower = VisionTower(config, 512, scan=scan)
    shapes = jax.eval_shape(tower.init, jax.random.key(0), image)

    def compiled(use):
        return jax.jit(lambda p, x: use(tower.apply(p, x))).lower(shapes, image).compile()

    whole, part = compiled(lambda out: out), compiled(lambda out: out.embedding)
    values_and_tokens = 2 * 26 * 512 * 64 * 2  # two projections of all tokens
    assert part.cost_analysis()["flops"] < whole.cost_analysis()["flops"] - 0.9 * values_and_tokens
    stacked = "f32[4,1,26,4,16]"  # the keys of all layers
    assert stacked not in part.as_text() and (stacked in whole.as_text()) == scan


def test_positions_against_cubic_convolution():
    """Keys' kernel with a = -0.75 around every new sample, borders repeated."""

    def kernel(d):
        d = abs(d)
        if d < 1:
            return 1.25 * d**3 - 2.25 * d**2 + 1
        return -0.75 * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0

    table = np.random.default_rng(0).standard_normal((17, 2)).astype(np.float32)
    square = table[1:].reshape(4, 4, 2)
    got = np.asarray(interpolate_positions(jnp.asarray(table), (6, 3)))
    for r, c in np.ndindex(6, 3):
        y, x = (r + 0.5) * 4 / 6 - 0.5, (c + 0.5) * 4 / 3 - 0.5
        expected = sum(
            kernel(y - i) * kernel(x - j) * square[min(max(i, 0), 3), min(max(j, 0), 3)]
            for i in range(-3, 8)
            for j in range(-3, 8)
        )
        np.testing.assert_allclose(got[1 + 3 * r + c], expected, atol=1e-5)
    np.testing.assert_array_equal(got[0], table[0])
    assert interpolate_positions(table, (4, 4)) is table


def test_other_image_sizes(params, images):
    large = np.random.default_rng(3).standard_normal((1, 21, 16, 3)).astype(np.float32)  # 5 x 4 patches and a rest
    tower = VisionTower(VISION, 6, interpolate_positions=True)
    run = jax.jit(tower.apply)
    out = run({"params": params["vision"]}, large)
    assert out.tokens.shape == (1, 21, 8)
    cut = run({"params": params["vision"]}, large[:, :20])
    np.testing.assert_allclose(out.embedding, cut.embedding, atol=1e-6)
    config, resized = with_image_size(CONFIG, params, 20)
    assert config.vision.tokens == 26 == resized["vision"]["position_embedding"].shape[0]
    square = np.random.default_rng(4).standard_normal((1, 20, 20, 3)).astype(np.float32)
    np.testing.assert_allclose(
        jax.jit(VisionTower(config.vision, 6).apply)({"params": resized["vision"]}, square).embedding,
        run({"params": params["vision"]}, square).embedding,
        atol=1e-5,
    )


@dataclasses.dataclass(frozen=True)
class HalfMerger:
    """Means of neighbouring patches after each layer, and the log of their sizes in the logits."""

    def start(self, x):
        return jnp.ones(x.shape[:2])

    def logit_bias(self, sizes):
        return jnp.log(sizes)[:, None, None, :]

    def __call__(self, layer, tokens, key, sizes):
        assert key.shape[:2] == sizes.shape == tokens[0].shape[:2]
        count = (sizes.shape[1] - 1) // 2

        def merge(x):
            pairs = x[:, 1 : 1 + 2 * count].reshape(x.shape[0], count, 2, -1).mean(2)
            return jnp.concatenate([x[:, :1], pairs, x[:, 1 + 2 * count :]], 1)

        merged = merge(sizes[..., None])[..., 0] * 2
        return tuple(map(merge, tokens)), merged.at[:, 0].set(1.0)


def test_merger_sits_between_attention_and_feed_forward(params, images):
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["vision"])
    out = jax.jit(VisionTower(VISION, 6, merger=HalfMerger()).apply)({"params": params["vision"]}, images)
    assert [h.shape[1] for h in out.hidden_states] == [10, 6, 4]
    assert out.tokens.shape == out.value_tokens.shape == (2, 4, 8) and out.merge_state.shape == (2, 4)
    # First layer by hand: attention of the plain layer, then means, then the feed-forward network.
    plain, _ = slow_image(p, images[0].astype(np.float64))[:2]
    layer = p["transformer"]["layer_0"]
    no_ffn = layer | {"ffn": jax.tree.map(np.zeros_like, layer["ffn"])}
    x, _ = slow_layer(no_ffn, plain[0], lambda q, k: True)
    x = np.concatenate([x[:1], x[1:9].reshape(4, 2, -1).mean(1), x[9:]])
    y = slow_norm(layer["norm2"], x) @ layer["ffn"]["up"]["kernel"] + layer["ffn"]["up"]["bias"]
    y = y / (1 + np.exp(-1.702 * y))
    x = x + y @ layer["ffn"]["down"]["kernel"] + layer["ffn"]["down"]["bias"]
    np.testing.assert_allclose(out.hidden_states[1][0], x, rtol=1e-4, atol=1e-4)
    with pytest.raises(VtjaxError, match="cannot be scanned"):
        VisionTower(VISION, 6, merger=HalfMerger(), scan=True).init(jax.random.key(0), images)


class Scaled(nn.Module):
    """A parallel branch with one number."""

    @nn.compact
    def __call__(self, x, *, train=False):
        return x * self.param("s", nn.initializers.constant(0.5), ())


def test_parallel_adapter_takes_the_input_of_the_feed_forward_network(params, ids):
    text = dataclasses.replace(TEXT, layers=1)
    plain = {**params["text"], "transformer": {"layer_0": params["text"]["transformer"]["layer_0"]}}
    adapted = {**plain["transformer"]["layer_0"], "parallel_adapter": {"s": np.float32(0.5)}}
    without = jax.jit(TextTower(text, 6).apply)({"params": plain}, ids)
    adapted = {**plain, "transformer": {"layer_0": adapted}}
    out = jax.jit(TextTower(text, 6, adapter=Scaled).apply)({"params": adapted}, ids)
    layer = jax.tree.map(np.asarray, plain["transformer"]["layer_0"])
    no_ffn = layer | {"ffn": jax.tree.map(np.zeros_like, layer["ffn"])}
    attended, _ = slow_layer(no_ffn, np.asarray(without.hidden_states[0][0]), lambda q, k: k <= q)
    difference = out.hidden_states[1][0] - without.hidden_states[1][0]
    np.testing.assert_allclose(difference, 0.5 * attended, rtol=1e-4, atol=1e-4)
    scanned = TextTower(TEXT, 6, adapter=Scaled, scan=True, remat="full")
    shapes = jax.eval_shape(scanned.init, jax.random.key(0), ids)["params"]
    assert shapes["transformer"]["layers"]["parallel_adapter"]["s"].shape == (2,)


def test_bfloat16_keeps_embeddings_in_float32(params, images, ids, output):
    half = jax.jit(Clip(CONFIG, jnp.bfloat16).apply)({"params": params}, images, ids)
    assert half.image.tokens.dtype == jnp.bfloat16 and half.image.embedding.dtype == jnp.float32
    for a, b in ((half.image.embedding, output.image.embedding), (half.text.embedding, output.text.embedding)):
        assert np.abs(a - b).max() < 0.06 * np.abs(b).max()


@pytest.mark.parametrize("stacked", [False, True])
def test_every_parameter_is_partitioned(params, stacked):
    mesh = make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    result = partition(stack_layers(params) if stacked else params, RULES, mesh)
    folder = "layers" if stacked else "layer_1"
    spec = result.specs[f"vision/transformer/{folder}/attention/query/kernel"]
    assert tuple(spec) == ((None,) if stacked else ()) + ("fsdp", "tensor")
    assert tuple(result.specs["text/token_embedding/embedding"]) == ("tensor", "fsdp")
    assert tuple(result.specs["logit_scale"]) == ()


def test_errors_say_what_would_be_right(images, ids):
    with pytest.raises(VtjaxError, match="did you mean 'ViT-B/32'"):
        clip_config("ViT-B-32")
    with pytest.raises(VtjaxError, match="did you mean 'quick_gelu'"):
        clip_config("tiny", "quickgelu")
    with pytest.raises(VtjaxError, match="not a multiple of"):
        VisionConfig(image_size=100)
    with pytest.raises(VtjaxError, match="width 10 is not a multiple of heads 4"):
        TextConfig(width=10, heads=4)
    wrong = {(2, 3, 12, 12): "expected \\[B, height", (2, 16, 12, 3): "16 x 12 pixels for a model of"}
    for shape, message in wrong.items():
        with pytest.raises(VtjaxError, match=message):
            VisionTower(VISION, 6).init(jax.random.key(0), jnp.zeros(shape))
    with pytest.raises(VtjaxError, match="smaller than one patch"):
        VisionTower(VISION, 6, interpolate_positions=True).init(jax.random.key(0), jnp.zeros((1, 3, 12, 3)))
    with pytest.raises(VtjaxError, match="L at most 9"):
        TextTower(TEXT, 6).init(jax.random.key(0), jnp.zeros((1, 10), jnp.int32))
    with pytest.raises(VtjaxError, match="did you mean 'dots'"):
        VisionTower(VISION, 6, remat="dot").init(jax.random.key(0), images)


def test_presets_are_what_they_are_called():
    for name, config in PRESETS.items():
        if name != "tiny":
            assert name.startswith(f"ViT-{'L' if config.vision.layers == 24 else 'B'}/{config.vision.patch_size}")
    assert [c.vision.tokens for n, c in PRESETS.items() if n != "tiny"] == [50, 197, 257, 577]
    assert clip_config("tiny", "gelu").text.activation == "gelu"
