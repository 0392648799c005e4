"""What PiTe (arXiv 2409.07239) adds to a language model: a projection of frame features, and heads that read points off
its states.

Parameters are `kernel` [in, out] and `bias` [out], float32, as torch's linear layers hold them turned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from vtjax.arrays import Array

# Partition table (sharding/partition.py): 4 to 13 MB, whole on every device.
RULES = ((r"(vision_adapter|localization_projector|trajectory_projector)/(kernel|bias)", ()),)


def _uniform(fan_in: int) -> Any:
    """Initial values of torch's linear layer: uniform in +-1/sqrt(inputs), weight and bias alike."""
    bound = 1.0 / math.sqrt(fan_in)
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


class VisualAdapter(nn.Module):
    """Frame features into the language model's width by one linear layer (PiTe, ECCV 2024; VTimeLLM's mm_projector)."""

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "*rows features"]) -> Float[Array, "*rows width"]:
        """features [..., D] -> soft tokens [..., width] of `dtype`."""
        kernel, bias = _linear(self, features.shape[-1], self.width)
        soft = features.astype(self.dtype) @ kernel.astype(self.dtype)
        return soft + bias.astype(self.dtype).reshape((1,) * (soft.ndim - 1) + (-1,))


class PointHead(nn.Module):
    """States to image points by one linear layer, in float32 (PiTe, ECCV 2024).

    points, frames: P and N; 1 and 1 is the localization head of stage 1, 3 and 100 the trajectory head of stage 2.
    """

    points: int = 1
    frames: int = 1

    @nn.compact
    def __call__(self, states: Float[Array, "*rows width"]) -> Float[Array, "*rows points frames 2"]:
        """states [..., width], after the final norm -> float32 [..., P, N, 2], (x, y) as fractions of the image."""
        kernel, bias = _linear(self, states.shape[-1], self.points * self.frames * 2)
        flat = jnp.matmul(states.astype(jnp.float32), kernel, precision=jax.lax.Precision.HIGHEST)
        flat += bias.reshape((1,) * (flat.ndim - 1) + (-1,))
        return flat.reshape(*states.shape[:-1], self.points, self.frames, 2)


def _linear(module: nn.Module, inputs: int, outputs: int) -> tuple[Array, Array]:
    init = _uniform(inputs)
    kernel = module.param("kernel", init, (inputs, outputs), jnp.float32)
    return kernel, module.param("bias", init, (outputs,), jnp.float32)


def tile_localization(localization: Mapping[str, Array], points: int, frames: int) -> dict[str, Array]:
    """The trajectory head that says the localization head's point for every point and frame (PiTe, equation 9).

    localization: `kernel` [width, 2] and `bias` [2] of a trained `PointHead()`.
    """
    copies = points * frames
    return {"kernel": jnp.tile(localization["kernel"], (1, copies)), "bias": jnp.tile(localization["bias"], copies)}
