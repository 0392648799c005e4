"""Positional encodings: fixed sines (Vaswani et al., 2017) and rotations (RoPE, Su et al., arXiv 2104.09864)."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vtjax.arrays import Array
from vtjax.errors import VtjaxError


def sinusoidal(length: int, width: int) -> np.ndarray:
    """Interleaved sines and cosines (Vaswani et al., 2017, section 3.5), float32 [length, width].

    table[p, 2i] = sin(p / 10000^(2i/width)), table[p, 2i+1] = cos(the same). Computed in float64: in float32 the
    angle alone would be off by 1e-5 from position 200 on.

    Raises:
      VtjaxError: odd width.
    """
    if width % 2:
        raise VtjaxError(f"sinusoidal positions need an even width, got {width}")
    angles = np.arange(length)[:, None] * 10000.0 ** (-np.arange(0, width, 2) / width)[None, :]
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, width).astype(np.float32)


def rope_tables(
    positions: Int[Array, "batch tokens"], head_dim: int, theta: float = 10000.0
) -> tuple[Float[Array, "batch tokens 1 half"], Float[Array, "batch tokens 1 half"]]:
    """Cosine and sine of position * theta^(-2i / head_dim), float32, i < head_dim / 2 (arXiv 2104.09864).

    Channel i of the first half of a head turns with channel i of the second half, as in Hugging Face's LLaMA weights.
    Meta's original files pair neighbouring channels instead; their query and key weights are the same up to a
    permutation of each head's channels.
    """
    frequency = 1.0 / theta ** (jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angle = positions[:, :, None, None].astype(jnp.float32) * frequency[None, None, None, :]
    return jnp.cos(angle), jnp.sin(angle)


def rotate(
    x: Float[Array, "batch tokens heads head_dim"], tables: tuple[Array, Array]
) -> Float[Array, "batch tokens heads head_dim"]:
    """Turns queries or keys by `rope_tables`; computed in float32, returned in x's dtype."""
    cos, sin = tables
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
