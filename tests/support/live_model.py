"""A small random OV-OAD with an encoder, and videos for it: for what streams and reports do, not for what they say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vtjax.encoders.clip import Encoder
from vtjax.encoders.frames import FrameEncoder
from vtjax.encoders.image import ImageTransform
from vtjax.methods.ovoad.config import OvoadConfig, window_of
from vtjax.methods.ovoad.embed import Scorer
from vtjax.methods.ovoad.task import OvoadObjective
from vtjax.nn.clip import Clip, ClipConfig, TextConfig
from vtjax.nn.vit import VisionConfig
from vtjax.text.tokenizer import SEP, WordTokenizer

WIDTH = 16
SIZES = ClipConfig(
    embed_dim=12,
    vision=VisionConfig(image_size=32, patch_size=16, width=WIDTH, layers=1, heads=2, mlp_width=32),
    text=TextConfig(vocab_size=64, context_length=12, width=12, layers=1, heads=2, mlp_width=24, eot_id=SEP),
)
WORDS = "a photo of action background cut pour open close push run jump this is nothing happens".split()


def small_config(**changes) -> OvoadConfig:
    """changes: "section__field" -> value."""
    config = OvoadConfig()
    for section, values in {
        "model": dict(
            width=WIDTH, past=6, near=4, heads=2, mlp_ratio=2, dntr_layers=1, cluster_layers=1, group_layers=1,
            groups=4, project_hidden=24, joint_width=10,
        ),
        "text": dict(adapter=4),
    }.items():  # fmt: skip
        config = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **values)})
    for path, value in changes.items():
        section, field = path.split("__")
        config = dataclasses.replace(
            config, **{section: dataclasses.replace(getattr(config, section), **{field: value})}
        )
    return config


def random_tree(function, *shapes, seed=0):
    """Random parameters shaped as what `function` returns, far enough from zero that scores differ."""
    rng = np.random.default_rng(seed)

    def leaf(path, x):
        one = 1.0 if str(path[-1].key) == "scale" else 0.0
        return np.asarray(one + 0.3 * rng.standard_normal(x.shape), np.float32)

    return jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(function, *shapes))


def small_encoder(seed=1, dtype=jnp.float32) -> FrameEncoder:
    tower = Clip(SIZES)
    ids = jnp.zeros((1, SIZES.text.context_length), jnp.int32)
    pixels = jnp.zeros((1, 32, 32, 3), jnp.float32)
    params = random_tree(lambda: tower.init(jax.random.key(0), pixels, ids)["params"], seed=seed)
    params["logit_scale"] = np.float32(2.0)
    return FrameEncoder(Encoder(SIZES, params, tokenizer(), ImageTransform(32), dtype))


def tokenizer() -> WordTokenizer:
    return WordTokenizer.from_texts([" ".join(WORDS)])


def small_scorer(
    config: OvoadConfig | None = None, encoder: bool = True, dtype=jnp.float32
) -> tuple[Scorer, dict]:
    """(scorer, its parameters)."""
    config = small_config() if config is None else config
    objective = OvoadObjective(config, SIZES, dtype)
    batch = {name: jnp.zeros((1, *s.shape), s.dtype) for name, s in objective.example_spec().items()}
    params = random_tree(lambda: objective.init(jax.random.key(1), batch), seed=2)
    params["logit_scale"] = np.float32(1.5)
    return Scorer(objective, tokenizer(), small_encoder(dtype=dtype) if encoder else None), params


def features(length: int, seed: int = 0, width: int = WIDTH) -> np.ndarray:
    """float32 [length, width]."""
    return np.random.default_rng(seed).standard_normal((length, width)).astype(np.float32)


def window(config: OvoadConfig) -> int:
    return window_of(config.model)
