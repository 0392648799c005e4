"""Robust regression losses."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Bool, Float, Num

from vtjax.arrays import Array


def smooth_l1(
    prediction: Num[Array, "*rows features"],
    target: Num[Array, "*rows features"],
    mask: Bool[Array, "*rows"] | None = None,
    *,
    beta: float = 1.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Huber loss: 0.5 e^2 / beta where |e| < beta, else |e| - beta / 2 (docs/methods/car.md, with beta 1).

    Args:
      prediction, target: float [..., D], same shape.
      mask: bool [...], the rows that count. None: every element counts, also padding.

    Returns:
      (sum over elements, number of elements), float32 scalars.
    """
    error = jnp.abs(prediction.astype(jnp.float32) - target.astype(jnp.float32))
    if mask is not None:
        error = jnp.where(mask[..., None], error, 0)
    quadratic = jnp.minimum(error, beta)  # one branch-free form of both cases
    total = jnp.sum(quadratic * (error - 0.5 * quadratic)) / beta
    if mask is None:
        return total, jnp.asarray(error.size, jnp.float32)
    return total, jnp.sum(mask, dtype=jnp.float32) * error.shape[-1]
