"""CLIP (Radford et al., arXiv 2103.00020): a vision and a text transformer with one joint space.

`vtjax.weights.clip` loads published weights; `vtjax.text.clip_tokenizer` and `vtjax.encoders.image` make the inputs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from vtjax.arrays import Array, Scalar
from vtjax.errors import VtjaxError, nearest
from vtjax.nn import vit
from vtjax.nn.attention import causal_mask
from vtjax.nn.transformer import LayerNorm, lookup
from vtjax.nn.vit import LayerStack, Projection, VisionConfig, VisionOutput, VisionTower

# Partition table (sharding/partition.py) of a Clip's parameters, of either tower alone, looped or stacked.
RULES = (
    (r"token_embedding/embedding", ("vocab", "embed")),
    (r"logit_scale", ()),
    *vit.RULES,
)
LOGIT_SCALE_INIT = math.log(1 / 0.07)


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Sizes of the text tower.

    eot_id: the token whose state stands for the text, at its first place; None for the largest id in the text, which
    is OpenAI's rule and the same for a vocabulary whose end-of-text token comes last.
    """

    vocab_size: int = 49408
    context_length: int = 77
    width: int = 512
    layers: int = 12
    heads: int = 8
    mlp_width: int = 2048
    activation: str = "quick_gelu"
    eps: float = 1e-5
    attention_dropout: float = 0.0
    eot_id: int | None = None

    def __post_init__(self) -> None:
        vit.check_sizes(self)


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """Both towers and the width of the joint space."""

    embed_dim: int = 512
    vision: VisionConfig = VisionConfig()
    text: TextConfig = TextConfig()


_LARGE: dict[str, Any] = dict(width=1024, layers=24, heads=16, mlp_width=4096, patch_size=14)
_LARGE_TEXT = TextConfig(width=768, heads=12, mlp_width=3072)
# By OpenAI's names, and "tiny" for trials: 32 x 32 pixels in 8 x 8 patches.
PRESETS = {
    "ViT-B/32": ClipConfig(),
    "ViT-B/16": ClipConfig(vision=VisionConfig(patch_size=16)),
    "ViT-L/14": ClipConfig(768, VisionConfig(**_LARGE), _LARGE_TEXT),
    "ViT-L/14@336px": ClipConfig(768, VisionConfig(image_size=336, **_LARGE), _LARGE_TEXT),
    "tiny": ClipConfig(
        32,
        VisionConfig(image_size=32, patch_size=8, width=64, layers=2, heads=2, mlp_width=256),
        TextConfig(vocab_size=514, context_length=32, width=32, layers=2, heads=2, mlp_width=128),
    ),
}


def clip_config(name: str, activation: str | None = None) -> ClipConfig:
    """A preset by name; `activation` for both towers: OpenAI's is "quick_gelu", most of open_clip's weights "gelu".

    Raises:
      VtjaxError: unknown name or activation.
    """
    if name not in PRESETS:
        raise VtjaxError(f"CLIP model {name!r}: {nearest(name, PRESETS)}")
    config = PRESETS[name]
    return config if activation is None else with_activation(config, activation)


def with_activation(config: ClipConfig, activation: str) -> ClipConfig:
    """The configuration with this activation in both towers."""
    vision = dataclasses.replace(config.vision, activation=activation)
    return dataclasses.replace(config, vision=vision, text=dataclasses.replace(config.text, activation=activation))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TextOutput:
    """All that the text tower made of B texts; nothing is L2-normalised, states after the end of text mean nothing.

    embedding: float32 [B, D], the projected end-of-text state. eot: [B, width], that state after the last norm.
    tokens: [B, L, width] after the last norm. token_embeddings: float32 [B, L, D], those in the joint space.
    hidden_states: input of the first layer, then every layer's output before the last norm. keys: every layer's,
    [B, L, heads, head_dim].
    """

    embedding: Array
    eot: Array
    tokens: Array
    token_embeddings: Array
    hidden_states: tuple[Array, ...]
    keys: tuple[Array, ...]


