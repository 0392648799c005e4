"""Transformer layers and stacks, post-norm (Vaswani et al., 2017; BERT, TMR) or pre-norm (CLIP, ViT).

Parameter names are stable and shared by every model built here: `layer_0`, `layer_1`, ... (scanned stacks: one
`layers` with a leading axis of layers) each with `attention`
(decoders: `self_attention`, `cross_attention`), `ffn/up`, `ffn/down` and `norm1`, `norm2` (`norm3`), in order of use.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from vtjax.arrays import Array
from vtjax.errors import VtjaxError, nearest
from vtjax.nn.attention import KERNEL_INIT, MultiHeadAttention
from vtjax.nn.dropout import Dropout, DropPath
from vtjax.nn.stack import run_layers
from vtjax.sharding.activations import constrain

# Partition table of the parameters of this file and of nn/attention.py (sharding/partition.py).
RULES = (
    (r"(query|key|value)/kernel", ("embed", "heads", None)),
    (r"(query|key|value)/bias", ("heads", None)),
    (r"out/kernel", ("heads", None, "embed")),
    (r"ffn/up/kernel", ("embed", "mlp")),
    (r"ffn/up/bias", ("mlp",)),
    (r"ffn/down/kernel", ("mlp", "embed")),
    (r"(out|down)/bias|norm\w*/(scale|bias)", (None,)),
)


def quick_gelu(x: Array) -> Array:
    """x sigmoid(1.702 x), the approximation of GELU that OpenAI's CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


def activation(name: str | Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The function of that name; a callable is returned as it is.

    Raises:
      VtjaxError: unknown name.
    """
    if callable(name):
        return name
    if name not in ACTIVATIONS:
        raise VtjaxError(f"activation={name!r}: {nearest(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]


def lookup(table: Callable[[Array], Array], ids: Int[Array, "batch *rest"]) -> Float[Array, "batch *rest width"]:
    """Looks rows of a table up, the batch split as that of any activation.

    On a mesh each device looks its columns up for its whole row of the fsdp axis, and the columns are then exchanged
    for rows: ids and results travel, never the table, which may be larger than either.
    """
    ids = constrain(ids, "rows", ...)
    return constrain(constrain(table(ids), "rows", ..., "embed"), "batch", ...)


@dataclasses.dataclass(frozen=True)
class LayerConfig:
    """One layer; the width is that of its input.

    hidden: width inside the feed-forward network. dropout: after each sublayer and inside the feed-forward network.
    attention_dropout: of the attention probabilities. pre_norm: x + f(norm(x)), else norm(x + f(x)).
    dtype: of matmul inputs; norms and softmax are float32. drop_path: probability that an example skips a sublayer.
    """

    heads: int
    hidden: int
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation: str | Callable[[Array], Array] = "gelu"
    pre_norm: bool = False
    eps: float = 1e-5
    dtype: Any = jnp.float32
    drop_path: float = 0.0
    kernel_init: Any = KERNEL_INIT


class LayerNorm(nn.Module):
    """Layer normalisation in float32, returned in the dtype of its input; parameters `scale` and `bias`."""

    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows width"]:
        x32 = x.astype(jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        shape = (1,) * (x.ndim - 1) + (-1,)
        y = centred * jax.lax.rsqrt(variance + self.eps) * scale.reshape(shape) + bias.reshape(shape)
        return y.astype(x.dtype)


class FeedForward(nn.Module):
    """down(dropout(activation(up(x)))), [..., width] -> [..., width]."""

    config: LayerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*rows width"], *, train: bool = False) -> Float[Array, "*rows width"]:
        c = self.config
        y = nn.Dense(c.hidden, dtype=c.dtype, kernel_init=c.kernel_init, name="up")(x)
        y = constrain(y, "batch", ..., "mlp")
        y = Dropout(c.dropout, deterministic=not train)(activation(c.activation)(y))
        return nn.Dense(x.shape[-1], dtype=c.dtype, kernel_init=c.kernel_init, name="down")(y)


class _Layer(nn.Module):
    """What encoder and decoder layers share: one residual sublayer, and attention by configuration."""

    config: LayerConfig

    def residual(self, x: Array, norm: str, train: bool, sublayer: Callable[[Array], Array]) -> Array:
        norm_layer = LayerNorm(self.config.eps, name=norm)
        drop = Dropout(self.config.dropout, deterministic=not train)
        path = DropPath(self.config.drop_path, deterministic=not train)
        if self.config.pre_norm:
            return x + path(drop(sublayer(norm_layer(x))))
        return norm_layer(x + path(drop(sublayer(x))))

    def make_attention(self, name: str) -> MultiHeadAttention:
        c = self.config
        return MultiHeadAttention(
            c.heads, dropout=c.attention_dropout, dtype=c.dtype, kernel_init=c.kernel_init, name=name
        )


class EncoderLayer(_Layer):
    """Self attention and feed-forward network, each with residual and norm."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens width"], mask: Bool[Array, "_ _ _ _"] | None = None, *, train: bool = False
    ) -> Float[Array, "batch tokens width"]:
        """x [B, L, width] -> the same; mask as in MultiHeadAttention, [B or 1, 1, 1 or L, L]."""
        attend, ffn = self.make_attention("attention"), FeedForward(self.config, name="ffn")
        x = constrain(x, "batch", ...)
        x = self.residual(x, "norm1", train, lambda y: attend(y, mask=mask, train=train))
        return self.residual(x, "norm2", train, lambda y: ffn(y, train=train))


