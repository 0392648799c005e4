"""Dropout (Srivastava et al., 2014) with a counter-based mask that is cheap to draw and to compile.

`jax.random.bernoulli` draws each mask with threefry: on a CPU this took 12 times as long as the hash used here and made
up most of a training step, and each of the dozens of sites cost compile time. The mask is a pure function of key and
element index, so it is the same on any mesh.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from vtjax.arrays import Array


def _mix(x: Array) -> Array:
    """A bijection of uint32 in which every input bit flips every output bit with probability close to 1/2.

    Multiply-xorshift with the constants "lowbias32" of C. Wellons' hash-prospector search (public domain).
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def keep_mask(rng: Array, rate: float, shape: tuple[int, ...]) -> Bool[Array, "..."]:
    """bool [*shape], each element False with probability `rate`; a function of the key and the element's index.

    Not for anything that needs cryptographic or long-period randomness; beyond 2^32 elements the mask repeats.
    """
    index, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        index += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    bits = index
    for word in jax.random.key_data(rng).reshape(-1):
        bits = _mix(bits ^ word)
    return bits >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., arXiv 1603.09382): the whole branch of an example is zeroed with probability
    `rate`, else scaled by 1 / (1 - rate); the "dropout" stream."""

    rate: float
    deterministic: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "batch *rest"]) -> Float[Array, "batch *rest"]:
        """x [B, ...] -> the same."""
        if self.deterministic or self.rate == 0:
            return x
        kept = keep_mask(self.make_rng("dropout"), self.rate, (x.shape[0], *(1,) * (x.ndim - 1)))
        return jnp.where(kept, x / (1.0 - self.rate), jnp.zeros_like(x))


class Dropout(nn.Module):
    """Elements are zeroed with probability `rate` and the rest scaled by 1 / (1 - rate); the "dropout" stream.

    Takes the place of flax.linen.Dropout where that is called with `deterministic`.
    """

    rate: float
    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"], deterministic: bool | None = None) -> Float[Array, "*shape"]:
        if nn.merge_param("deterministic", self.deterministic, deterministic) or self.rate == 0:
            return x
        kept = keep_mask(self.make_rng("dropout"), self.rate, x.shape)
        return jnp.where(kept, x / (1.0 - self.rate), jnp.zeros_like(x))
