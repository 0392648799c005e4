"""int8 weights for inference: symmetric, one float32 scale per output channel, activations left as they are.

kernel ~ kernel_scale * int8. The scale does not depend on the input channel, so it multiplies the result of the matrix
product, and every int8 value is exact in bfloat16.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Num

from vtjax.arrays import Array
from vtjax.errors import VtjaxError
from vtjax.nn.lora import kernel_dims
from vtjax.trees import flatten, unflatten

TARGETS = r"layers/.*/kernel"  # all of a decoder's layers; embedding and output head stay as they are
SCALE = "kernel_scale"


class Linear(nn.Module):
    """x kernel over the last `inputs` dimensions of x, without bias.

    Parameters: `kernel` [*inputs, *features], and where it is int8 `kernel_scale` float32 [*features] (see `quantize`).
    dtype: of the matrix product's operands. out_dtype: of the result (default: dtype).
    """

    features: tuple[int, ...]
    inputs: int = 1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    init_std: float = 0.02
    out_dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        shape = x.shape[x.ndim - self.inputs :] + tuple(self.features)
        kernel = self.param("kernel", nn.initializers.normal(self.init_std), shape, self.param_dtype)
        dims = (tuple(range(x.ndim - self.inputs, x.ndim)), tuple(range(self.inputs)))
        out_dtype = jnp.dtype(self.out_dtype or self.dtype)
        scaled = self.has_variable("params", SCALE)
        if kernel.dtype == jnp.int8 and not scaled:
            raise VtjaxError(f"{'/'.join(self.path)}/kernel is int8 but has no {SCALE} beside it")
        product = jax.lax.dot_general(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (dims, ((), ())),
            preferred_element_type=jnp.float32 if scaled else out_dtype,
        )
        if scaled:
            scale = self.get_variable("params", SCALE)
            product *= scale.reshape((1,) * (product.ndim - scale.ndim) + scale.shape)
        return product.astype(out_dtype)


def quantize_kernel(kernel: Num[Array, "*shape"], input_axes: tuple[int, ...]) -> tuple[Array, Array]:
    """(int8 like `kernel`, float32 scale without the input axes); the largest weight of each output becomes +-127.

    An output whose weights are all zero gets the scale 1.
    """
    kernel = kernel.astype(jnp.float32)
    top = jnp.max(jnp.abs(kernel), axis=input_axes, keepdims=True)
    scale = jnp.where(top > 0, top / 127.0, 1.0)
    rounded = jnp.clip(jnp.round(kernel / scale), -127, 127).astype(jnp.int8)
    return rounded, jnp.squeeze(scale, axis=input_axes)


def input_axes(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Which axes of the kernel at `path` are summed over; a leading axis of stacked layers is not."""
    stack, inputs, _ = kernel_dims(path, shape)
    return tuple(range(len(stack), len(stack) + len(inputs)))


def quantize(params: Mapping[str, Any], targets: str = TARGETS) -> dict[str, Any]:
    """`params` with every kernel whose whole "a/b/c" path matches `targets` as int8 and its scale beside it.

    Works on arrays and, under `jax.eval_shape`, on shapes.

    Raises:
      VtjaxError: nothing matches.
    """
    flat = flatten(params)
    chosen = [path for path in flat if re.fullmatch(targets, path)]
    if not chosen:
        raise VtjaxError(f"quantize: {targets!r} matches no parameter, for example not {next(iter(flat))!r}")
    for path in chosen:
        kernel, scale = quantize_kernel(flat[path], input_axes(path, flat[path].shape))
        flat[path], flat[path.removesuffix("kernel") + SCALE] = kernel, scale
    return unflatten(flat)


def dequantize(params: Mapping[str, Any], dtype: Any = jnp.bfloat16) -> dict[str, Any]:
    """The inverse of `quantize` up to rounding: int8 kernels as `dtype`, no scales; other leaves unchanged."""
    flat = flatten(params)
    for path in [p for p in flat if p.endswith("/" + SCALE)]:
        name = path.removesuffix(SCALE) + "kernel"
        scale = jnp.expand_dims(flat.pop(path), input_axes(name, flat[name].shape))
        flat[name] = (flat[name].astype(jnp.float32) * scale).astype(dtype)
    return unflatten(flat)


def nbytes(params: Mapping[str, Any]) -> int:
    """Bytes of all leaves (arrays or shapes)."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in flatten(params).values())