class DecoderLayer(_Layer):
    """Self attention, cross attention to a memory, feed-forward network, each with residual and norm."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        memory: Float[Array, "batch keys memory_width"],
        mask: Bool[Array, "_ _ _ _"] | None = None,
        memory_mask: Bool[Array, "_ _ _ _"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch tokens width"]:
        """x [B, L, width], memory [B, K, memory_width] -> [B, L, width]; both masks as in MultiHeadAttention."""
        attend, look = self.make_attention("self_attention"), self.make_attention("cross_attention")
        ffn = FeedForward(self.config, name="ffn")
        x = constrain(x, "batch", ...)
        x = self.residual(x, "norm1", train, lambda y: attend(y, mask=mask, train=train))
        x = self.residual(x, "norm2", train, lambda y: look(y, memory, memory_mask, train=train))
        return self.residual(x, "norm3", train, lambda y: ffn(y, train=train))


class Encoder(nn.Module):
    """A stack of encoder layers; pre-norm stacks usually want `final_norm`. scan, remat: see `stack.run_layers`."""

    config: LayerConfig
    layers: int
    final_norm: bool = False
    scan: bool = False
    remat: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens width"], mask: Bool[Array, "_ _ _ _"] | None = None, *, train: bool = False
    ) -> Float[Array, "batch tokens width"]:
        x = run_layers(
            lambda name: EncoderLayer(self.config, name=name), self.layers,
            lambda layer, x: layer(x, mask, train=train), x, scan=self.scan, remat=self.remat,
        )  # fmt: skip
        return LayerNorm(self.config.eps, name="norm")(x) if self.final_norm else x


class Decoder(nn.Module):
    """A stack of decoder layers over one memory. scan, remat: see `stack.run_layers`."""

    config: LayerConfig
    layers: int
    final_norm: bool = False
    scan: bool = False
    remat: str | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        memory: Float[Array, "batch keys memory_width"],
        mask: Bool[Array, "_ _ _ _"] | None = None,
        memory_mask: Bool[Array, "_ _ _ _"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch tokens width"]:
        x = run_layers(
            lambda name: DecoderLayer(self.config, name=name), self.layers,
            lambda layer, x: layer(x, memory, mask, memory_mask, train=train), x, scan=self.scan, remat=self.remat,
        )  # fmt: skip
        return LayerNorm(self.config.eps, name="norm")(x) if self.final_norm else x
