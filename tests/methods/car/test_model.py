"""CAR's model: which parameters each variant has, that the partition table covers them, and that padding is inert."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.errors import VtjaxError
from vtjax.methods.car import config as car
from vtjax.methods.car.model import rules
from vtjax.methods.car.task import CarObjective
from vtjax.nn.bert import BertConfig
from vtjax.sharding.mesh import AXES
from vtjax.sharding.partition import partition

# Compiling is most of the time here; the results are the same to rounding.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
BERT = BertConfig("distilbert", vocab_size=20, width=8, layers=1, heads=2, ffn_width=16, positions=16, token_types=0)
TOWERS = {"motion_encoder", "text_encoder", "motion_decoder"}


def settings(encoder="builtin", vae=True, patch=1, **text):
    return car.CarConfig(
        car.CarModelConfig(motion_width=4, max_frames=6, patch=patch, latent=8, layers=1, heads=2, ff=16, vae=vae),
        car.CarTextConfig(encoder=encoder, max_tokens=5, width=8, vocab_size=20, **text),
        car.CarLossConfig(sentence_width=3),
    )


def random_batch(config, count=3, seed=0):
    rng = np.random.default_rng(seed)
    batch = {}
    for name, spec in CarObjective(config, BERT).example_spec().items():
        shape = (count, *spec.shape)
        if spec.dtype == jnp.int32:
            batch[name] = rng.integers(0, config.text.vocab_size, shape).astype(np.int32)
        elif name.endswith("mask"):
            batch[name] = np.arange(shape[-1]) < rng.integers(1, shape[-1] + 1, shape[:-1])[..., None]
        elif spec.dtype == jnp.bool_:
            batch[name] = rng.random(shape) < 0.7
        else:
            batch[name] = rng.normal(size=shape).astype(np.float32)
    return batch


VARIANTS = {
    "builtin": (settings(), TOWERS | {"text_embedding"}),
    "patched": (settings(patch=3), TOWERS | {"text_embedding"}),
    "cached": (settings("bert"), TOWERS),
    "tuned": (settings("bert", trainable=True), TOWERS | {"language_model"}),
    "no vae": (settings(vae=False), TOWERS | {"text_embedding", "text_head"}),
    "no vae, cached": (settings("bert", vae=False), {"motion_encoder", "motion_decoder", "text_head"}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_has_its_parts_and_the_rules_cover_them(name):
    config, parts = VARIANTS[name]
    params = jax.eval_shape(lambda b: CarObjective(config, BERT).init(jax.random.key(0), b), random_batch(config))
    assert set(params) == parts
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert params["motion_encoder"]["tokens"].shape == (2 if config.model.vae else 1, 8)
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()).reshape(2, 2, 2), AXES)
    sharded = partition(params, rules(config.text), mesh)
    assert sharded.replicated_bytes < sharded.total_bytes / 2


@functools.cache
def ready(name):
    config, _ = VARIANTS[name]
    batch = random_batch(config)
    params = jit(lambda b: CarObjective(config, BERT).init(jax.random.key(0), b))(batch)
    embed = jit(lambda p, b: (CarObjective(config, BERT).embed_text(p, b), CarObjective(config, BERT).embed_motion(p, b)))
    return params, batch, embed


@pytest.mark.parametrize("name", ["patched", "tuned", "no vae, cached"])
def test_embeddings_do_not_depend_on_padding_or_neighbours(name):
    params, batch, embed = ready(name)
    text, motion = embed(params, batch)
    assert text.shape == motion.shape == (3, 8) and text.dtype == motion.dtype == jnp.float32
    noisy = {k: v for k, v in batch.items() if "mask" in k}
    noisy["motion"] = np.where(batch["motion_mask"][..., None], batch["motion"], 9.0).astype(np.float32)
    key = "text_ids" if "text_ids" in batch else "text_states"
    mask = batch["text_mask"] if key == "text_ids" else batch["text_mask"][..., None]
    noisy[key] = np.where(mask, batch[key], 7).astype(batch[key].dtype)
    for alone in ({k: v[1:2] for k, v in noisy.items()}, {k: v[1:2] for k, v in batch.items()}):
        one_text, one_motion = embed(params, alone)
        np.testing.assert_allclose(one_text[0], text[1], atol=1e-5)
        np.testing.assert_allclose(one_motion[0], motion[1], atol=1e-5)


def test_builtin_text_sees_word_order():
    params, batch, embed = ready("patched")
    ids, mask = np.array([[3, 4, 5, 0, 0], [5, 4, 3, 0, 0]], np.int32), np.array([[1, 1, 1, 0, 0]] * 2, bool)
    text, _ = embed(params, {**{k: v[:2] for k, v in batch.items()}, "text_ids": ids, "text_mask": mask})
    assert np.abs(text[0] - text[1]).max() > 1e-2


def test_a_language_model_in_the_graph_needs_its_configuration():
    config, _ = VARIANTS["tuned"]
    with pytest.raises(VtjaxError, match="needs its configuration"):
        CarObjective(config).init(jax.random.key(0), random_batch(config))
