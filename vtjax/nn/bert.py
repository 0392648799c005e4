"""The BERT family as one post-norm encoder: BERT and MiniLM, DistilBERT, RoBERTa, MPNet.

BERT (arXiv 1810.04805); DistilBERT drops token types (1910.01108); RoBERTa counts positions from the padding index
(1907.11692); MPNet adds T5's relative position bias, shared by all layers (2004.09297). `vtjax.weights.bert` loads
published weights.
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Bool, Float, Int

from vtjax.arrays import Array
from vtjax.errors import VtjaxError
from vtjax.nn import transformer
from vtjax.nn.attention import MultiHeadAttention, key_mask
from vtjax.nn.dropout import Dropout
from vtjax.nn.stack import run_layers
from vtjax.nn.transformer import FeedForward, LayerConfig, LayerNorm, lookup
from vtjax.sharding.activations import constrain

# Partition table (sharding/partition.py) of a BertEncoder's parameters.
RULES = (
    (r"word/embedding", ("vocab", "embed")),
    (r"(position|token_type)/embedding", (None, "embed")),
    (r"relative_attention_bias/embedding", (None, "heads")),
    *transformer.RULES,
)


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes and the few differences between the family's members.

    kind: "bert" | "distilbert" | "roberta" | "mpnet"; names the published layout, read by the converter only.
    token_types: rows of the token-type table, 0 for none. position_offset: position of the first token; where it is
    not 0, tokens equal to `pad_id` are not counted and sit at position_offset - 1. relative_buckets: 0 for no bias.
    """

    kind: str = "bert"
    vocab_size: int = 30522
    width: int = 768
    layers: int = 12
    heads: int = 12
    ffn_width: int = 3072
    positions: int = 512
    position_offset: int = 0
    pad_id: int = 0
    token_types: int = 2
    relative_buckets: int = 0
    activation: str = "gelu"
    norm_eps: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    init_std: float = 0.02

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise VtjaxError(f"BertConfig: width {self.width} is not a multiple of heads {self.heads}")
        transformer.activation(self.activation)

    @property
    def max_length(self) -> int:
        """Longest text in tokens, special ones included."""
        return self.positions - self.position_offset


class BertEncoder(nn.Module):
    """Token ids to contextual states.

    dtype: of the matrix products and the result; softmax and norms are float32, as are the parameters. scan,
    remat: see `stack.run_layers`.
    """

    config: BertConfig
    dtype: jnp.dtype = jnp.float32
    scan: bool = False
    remat: str | None = None

    @nn.compact
    def __call__(
        self,
        ids: Int[Array, "batch tokens"],
        mask: Bool[Array, "batch tokens"],
        token_types: Int[Array, "batch tokens"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch tokens width"]:
        """ids: int32 [B, L]; mask: bool [B, L], True on tokens that may be attended to; token_types: int32 [B, L],
        zeros if None; train: dropout on, with the "dropout" rng. Returns the last layer's states [B, L, width]; those
        of masked tokens are not meaningful.

        Raises:
          VtjaxError: L is more than `config.max_length`, or token types for a model that has none.
        """
        c = self.config
        length = ids.shape[1]
        if length > c.max_length:
            raise VtjaxError(f"text of {length} tokens; this {c.kind} model takes {c.max_length} at most")
        x = BertEmbeddings(c, self.dtype, name="embeddings")(ids, token_types, train)
        bias = None
        if c.relative_buckets:
            table = nn.Embed(c.relative_buckets, c.heads, name="relative_attention_bias", embedding_init=_init(c))
            buckets = relative_position_buckets(length, c.relative_buckets)
            bias = table(buckets).transpose(2, 0, 1)[None].astype(jnp.float32)
        return run_layers(
            lambda name: BertLayer(c, self.dtype, name=name), c.layers,
            lambda layer, x: layer(x, mask, bias, train), x, scan=self.scan, remat=self.remat,
        )  # fmt: skip


class BertEmbeddings(nn.Module):
    """Word, position and token-type embeddings, summed, normalised, dropped out: [B, L] -> [B, L, width]."""

    config: BertConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, ids: Int[Array, "batch tokens"], token_types: Int[Array, "batch tokens"] | None, train: bool
    ) -> Float[Array, "batch tokens width"]:
        c = self.config
        if c.position_offset:
            counted = (ids != c.pad_id).astype(jnp.int32)
            positions = jnp.cumsum(counted, axis=1) * counted + c.position_offset - 1
        else:
            positions = jnp.arange(ids.shape[1])[None]
        x = lookup(nn.Embed(c.vocab_size, c.width, name="word", embedding_init=_init(c)), ids)
        x += nn.Embed(c.positions, c.width, name="position", embedding_init=_init(c))(positions)
        if c.token_types:
            types = jnp.zeros_like(ids) if token_types is None else token_types
            x += nn.Embed(c.token_types, c.width, name="token_type", embedding_init=_init(c))(types)
        elif token_types is not None:
            raise VtjaxError(f"token types given to a {c.kind} model, which has none")
        x = LayerNorm(c.norm_eps, name="norm")(x).astype(self.dtype)
        return Dropout(c.dropout)(x, deterministic=not train)


class BertLayer(nn.Module):
    """Self-attention and feed-forward, each added to its input and then normalised (post-norm).

    Unlike `transformer.EncoderLayer`, nothing is dropped inside the feed-forward network.
    """

    config: BertConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        mask: Bool[Array, "batch tokens"],
        bias: Float[Array, "1 heads tokens tokens"] | None,
        train: bool,
    ) -> Float[Array, "batch tokens width"]:
        """x: [B, L, width]; mask: bool [B, L] over keys; bias: float32 [1, heads, L, L] added to the logits."""
        c = self.config
        x = constrain(x, "batch", ...)
        drop = Dropout(c.dropout, deterministic=not train)
        attend = MultiHeadAttention(c.heads, dropout=c.attention_dropout, dtype=self.dtype, name="attention")
        ffn = FeedForward(LayerConfig(c.heads, c.ffn_width, activation=c.activation, dtype=self.dtype), name="ffn")
        x = LayerNorm(c.norm_eps, name="norm1")(x + drop(attend(x, None, key_mask(mask), bias, train=train)))
        return LayerNorm(c.norm_eps, name="norm2")(x + drop(ffn(x, train=train)))


def relative_position_buckets(length: int, buckets: int, max_distance: int = 128) -> np.ndarray:
    """Bucket of (key - query) for every pair, int32 [length, length] (T5, arXiv 1910.10683, section 2.1).

    The lower half of the buckets is for keys at or before the query, the upper half for those after it. Within a half,
    distances up to a quarter of `buckets` have one bucket each, further ones share logarithmically wider buckets up
    to `max_distance`, and all beyond it share the last.
    """
    half, exact = buckets // 2, buckets // 4
    distance = np.arange(length)
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    wide = exact + (ratio / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)).astype(np.int32)
    one_sided = np.where(distance < exact, distance, np.minimum(wide, half - 1))
    offset = distance[None, :] - distance[:, None]
    return (one_sided[np.abs(offset)] + half * (offset > 0)).astype(np.int32)


def _init(config: BertConfig) -> nn.initializers.Initializer:
    return nn.initializers.normal(config.init_std)
