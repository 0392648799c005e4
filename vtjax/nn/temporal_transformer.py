"""A transformer over the frame embeddings of a clip, which sees their order (CLIP4Clip, arXiv 2104.08860)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Bool, Float

from vtjax.arrays import Array
from vtjax.nn.attention import key_mask
from vtjax.nn.transformer import Encoder, LayerConfig, LayerNorm
from vtjax.sharding.partition import Rules

# What its partition table (sharding/partition.py) has besides that of the transformer layers.
RULES: Rules = ((r"temporal/project/kernel", ("embed", None)),)


class TemporalTransformer(nn.Module):
    """Adds to every frame embedding what its place among the others tells.

    The last projection starts at zero, so that training starts from the mean of the frames, as CLIP's zero-shot use.

    frames: of a clip. layers, heads: of the transformer. dtype: of matmul inputs.
    """

    frames: int
    layers: int
    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch frames width"], mask: Bool[Array, "batch frames"]
    ) -> Float[Array, "batch frames width"]:
        """x: float32 [B, T, D], mask: bool [B, T] of real frames -> float32 [B, T, D]."""
        width = x.shape[-1]
        # The norm makes entries of size 1; positions must not drown beside them.
        table = self.param("position_embedding", nn.initializers.normal(0.5), (self.frames, width), jnp.float32)
        y = (LayerNorm(name="norm_in")(x) + table[None]).astype(self.dtype)
        layer = LayerConfig(self.heads, 4 * width, pre_norm=True, dtype=self.dtype)
        y = Encoder(layer, self.layers, final_norm=True, name="encoder")(y, key_mask(mask))
        zeros = nn.initializers.zeros
        y = nn.Dense(width, use_bias=False, dtype=self.dtype, kernel_init=zeros, name="project")(y)
        return x + y.astype(x.dtype)
