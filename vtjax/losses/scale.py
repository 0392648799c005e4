"""The bound of a learnt factor on cosines (CLIP, arXiv 2103.00020, section 2.5)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from vtjax.arrays import Array, Scalar


@jax.custom_vjp
def clipped(x: Float[Array, ""], limit: Scalar) -> Float[Array, ""]:
    """Gives min(x, limit), whose gradient at and above the limit lets descent go down and never up.

    CLIP sets its parameter back to the limit after a step; where the parameters are plain arrays and the optimizer
    knows nothing of this one, the gradient does the same.
    """
    return jnp.minimum(x, limit)


def _clipped_forward(x: Array, limit: Scalar) -> tuple[Array, Array]:
    return jnp.minimum(x, limit), x >= limit


def _clipped_backward(above: Array, g: Array) -> tuple[Array, None]:
    return jnp.where(above, jnp.maximum(g, 0.0), g), None


clipped.defvjp(_clipped_forward, _clipped_backward)
