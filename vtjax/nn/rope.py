"""Rotary position embedding (Su et al., arXiv 2104.09864) in the half-split layout of Hugging Face's LLaMA weights.

Channel i of the first half of a head turns with channel i of the second half. Meta's original files pair neighbouring
channels instead; their query and key weights are the same up to a permutation of each head's channels.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def rope_tables(positions: jax.Array, head_dim: int, theta: float = 10000.0) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of position * theta^(-2i / head_dim), each float32 [B, L, 1, head_dim // 2].

    positions: int32 [B, L].
    """
    frequency = 1.0 / theta ** (jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angle = positions[:, :, None, None].astype(jnp.float32) * frequency[None, None, None, :]
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turns queries or keys [B, L, heads, head_dim] by `rope_tables`; computed in float32, returned in x's dtype."""
    cos, sin = tables
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
