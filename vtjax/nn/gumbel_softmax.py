"""Gumbel-softmax (Jang et al., arXiv 1611.01144) with a straight-through one-hot."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from vtjax.arrays import Array, Scalar


def gumbel_softmax(
    logits: Float[Array, "*shape"],
    *,
    axis: int = -1,
    temperature: Scalar = 1.0,
    hard: bool = False,
    rng: Array | None = None,
) -> Float[Array, "*shape"]:
    """softmax((logits + noise) / temperature) along `axis`, float32.

    Args:
      logits: float, any shape.
      hard: the value is the one-hot of the largest (of equal ones the first), the gradient that of the softmax.
      rng: key of the Gumbel(0, 1) noise; None is without noise.

    Returns:
      float32 in the shape of `logits`; sums to 1 along `axis`.
    """
    logits = logits.astype(jnp.float32)
    if rng is not None:
        logits = logits + jax.random.gumbel(rng, logits.shape, jnp.float32)
    soft = jax.nn.softmax(logits / temperature, axis=axis)
    return straight_through(soft, axis) if hard else soft


def straight_through(soft: Float[Array, "*shape"], axis: int = -1) -> Float[Array, "*shape"]:
    """The one-hot of the largest entry along `axis`, exactly, with the gradient of `soft`."""
    best = jnp.argmax(soft, axis=axis)
    one_hot = jax.nn.one_hot(best, soft.shape[axis], axis=axis, dtype=soft.dtype)
    return one_hot + (soft - jax.lax.stop_gradient(soft))
