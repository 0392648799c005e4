"""Dice (Milletari et al., arXiv 1606.04797) and focal loss (Lin et al., arXiv 1708.02002) of masks over frames."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Bool, Float, Shaped

from vtjax.arrays import Array


def dice(
    probability: Float[Array, "batch entries"],
    target: Shaped[Array, "batch entries"],
    valid: Bool[Array, "batch entries"] | None = None,
    smooth: float = 1.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """1 - (2 sum(p g) + smooth) / (sum(p) + sum(g) + smooth), sums over the last axis (docs/methods/ovoad.md).

    Args:
      probability: float [B, N] in [0, 1]. target: bool or float [B, N]. valid: bool [B, N], other entries count as 0.

    Returns:
      (sum over B, B), float32 scalars.
    """
    p, g = probability.astype(jnp.float32), target.astype(jnp.float32)
    if valid is not None:
        p, g = jnp.where(valid, p, 0.0), jnp.where(valid, g, 0.0)
    overlap = 2.0 * jnp.sum(p * g, axis=-1) + smooth
    loss = 1.0 - overlap / (jnp.sum(p, axis=-1) + jnp.sum(g, axis=-1) + smooth)
    return jnp.sum(loss), jnp.asarray(loss.size, jnp.float32)


def focal(
    probability: Float[Array, "batch entries"],
    target: Shaped[Array, "batch entries"],
    valid: Bool[Array, "batch entries"] | None = None,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    eps: float = 1e-6,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """-alpha_t (1 - p_t)^gamma log p_t, with alpha for targets of 1 and 1 - alpha for those of 0.

    Args: as `dice`. eps: probabilities are kept that far from 0 and 1.

    Returns:
      (sum over valid entries, their number), float32 scalars.
    """
    p = jnp.clip(probability.astype(jnp.float32), eps, 1.0 - eps)
    g = target.astype(jnp.float32)
    right = jnp.where(g > 0.5, p, 1.0 - p)
    weight = jnp.where(g > 0.5, alpha, 1.0 - alpha)
    loss = -weight * (1.0 - right) ** gamma * jnp.log(right)
    valid = jnp.ones(loss.shape, bool) if valid is None else valid
    return jnp.sum(jnp.where(valid, loss, 0.0)), jnp.sum(valid, dtype=jnp.float32)
