"""Multi-head attention (Vaswani et al., 2017) for self and cross attention, with boolean masks and fp32 softmax."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from vtjax.arrays import Array
from vtjax.errors import VtjaxError
from vtjax.nn.dropout import Dropout
from vtjax.sharding.activations import constrain

KERNEL_INIT = nn.initializers.xavier_uniform()


def key_mask(valid: Bool[Array, "batch keys"]) -> Bool[Array, "batch 1 1 keys"]:
    """[B, K] bool of valid keys, as an attention mask [B, 1, 1, K]."""
    return valid[:, None, None, :]


def causal_mask(length: int) -> Bool[Array, "1 1 {length} {length}"]:
    """[1, 1, L, L] bool; query q sees keys 0..q. Combine with `key_mask` by `&`."""
    return jnp.tril(jnp.ones((1, 1, length, length), bool))


def dot_product_attention(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads value_dim"],
    mask: Bool[Array, "_ _ _ _"] | None = None,
    *,
    logit_bias: Float[Array, "_ _ _ _"] | None = None,
    scale: float | None = None,
    drop: Callable[[Array], Array] | None = None,
) -> Float[Array, "batch queries heads value_dim"]:
    """softmax(scale * query key^T + logit_bias) value, per head.

    Args:
      query: [B, Q, heads, head_dim]. key, value: [B, K, heads, head_dim].
      mask: bool, rank 4, broadcastable to [B, heads, Q, K]; True where the key is seen. A query that sees no key gets
        the plain mean of the values, never NaN.
      logit_bias: float32, rank 4, broadcastable to [B, heads, Q, K], added after scaling.
      scale: default head_dim ** -0.5.
      drop: applied to the probabilities.

    Returns:
      [B, Q, heads, head_dim] in the dtype of `value`; logits and softmax are float32 whatever the inputs.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = scale * jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
    if logit_bias is not None:
        logits += logit_bias
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1)
    if drop is not None:
        weights = drop(weights)
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(value.dtype), value)


class MultiHeadAttention(nn.Module):
    """Projections `query`, `key`, `value` (kernels [width, heads, head_dim]) and `out` ([heads, head_dim, width]).

    head_dim: default width // heads. dropout: of the attention probabilities. dtype: of matmul inputs.
    """

    heads: int
    head_dim: int | None = None
    dropout: float = 0.0
    bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Any = KERNEL_INIT

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch queries width"],
        memory: Float[Array, "batch keys memory_width"] | None = None,
        mask: Bool[Array, "_ _ _ _"] | None = None,
        logit_bias: Float[Array, "_ _ _ _"] | None = None,
        *,
        train: bool = False,
        with_key: bool = False,
        own_value: bool = False,
    ) -> (
        Float[Array, "batch queries width"]
        | tuple[Float[Array, "batch queries width"], Float[Array, "batch keys_seen heads head_dim"]]
    ):
        """Attends from x [B, Q, width] to memory [B, K, memory_width] (default: x itself) -> [B, Q, width].

        mask: bool, rank 4, broadcastable to [B, heads, Q, K], True where seen. logit_bias: float32, likewise.
        with_key: also returns the keys [B, K, heads, head_dim], bias included (token merging compares them).
        own_value: each token sees itself alone, out(value(x)): the value path of MaskCLIP (arXiv 2112.01071, 3.2).

        Raises:
          VtjaxError: the width is not a multiple of the heads and head_dim was not given.
        """
        width = x.shape[-1]
        if self.head_dim is None and width % self.heads:
            raise VtjaxError(f"attention width {width} is not a multiple of heads={self.heads}")
        head_dim = self.head_dim or width // self.heads
        memory = x if memory is None else memory
        dense = functools.partial(
            nn.DenseGeneral, use_bias=self.bias, dtype=self.dtype, param_dtype=jnp.float32, kernel_init=self.kernel_init
        )
        out = dense(width, axis=(-2, -1), name="out")
        if own_value:
            return out(dense((self.heads, head_dim), name="value")(x))
        query = dense((self.heads, head_dim), name="query")(x)
        key = dense((self.heads, head_dim), name="key")(memory)
        value = dense((self.heads, head_dim), name="value")(memory)
        query, key, value = (constrain(x, "batch", None, "heads", None) for x in (query, key, value))
        drop = Dropout(self.dropout, deterministic=not train) if self.dropout else None
        mixed = dot_product_attention(query, key, value, mask, logit_bias=logit_bias, drop=drop)
        return (out(mixed), key) if with_key else out(mixed)
