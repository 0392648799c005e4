"""The grouping block of GroupViT (arXiv 2202.11094) as OVSegmentor and OV-OAD have it (docs/methods/ovoad.md), and the
post-norm cross-attention block inside it (section 2.2)."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Bool, Float

from vtjax.arrays import Array
from vtjax.nn import transformer
from vtjax.nn.attention import MultiHeadAttention, key_mask
from vtjax.nn.dropout import Dropout, DropPath
from vtjax.nn.slot_attention import assign, normalised
from vtjax.nn.transformer import FeedForward, LayerConfig, LayerNorm

# Partition table (sharding/partition.py) of a GroupingBlock's parameters.
RULES = (
    (r"mix/(up|down)/kernel", (None, None)),
    (r"mix/(up|down)/bias", (None,)),
    (r"assign/(query|key|value|out)/kernel", ("embed", None)),
    (r"assign/(query|key|value|out)/bias", (None,)),
    *transformer.RULES,
)


class CrossAttentionBlock(nn.Module):
    """x + attention(x, memory), then x + ffn(norm2 x), then norm_post."""

    config: LayerConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch queries width"],
        memory: Float[Array, "batch keys width"],
        mask: Bool[Array, "_ _ _ _"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch queries width"]:
        """x [B, Q, width], memory [B, K, width], mask as in MultiHeadAttention -> [B, Q, width]."""
        c = self.config
        attend = MultiHeadAttention(
            c.heads, dropout=c.attention_dropout, dtype=c.dtype, kernel_init=c.kernel_init, name="attention"
        )
        drop = Dropout(c.dropout, deterministic=not train)
        path = DropPath(c.drop_path, deterministic=not train)
        x = x + path(drop(attend(x, memory, mask, train=train)))
        ffn = FeedForward(c, name="ffn")
        x = x + path(drop(ffn(LayerNorm(c.eps, name="norm2")(x), train=train)))
        return LayerNorm(c.eps, name="norm_post")(x)


class TokenMixer(nn.Module):
    """A feed-forward network along the token axis: [B, K, width] -> [B, tokens, width]."""

    tokens: int
    hidden: int
    kernel_init: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"]) -> Array:
        dense = lambda size, name: nn.Dense(size, dtype=self.dtype, kernel_init=self.kernel_init, name=name)
        y = transformer.ACTIVATIONS["gelu"](dense(self.hidden, "up")(jnp.swapaxes(x, 1, 2)))
        return jnp.swapaxes(dense(self.tokens, "down")(y), 1, 2)


@dataclasses.dataclass(frozen=True)
class Assignment:
    """How frames go to groups; see nn/slot_attention.py `assign` and `normalised`. gumbel: noise while training."""

    over: str = "slots"
    hard: bool = True
    gumbel: bool = True
    temperature: float = 1.0
    normalise: str = "sum_plus_one"


class AssignAttention(nn.Module):
    """One head of attention whose softmax runs over the queries; parameters `query`, `key`, `value`, `out`."""

    how: Assignment
    dropout: float = 0.0
    kernel_init: Any = nn.initializers.xavier_uniform()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        groups: Float[Array, "batch groups width"],
        x: Float[Array, "batch tokens width"],
        valid: Bool[Array, "batch tokens"] | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "batch groups width"], Float[Array, "batch groups tokens"]]:
        """groups [B, K, width], x [B, N, width], valid bool [B, N] -> (update [B, K, width], logits f32 [B, K, N])."""
        width, how = groups.shape[-1], self.how
        dense = lambda name: nn.Dense(width, dtype=self.dtype, kernel_init=self.kernel_init, name=name)
        query, key, value = dense("query")(groups), dense("key")(x), dense("value")(x)
        logits = width**-0.5 * jnp.einsum("bkd,bnd->bkn", query, key, preferred_element_type=jnp.float32)
        rng = self.make_rng("gumbel") if train and how.gumbel else None
        weights = assign(logits, valid, over=how.over, hard=how.hard, temperature=how.temperature, rng=rng)
        weights = Dropout(self.dropout, deterministic=not train)(normalised(weights, how.normalise))
        return dense("out")(jnp.einsum("bkn,bnd->bkd", weights.astype(value.dtype), value)), logits


class GroupingBlock(nn.Module):
    """Group tokens are mixed into fewer, look at the frames, and take those frames that are nearest to them.

    config: sizes and rates. groups: of the output. how: the assignment.
    """

    config: LayerConfig
    groups: int
    how: Assignment = Assignment()

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "batch group_tokens width"],
        x: Float[Array, "batch tokens width"],
        valid: Bool[Array, "batch tokens"] | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "batch groups width"], Float[Array, "batch groups tokens"]]:
        """tokens [B, K, width], x [B, N, width], valid bool [B, N] -> (groups [B, k, width], logits [B, k, N]).

        k is `groups`. The logits are float32, without noise, before any softmax.
        """
        c = self.config
        norm = lambda name: LayerNorm(c.eps, name=name)
        tokens, x = norm("norm_tokens")(tokens), norm("norm_x")(x)
        # GroupViT's token mixing has half the model's width inside.
        mix = TokenMixer(self.groups, x.shape[-1] // 2, c.kernel_init, c.dtype, name="mix")
        groups = norm("norm_post_tokens")(mix(tokens))
        mask = None if valid is None else key_mask(valid)
        groups = CrossAttentionBlock(c, name="pre_assign")(groups, x, mask, train=train)
        assigner = AssignAttention(self.how, c.dropout, c.kernel_init, c.dtype, name="assign")
        update, logits = assigner(groups, x, valid, train=train)
        out = groups + update
        return out + FeedForward(c, name="ffn")(norm("norm_new_x")(out), train=train), logits