class TextTower(nn.Module):
    """Token ids to states and an embedding in the joint space; attributes as in `VisionTower`."""

    config: TextConfig
    embed_dim: int
    dtype: Any = jnp.float32
    scan: bool = False
    remat: str | None = None
    adapter: Callable[[], nn.Module] | None = None

    @nn.compact
    def __call__(self, ids: Int[Array, "..."], *, train: bool = False) -> TextOutput:
        """ids: int32 [B, L], start and end of text included, padded on the right with any id that is not larger.

        Attention is causal, so that what follows the end of text has no influence and needs no mask.

        Raises:
          VtjaxError: another rank, or L is more than `config.context_length`.
        """
        c = self.config
        if ids.ndim != 2 or ids.shape[1] > c.context_length:
            raise VtjaxError(f"token ids {ids.shape}; expected [B, L] with L at most {c.context_length}")
        length = ids.shape[1]
        words = nn.Embed(c.vocab_size, c.width, embedding_init=nn.initializers.normal(0.02), name="token_embedding")
        x = lookup(words, ids)
        table = self.param("position_embedding", nn.initializers.normal(0.01), (c.context_length, c.width), jnp.float32)
        x = (x + table[None, :length]).astype(self.dtype)
        stack = LayerStack(
            vit.layer_config(c, self.dtype), c.layers, self.scan, self.remat, self.adapter, name="transformer"
        )
        trace = stack(x, causal_mask(length), train=train)
        tokens = LayerNorm(c.eps, name="final_norm")(trace.x)
        project = Projection(self.embed_dim, self.dtype, name="projection")
        at = eot_positions(ids, c.eot_id)
        eot = jnp.take_along_axis(tokens, at[:, None, None], axis=1)[:, 0]
        return TextOutput(project(eot), eot, tokens, project(tokens), trace.hidden_states, trace.keys)


def eot_positions(ids: Int[Array, "batch tokens"], eot_id: int | None = None) -> Int[Array, "batch"]:
    """int32 [B]: where in each row of ids [B, L] the text ends, the first place of `eot_id`, or of the largest id.

    A row without `eot_id` gives 0.
    """
    return jnp.argmax(ids if eot_id is None else ids == eot_id, axis=-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClipOutput:
    """Both towers' outputs and the learnt log of the inverse temperature, float32 []."""

    image: VisionOutput
    text: TextOutput
    logit_scale: Array


class Clip(nn.Module):
    """Both towers; parameters under `vision`, `text` and `logit_scale`, so that params["vision"] are a VisionTower's.

    dtype, scan, remat, interpolate_positions: see `VisionTower`.
    """

    config: ClipConfig
    dtype: Any = jnp.float32
    scan: bool = False
    remat: str | None = None
    interpolate_positions: bool = False

    def setup(self) -> None:
        c = self.config
        same = dict(embed_dim=c.embed_dim, dtype=self.dtype, scan=self.scan, remat=self.remat)
        self.vision = VisionTower(c.vision, interpolate_positions=self.interpolate_positions, **same)
        self.text = TextTower(c.text, **same)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(LOGIT_SCALE_INIT), (), jnp.float32)

    def __call__(self, images: Float[Array, "..."], ids: Int[Array, "..."], *, train: bool = False) -> ClipOutput:
        """images: float [B, height, width, 3], normalised; ids: int32 [N, L]; B and N may differ."""
        return ClipOutput(self.vision(images, train=train), self.text(ids, train=train), self.logit_scale)

    def encode_image(self, images: Float[Array, "..."], *, train: bool = False) -> VisionOutput:
        """See `VisionTower`; for `apply(..., method="encode_image")`."""
        return self.vision(images, train=train)

    def encode_text(self, ids: Int[Array, "..."], *, train: bool = False) -> TextOutput:
        """See `TextTower`; for `apply(..., method="encode_text")`."""
        return self.text(ids, train=train)


def similarity_logits(
    image: Float[Array, "images width"], text: Float[Array, "texts width"], logit_scale: Scalar
) -> Float[Array, "images texts"]:
    """float32 [B, N]: exp(logit_scale) times the cosines of embeddings image [B, D] and text [N, D]."""
    image, text = (x.astype(jnp.float32) for x in (image, text))
    image, text = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (image, text))
    return jnp.exp(logit_scale) * (image @ text.T)


def with_image_size(
    config: ClipConfig, params: Mapping[str, Any], image_size: int
) -> tuple[ClipConfig, dict[str, Any]]:
    """The model for square images of another size, its position table resampled once and for all.

    Raises:
      VtjaxError: a size that is not a multiple of the patch.
    """
    vision = dataclasses.replace(config.vision, image_size=image_size)
    table = vit.interpolate_positions(jnp.asarray(params["vision"]["position_embedding"]), (vision.grid, vision.grid))
    tower = {**params["vision"], "position_embedding": table}
    return dataclasses.replace(config, vision=vision), {**params, "vision": tower}
