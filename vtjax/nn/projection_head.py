"""The residual projection head of dual encoders without a VAE (docs/methods/car.md, "Non-VAE variant")."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from vtjax.arrays import Array
from vtjax.nn.attention import KERNEL_INIT
from vtjax.nn.dropout import Dropout
from vtjax.nn.transformer import ACTIVATIONS, LayerNorm

RULES = (
    (r"project/kernel", ("embed", None)),
    (r"transform/kernel", ("embed", None)),
    (r"(project|transform)/bias", (None,)),
)


class ProjectionHead(nn.Module):
    """y = W1 x + b1; norm(dropout(W2 gelu(y) + b2) + y). [..., in_width] -> float32 [..., width]."""

    width: int
    dropout: float = 0.1
    eps: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*rows width"], *, train: bool = False) -> Float[Array, "*rows out"]:
        y = nn.Dense(self.width, dtype=self.dtype, kernel_init=KERNEL_INIT, name="project")(x)
        h = nn.Dense(self.width, dtype=self.dtype, kernel_init=KERNEL_INIT, name="transform")(ACTIVATIONS["gelu"](y))
        h = Dropout(self.dropout, deterministic=not train)(h) + y
        return LayerNorm(self.eps, name="norm")(h.astype(jnp.float32))
