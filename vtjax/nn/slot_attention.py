"""Slot attention (Locatello et al., arXiv 2006.15055, algorithm 1) and its relatives: slots compete for the inputs.

`assign` and `gather` are the mechanism, shared by `SlotAttention` and by GroupViT's block (nn/grouping.py).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Bool, Float

from vtjax.arrays import Array
from vtjax.errors import VtjaxError
from vtjax.nn import transformer
from vtjax.nn.attention import KERNEL_INIT
from vtjax.nn.dropout import Dropout
from vtjax.nn.gumbel_softmax import gumbel_softmax
from vtjax.nn.transformer import FeedForward, LayerConfig, LayerNorm

# Partition table (sharding/partition.py) of a SlotAttention's parameters.
RULES = (
    (r"gru/\w+/kernel", ("embed", None)),
    (r"gru/\w+/bias", (None,)),
    (r"(mean|log_deviation)$", (None,)),
    (r"(query|key|value|out)_slots/kernel", ("embed", None)),
    (r"(query|key|value|out)_slots/bias", (None,)),
    *transformer.RULES,
)
OVER = ("slots", "inputs")
NORMALISE = ("sum", "sum_plus_one", "none")


def assign(
    logits: Float[Array, "batch slots inputs"],
    valid: Bool[Array, "batch inputs"] | None = None,
    *,
    over: str = "slots",
    hard: bool = False,
    temperature: float = 1.0,
    rng: Array | None = None,
) -> Float[Array, "batch slots inputs"]:
    """What share of each input a slot takes.

    Args:
      logits: [B, K, N], slot by input. valid: bool [B, N]; other inputs belong to no slot.
      over: "slots": softmax over slots, they compete for every input; "inputs": ordinary attention.
      hard, temperature, rng: see `gumbel_softmax`.

    Returns:
      float32 [B, K, N].

    Raises:
      VtjaxError: unknown `over`.
    """
    if over not in OVER:
        raise VtjaxError(f"over={over!r}: one of {', '.join(OVER)}")
    how: dict[str, Any] = dict(hard=hard, temperature=temperature, rng=rng)
    if over == "inputs":
        if valid is not None:
            logits = jnp.where(valid[:, None], logits, jnp.finfo(jnp.float32).min)
        return gumbel_softmax(logits, axis=2, **how)
    weights = gumbel_softmax(logits, axis=1, **how)
    return weights if valid is None else weights * valid[:, None]


def normalised(
    weights: Float[Array, "batch slots inputs"], how: str, eps: float = 1e-8
) -> Float[Array, "batch slots inputs"]:
    """Weights [B, K, N] of each slot over its inputs.

    how: "sum": they add up to 1 (slot attention, with its eps added before); "sum_plus_one": to c / (c + 1) where the
    slot has c inputs, so that an empty slot takes nothing (GroupViT); "none".

    Raises:
      VtjaxError: unknown `how`.
    """
    if how not in NORMALISE:
        raise VtjaxError(f"normalise={how!r}: one of {', '.join(NORMALISE)}")
    if how == "none":
        return weights
    if how == "sum":
        weights = weights + eps
        return weights / jnp.sum(weights, axis=-1, keepdims=True)
    return weights / (jnp.sum(weights, axis=-1, keepdims=True) + 1.0)


@dataclasses.dataclass(frozen=True)
class SlotConfig:
    """A slot attention unit; the defaults are the original's.

    iterations: with shared parameters. gru: updates go through a GRU, else they are added. hidden, activation: of the
    feed-forward network. post_norm: norms after each addition and none on inputs and queries (OV-OAD, figure 2), else
    before. over, hard, temperature: see `assign`; gumbel: noise while training, from the "gumbel" stream.
    normalise: see `normalised`. bias: of query, key and value. dropout: of weights and feed-forward network.
    """

    iterations: int = 3
    gru: bool = True
    hidden: int = 128
    activation: str = "relu"
    post_norm: bool = False
    over: str = "slots"
    hard: bool = False
    gumbel: bool = False
    temperature: float = 1.0
    normalise: str = "sum"
    bias: bool = False
    dropout: float = 0.0
    eps: float = 1e-5
    kernel_init: Any = KERNEL_INIT
    dtype: Any = jnp.float32


class SlotAttention(nn.Module):
    """Slots gather what they take of the inputs."""

    config: SlotConfig

    @nn.compact
    def __call__(
        self,
        slots: Float[Array, "batch slots width"],
        x: Float[Array, "batch inputs features"],
        valid: Bool[Array, "batch inputs"] | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "batch slots width"], Float[Array, "batch slots inputs"]]:
        """slots [B, K, D], x [B, N, Dx], valid bool [B, N] -> (slots [B, K, D], last logits float32 [B, K, N])."""
        c, width = self.config, slots.shape[-1]
        dense = lambda name: nn.Dense(
            width, use_bias=c.bias, dtype=c.dtype, kernel_init=c.kernel_init, name=f"{name}_slots"
        )
        norm_slots, norm_ffn = LayerNorm(c.eps, name="norm_slots"), LayerNorm(c.eps, name="norm_ffn")
        layer = LayerConfig(1, c.hidden, c.dropout, activation=c.activation, dtype=c.dtype, kernel_init=c.kernel_init)
        ffn, query = FeedForward(layer, name="ffn"), dense("query")
        gru = nn.GRUCell(width, name="gru") if c.gru else None
        drop = Dropout(c.dropout, deterministic=not train)
        x = x if c.post_norm else LayerNorm(c.eps, name="norm_inputs")(x)
        key, value = dense("key")(x), dense("value")(x)
        logits = jnp.zeros(())
        for _ in range(c.iterations):
            q = query(slots if c.post_norm else norm_slots(slots)) * width**-0.5
            logits = jnp.einsum("bkd,bnd->bkn", q, key, preferred_element_type=jnp.float32)
            rng = self.make_rng("gumbel") if train and c.gumbel else None
            weights = assign(logits, valid, over=c.over, hard=c.hard, temperature=c.temperature, rng=rng)
            weights = drop(normalised(weights, c.normalise))
            update = jnp.einsum("bkn,bnd->bkd", weights.astype(value.dtype), value)
            slots = slots + update if gru is None else gru(slots, update)[0]
            if c.post_norm:
                slots = norm_slots(slots)
                slots = norm_ffn(slots + ffn(slots, train=train))
            else:
                slots = slots + ffn(norm_ffn(slots), train=train)
        return slots, logits
