"""AdaptFormer's adapter (Chen et al., arXiv 2205.13535): a bottleneck beside a layer's feed-forward network."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from vtjax.arrays import Array
from vtjax.nn.dropout import Dropout

# Partition table (sharding/partition.py); to be put before that of the tower.
RULES = (
    (r"parallel_adapter/down/kernel", ("embed", None)),
    (r"parallel_adapter/up/kernel", (None, "embed")),
    (r"parallel_adapter/(down|up)/bias", (None,)),
)


class ParallelAdapter(nn.Module):
    """scale * up(dropout(relu(down(x)))), zero at the start; for the `adapter` of nn/vit.py `LayerStack`."""

    width: int = 64
    scale: float = 0.1
    dropout: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*rows width"], *, train: bool = False) -> Float[Array, "*rows width"]:
        """x [..., width of the model] -> the same."""
        # Kaiming-uniform with a = sqrt(5): uniform within 1 / sqrt(fan_in).
        down_init, zeros = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"), nn.initializers.zeros
        y = jax.nn.relu(nn.Dense(self.width, dtype=self.dtype, kernel_init=down_init, name="down")(x))
        y = Dropout(self.dropout, deterministic=not train)(y)
        return self.scale * nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=zeros, name="up")(y)
