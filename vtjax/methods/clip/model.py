"""CLIP's towers over the frames of a clip, and a small transformer that sees the order of the frames (CLIP4Clip)."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vtjax.encoders.clip_config import ClipModelConfig
from vtjax.encoders.image import ImageTransform
from vtjax.losses import sigmoid
from vtjax.losses.contrastive import unit
from vtjax.nn import clip as towers
from vtjax.nn import temporal_transformer
from vtjax.sharding.partition import Rules

# The partition table of a VideoTextModel (sharding/partition.py).
RULES: Rules = (
    *temporal_transformer.RULES,
    (r"logit_bias", ()),
    *towers.RULES,
)


class VideoTextModel(nn.Module):
    """Clips and texts to one space. Parameters `vision`, `text`, `logit_scale` are those of `nn.clip.Clip`.

    clip: sizes of both towers. config: what makes one embedding of the frames. loss: "infonce", or "sigmoid", which
    has a learnt bias. dtype: of matmul inputs.
    """

    clip: towers.ClipConfig
    config: ClipModelConfig
    loss: str = "infonce"
    dtype: Any = jnp.float32

    def setup(self) -> None:
        c, m = self.clip, self.config
        same = dict(embed_dim=c.embed_dim, dtype=self.dtype, scan=m.scan, remat=m.remat)
        self.vision = towers.VisionTower(c.vision, **same)
        self.text = towers.TextTower(c.text, **same)
        if m.temporal == "transformer":
            self.temporal = temporal_transformer.TemporalTransformer(
                m.frames, m.temporal_layers, m.temporal_heads, self.dtype
            )
        start = math.log(sigmoid.SCALE_INIT) if self.loss == "sigmoid" else towers.LOGIT_SCALE_INIT
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(start), (), jnp.float32)
        if self.loss == "sigmoid":
            self.logit_bias = self.param("logit_bias", nn.initializers.constant(sigmoid.BIAS_INIT), (), jnp.float32)

    def encode_frames(self, frames: jax.Array, train: bool = False) -> jax.Array:
        """uint8 [B, T, size, size, 3] -> float32 [B, T, D], unit norm."""
        pixels = ImageTransform(self.clip.vision.image_size).normalise(frames)
        embedding = self.vision(pixels.reshape(-1, *frames.shape[2:]), train=train).embedding
        return unit(embedding).reshape(*frames.shape[:2], -1)

    def pool(self, embeddings: jax.Array, mask: jax.Array) -> jax.Array:
        """Frame embeddings float32 [B, T, D], mask bool [B, T] of real frames -> clip embeddings float32 [B, D]."""
        if self.config.temporal == "transformer":
            embeddings = self.temporal(embeddings, mask)
        weights = mask.astype(jnp.float32)[..., None]
        return jnp.sum(embeddings * weights, axis=1) / jnp.maximum(jnp.sum(weights, axis=1), 1.0)

    def encode_text(self, ids: jax.Array, train: bool = False) -> jax.Array:
        """Token ids int32 [N, L] -> float32 [N, D], not normalised."""
        return self.text(ids, train=train).embedding

    def __call__(self, frames: jax.Array, mask: jax.Array, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Every part once, so that `init` makes every parameter."""
        return self.pool(self.encode_frames(frames), mask), self.encode_text(ids)
