"""Diagonal Gaussians: divergence and reparameterised samples (Kingma & Welling, 2014)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Num

from vtjax.arrays import Array, Scalar


def gaussian_kl(
    mean_q: Num[Array, "*shape"],
    logvar_q: Num[Array, "*shape"],
    mean_p: Num[Array, "*shape"] | None = None,
    logvar_p: Num[Array, "*shape"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """KL(q || p) = (exp(lq - lp) + (mp - mq)^2 exp(-lp) - 1 - (lq - lp)) / 2 per dimension (docs/methods/car.md).

    Args:
      mean_q, logvar_q, mean_p, logvar_p: float, same shape; p is the standard normal where None.

    Returns:
      (sum over elements, number of elements), float32 scalars.
    """
    mean_q, logvar_q = mean_q.astype(jnp.float32), logvar_q.astype(jnp.float32)
    mean_p = jnp.zeros_like(mean_q) if mean_p is None else mean_p.astype(jnp.float32)
    logvar_p = jnp.zeros_like(logvar_q) if logvar_p is None else logvar_p.astype(jnp.float32)
    ratio = logvar_q - logvar_p
    divergence = 0.5 * (jnp.exp(ratio) + jnp.square(mean_p - mean_q) * jnp.exp(-logvar_p) - 1.0 - ratio)
    return jnp.sum(divergence), jnp.asarray(divergence.size, jnp.float32)


def sample_gaussian(
    rng: Array, mean: Float[Array, "*shape"], logvar: Float[Array, "*shape"], scale: Scalar = 1.0
) -> Float[Array, "*shape"]:
    """mean + scale * eps * exp(logvar / 2) with eps ~ N(0, 1), differentiable in mean and logvar."""
    return mean + scale * jax.random.normal(rng, mean.shape, mean.dtype) * jnp.exp(0.5 * logvar)
