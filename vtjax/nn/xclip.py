"""X-CLIP (Ni et al., ECCV 2022): a CLIP whose frames talk to each other, and whose prompts look at the video.

Every layer of the vision tower makes one message of each frame's class token; messages attend to each other across
frames, and each joins its frame's tokens for the attention of that layer alone. Frame embeddings are integrated by a
small transformer, and class names take up what the video shows by cross attention.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Float, Int

from vtjax.arrays import Array
from vtjax.errors import VtjaxError
from vtjax.nn import clip
from vtjax.nn.attention import KERNEL_INIT, MultiHeadAttention, dot_product_attention
from vtjax.nn.clip import LOGIT_SCALE_INIT, TextConfig, TextTower
from vtjax.nn.transformer import Encoder, FeedForward, LayerConfig, LayerNorm
from vtjax.nn.vit import PatchEmbedding, Projection, VisionConfig, layer_config

# Partition table (sharding/partition.py) of an XClip's parameters.
RULES = (
    (r"message/kernel", ("embed", None)),
    (r"message/bias|prompts/alpha|\w+_norm/(scale|bias)", (None,)),
    (r"prompt_projection/kernel", ("embed", None)),
    *clip.RULES,
)


@dataclasses.dataclass(frozen=True)
class XClipConfig:
    """Sizes; the defaults are ViT-B/32 on 8 frames. `integration_*`: of the transformer over frames. `prompt_*`: of the
    cross attention of class names to patches; alpha is the initial weight of what they take up."""

    embed_dim: int = 512
    vision: VisionConfig = VisionConfig()
    text: TextConfig = TextConfig()
    frames: int = 8
    integration_layers: int = 1
    integration_heads: int = 8
    integration_mlp_width: int = 2048
    prompt_layers: int = 2
    prompt_heads: int = 8
    prompt_alpha: float = 0.1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class XClipOutput:
    """Of B videos and N class names; nothing but `logits` is normalised.

    video: float32 [B, D]. frames: float32 [B, T, D], before the frames are integrated. text: float32 [B, N, D], each
    class name as it stands for each video. logits: float32 [B, N], exp(logit_scale) times cosines.
    """

    video: Array
    frames: Array
    text: Array
    logits: Array


class MessageLayer(nn.Module):
    """A pre-norm layer with a message token: x [B, T, N, width] -> the same.

    Parameters as in `transformer.EncoderLayer`, and `message`, `message_norm`, `message_attention`.
    """

    config: LayerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "batch frames tokens width"]) -> Float[Array, "batch frames tokens width"]:
        c = self.config
        _, frames, tokens, width = x.shape
        attend = functools.partial(MultiHeadAttention, c.heads, dtype=c.dtype)
        message = nn.Dense(width, dtype=c.dtype, kernel_init=KERNEL_INIT, name="message")(x[:, :, 0])
        message += attend(name="message_attention")(LayerNorm(c.eps, name="message_norm")(message))
        y = rearrange(jnp.concatenate([x, message[:, :, None]], axis=2), "b t n width -> (b t) n width")
        y += attend(name="attention")(LayerNorm(c.eps, name="norm1")(y))
        y = y[:, :tokens]
        y += FeedForward(c, name="ffn")(LayerNorm(c.eps, name="norm2")(y))
        return rearrange(y, "(b t) n width -> b t n width", t=frames)


class CrossFrameTower(nn.Module):
    """Frames to one embedding each, and their patches; parameters as in `vit.VisionTower`."""

    config: VisionConfig
    embed_dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, videos: Float[Array, "batch frames height width 3"]
    ) -> tuple[Float[Array, "batch frames features"], Float[Array, "batch frames patches hidden"]]:
        """videos float [B, T, height, width, 3] -> (float32 [B, T, D], patches [B, T, N, width] before any norm)."""
        c = self.config
        frames = videos.shape[1]
        init = nn.initializers.normal(c.width**-0.5)
        images = rearrange(videos, "b t h w rgb -> (b t) h w rgb")
        patches = PatchEmbedding(c.patch_size, c.width, self.dtype, name="patch_embedding")(images)
        first = self.param("class_embedding", init, (c.width,), jnp.float32).astype(self.dtype)
        table = self.param("position_embedding", init, (c.tokens, c.width), jnp.float32)
        x = jnp.concatenate([jnp.broadcast_to(first, (len(images), 1, c.width)), patches], axis=1)
        x = LayerNorm(c.eps, name="pre_norm")(x + table[None].astype(self.dtype))
        x = rearrange(x, "(b t) n width -> b t n width", t=frames)
        x = _MessageStack(layer_config(c, self.dtype), c.layers, name="transformer")(x)
        project = Projection(self.embed_dim, self.dtype, name="projection")
        return project(LayerNorm(c.eps, name="post_norm")(x[:, :, 0])), x[:, :, 1:]


class _MessageStack(nn.Module):
    config: LayerConfig
    layers: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(self.layers):
            x = MessageLayer(self.config, name=f"layer_{i}")(x)
        return x


class FrameIntegration(nn.Module):
    """x + transformer(x + positions), then the mean over frames: [B, T, D] -> [B, D]."""

    config: LayerConfig
    layers: int
    frames: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch frames width"]) -> Float[Array, "batch width"]:
        table = self.param("position_embedding", nn.initializers.normal(0.02), (self.frames, x.shape[-1]), jnp.float32)
        y = Encoder(self.config, self.layers, name="transformer")(x + table[None].astype(x.dtype))
        return jnp.mean(x + y, axis=1)


class VideoPrompts(nn.Module):
    """What class names [B, N, D] take up from a video's patches [B, P, D]: alpha times decoder layers' output."""

    config: LayerConfig
    layers: int
    alpha: float

    @nn.compact
    def __call__(
        self, text: Float[Array, "batch names width"], patches: Float[Array, "batch patches width"]
    ) -> Float[Array, "batch names width"]:
        patches = LayerNorm(self.config.eps, name="norm")(patches)
        for i in range(self.layers):
            text = _PromptLayer(self.config, name=f"layer_{i}")(text, patches)
        alpha = self.param("alpha", nn.initializers.constant(self.alpha), (text.shape[-1],), jnp.float32)
        return text * alpha[None, None]


class _PromptLayer(nn.Module):
    config: LayerConfig

    @nn.compact
    def __call__(self, text: Array, patches: Array) -> Array:
        c = self.config
        text += _CrossAttention(c.heads, c.dtype, name="cross_attention")(LayerNorm(c.eps, name="norm1")(text), patches)
        return text + FeedForward(c, name="ffn")(LayerNorm(c.eps, name="norm2")(text))


class _CrossAttention(nn.Module):
    """As MultiHeadAttention, but `query`, `key` and `value` are without bias, `out` is with one."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, memory: Array) -> Array:
        width = x.shape[-1]
        dense = functools.partial(nn.DenseGeneral, dtype=self.dtype, kernel_init=KERNEL_INIT)
        inner = functools.partial(dense, (self.heads, width // self.heads), use_bias=False)
        query, key, value = inner(name="query")(x), inner(name="key")(memory), inner(name="value")(memory)
        return dense(width, axis=(-2, -1), name="out")(dot_product_attention(query, key, value))


class XClip(nn.Module):
    """Videos and class names to logits. dtype: of matmul inputs; norms, softmax and embeddings are float32."""

    config: XClipConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        c = self.config
        small = functools.partial(
            LayerConfig, activation="quick_gelu", pre_norm=True, eps=c.vision.eps, dtype=self.dtype
        )
        self.vision = CrossFrameTower(c.vision, c.embed_dim, self.dtype)
        self.text = TextTower(c.text, c.embed_dim, self.dtype)
        self.integration = FrameIntegration(
            small(c.integration_heads, c.integration_mlp_width), c.integration_layers, c.frames
        )
        self.prompt_norm = LayerNorm(c.vision.eps)
        self.prompt_projection = Projection(c.embed_dim, self.dtype)
        self.prompts = VideoPrompts(small(c.prompt_heads, 4 * c.embed_dim), c.prompt_layers, c.prompt_alpha)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(LOGIT_SCALE_INIT), (), jnp.float32)

    def __call__(self, videos: Float[Array, "..."], ids: Int[Array, "names tokens"]) -> XClipOutput:
        """videos: float [B, T, height, width, 3], normalised; ids: int32 [N, L] of class names.

        Raises:
          VtjaxError: another number or size of frames than the model's.
        """
        c = self.config
        expected = (c.frames, c.vision.image_size, c.vision.image_size, 3)
        if videos.ndim != 5 or videos.shape[1:] != expected:
            raise VtjaxError(f"videos {videos.shape}; expected [B, {', '.join(map(str, expected))}]")
        frames, patches = self.vision(videos)
        video = self.integration(frames)
        seen = jnp.mean(self.prompt_projection(self.prompt_norm(patches)), axis=1)
        names = self.text(ids).embedding
        names = jnp.broadcast_to(names[None], (videos.shape[0], *names.shape))
        text = names + self.prompts(names, seen)
        unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
        cosines = jnp.einsum("bd,bnd->bn", unit(video), unit(text), precision=jax.lax.Precision.HIGHEST)
        return XClipOutput(video, frames, text, jnp.exp(self.logit_scale) * cosines)
