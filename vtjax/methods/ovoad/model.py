"""OV-OAD's modules: distant-neighbouring-frame transformer, action clustering, projections and text tower."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vtjax.methods.ovoad.config import OvoadConfig, OvoadModelConfig, clustered_frames
from vtjax.nn import adapter, clip, grouping, slot_attention, transformer
from vtjax.nn.adapter import ParallelAdapter
from vtjax.nn.attention import MultiHeadAttention, causal_mask, key_mask
from vtjax.nn.clip import LOGIT_SCALE_INIT, TextConfig, TextTower
from vtjax.nn.dropout import Dropout, DropPath
from vtjax.nn.grouping import Assignment, CrossAttentionBlock, GroupingBlock
from vtjax.nn.slot_attention import SlotAttention, SlotConfig
from vtjax.nn.transformer import DecoderLayer, EncoderLayer, FeedForward, LayerConfig, LayerNorm
from vtjax.sharding.partition import Rules

# The partition table of an OvoadModel (sharding/partition.py).
RULES: Rules = (
    (r"(position\w*|group_token)$", (None, "embed")),
    (r"compress_long/kernel", (None, "embed", None)),
    (r"compress_long/bias", (None,)),
    (r"\w+_projector/hidden/kernel", ("embed", "mlp")),
    (r"\w+_projector/hidden/bias", ("mlp",)),
    (r"\w+_projector/out/kernel", ("mlp", "embed")),
    (r"\w+_projector/norm/(scale|bias)", (None,)),
    (r"current_projection/kernel", ("embed", None)),
    (r"(logit|multi_label)_scale", ()),
    *adapter.RULES,
    *slot_attention.RULES[:-len(transformer.RULES)],
    *grouping.RULES[:-len(transformer.RULES)],
    *clip.RULES,
)
_NORMAL = nn.initializers.truncated_normal(0.02)


class HybridDecoderLayer(nn.Module):
    """norm1(x + self attention), + cross attention, + ffn(norm2), norm_post (docs/methods/ovoad.md)."""

    config: LayerConfig

    @nn.compact
    def __call__(
        self, x: jax.Array, memory: jax.Array, mask: jax.Array, memory_mask: jax.Array, *, train: bool = False
    ) -> jax.Array:
        """x [B, n, width], memory [B, P, width], masks as in MultiHeadAttention -> [B, n, width]."""
        c = self.config
        attention = functools.partial(
            MultiHeadAttention, c.heads, dropout=c.attention_dropout, dtype=c.dtype, kernel_init=c.kernel_init
        )
        attend, look = attention(name="self_attention"), attention(name="cross_attention")
        drop, path = Dropout(c.dropout, deterministic=not train), DropPath(c.drop_path, deterministic=not train)
        branch = lambda y: path(drop(y))
        x = LayerNorm(c.eps, name="norm1")(x + branch(attend(x, mask=mask, train=train)))
        x = x + branch(look(x, memory, memory_mask, train=train))
        x = x + branch(FeedForward(c, name="ffn")(LayerNorm(c.eps, name="norm2")(x), train=train))
        return LayerNorm(c.eps, name="norm_post")(x)


class Projector(nn.Module):
    """out(gelu(norm(hidden(x)))), [..., in] -> float32 [..., width] ("ProjectMLP" of the released code)."""

    hidden: int
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.Dense(self.hidden, dtype=self.dtype, kernel_init=_NORMAL, name="hidden")(x)
        y = transformer.ACTIVATIONS["gelu"](LayerNorm(name="norm")(y))
        return nn.Dense(self.width, dtype=self.dtype, kernel_init=_NORMAL, name="out")(y).astype(jnp.float32)


class CurrentProjection(nn.Module):
    """The matrix W_vis into the space of the current frame's text, in float32."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.normal(x.shape[-1] ** -0.5)
        kernel = self.param("kernel", init, (x.shape[-1], self.width), jnp.float32)
        return jnp.dot(x.astype(jnp.float32), kernel, precision=jax.lax.Precision.HIGHEST)


class VideoEncoder(nn.Module):
    """A window of frame features to the current frame's state and group tokens."""

    config: OvoadModelConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        c = self.config
        rates = _depth_rates(c)
        layers = iter([self._layer(rate) for rate in rates])
        blocks = lambda count: [next(layers) for _ in range(count)]
        table = lambda name, length: self.param(name, _NORMAL, (length, c.width), jnp.float32)
        dntr = blocks(c.dntr_layers if c.dntr != "none" else 0)
        if c.long:
            self.position_long = table("position_long", c.long)
        if c.compress:
            self.compress_long = nn.Conv(c.width, (3,), strides=2, dtype=self.dtype, kernel_init=_NORMAL)
        if c.dntr == "decoder":
            self.position_past, self.position_near = table("position_past", c.past), table("position_near", c.near)
            layer = HybridDecoderLayer if c.dntr_norm == "hybrid" else DecoderLayer
            self.dntr = [layer(config) for config in dntr]
        else:
            self.position = table("position", c.past + c.near)
            self.dntr = [EncoderLayer(config) for config in dntr]
        if c.dntr == "encoder_xattn":
            self.current_attention = CrossAttentionBlock(self._layer(rates[max(c.dntr_layers - 1, 0)]))
        if c.clustering:
            self.group_token = table("group_token", c.groups)
            self.cluster = [EncoderLayer(config) for config in blocks(c.cluster_layers)]
            self.unit = self._unit()
            if c.unit == "slot":
                self.group_attention = MultiHeadAttention(c.heads, dtype=self.dtype, kernel_init=_NORMAL)
                self.norm_group, self.norm_query = LayerNorm(), LayerNorm()
                if c.out_groups != c.groups:
                    self.mix = grouping.TokenMixer(c.out_groups, c.width // 2, _NORMAL, self.dtype)
            self.group_layers = [EncoderLayer(config) for config in blocks(c.group_layers)]
        self.norm, self.drop = LayerNorm(), Dropout(c.dropout)

    def _layer(self, drop_path: float) -> LayerConfig:
        c = self.config
        return LayerConfig(
            c.heads, c.mlp_ratio * c.width, c.dropout, c.attention_dropout, pre_norm=True, dtype=self.dtype,
            drop_path=drop_path, kernel_init=_NORMAL,
        )  # fmt: skip

    def _unit(self) -> nn.Module:
        c = self.config
        over = "slots" if c.assign_over == "groups" else "inputs"
        how = Assignment(over, c.hard, c.gumbel, c.temperature, c.normalise)
        if c.unit == "grouping":
            return GroupingBlock(self._layer(0.0), c.out_groups, how)
        return SlotAttention(
            SlotConfig(
                c.iterations, c.gru, c.mlp_ratio * c.width, "gelu", True, **dataclasses.asdict(how), bias=True,
                dropout=c.dropout, kernel_init=_NORMAL, dtype=self.dtype,
            )
        )  # fmt: skip

    def __call__(
        self, features: jax.Array, valid: jax.Array, train: bool = False
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """features float [B, long + past + near, width], oldest first; valid bool [B, long + past + near].

        Returns:
          The current frame's state [B, width], groups [B, k, width], both after the last norm, and the assignment's
          logits float32 [B, k, N]. Without clustering the one group is the mean of the N frames, its logits 0.
        """
        c = self.config
        features = features.astype(self.dtype)
        older = self._remember(features[:, : c.long], valid[:, : c.long], train) if c.long else None
        features, valid = features[:, c.long :], valid[:, c.long :]
        x, current = (self._decode if c.dntr == "decoder" else self._encode)(features, valid, train, older)
        clustered = clustered_frames(c)
        x, valid = x[:, -clustered:], valid[:, -clustered:]
        current = self.norm(current)
        if not c.clustering:
            weights = valid[..., None].astype(x.dtype)
            mean = jnp.sum(x * weights, axis=1, keepdims=True) / jnp.maximum(jnp.sum(weights, axis=1, keepdims=True), 1)
            return current, self.norm(mean), jnp.zeros((len(x), 1, clustered), jnp.float32)
        groups, logits = self._cluster(x, valid, train)
        return current, self.norm(groups), logits

    def _remember(self, x: jax.Array, valid: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """The long memory's tokens, and which of them stand for a frame (an option of the released code)."""
        x = self.drop(x + self.position_long[None].astype(x.dtype), not train)
        if not self.config.compress:
            return x, valid
        shown = nn.max_pool(valid[..., None].astype(jnp.float32), (3,), (2,), "SAME")[..., 0] > 0
        return self.compress_long(jnp.where(valid[..., None], x, 0)), shown

    def _decode(
        self, x: jax.Array, valid: jax.Array, train: bool, older: tuple[jax.Array, jax.Array] | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The paper's transformer: neighbouring frames look at each other, never ahead, and at the past frames."""
        c = self.config
        past = self.drop(x[:, : c.past] + self.position_past[None].astype(x.dtype), not train)
        near = self.drop(x[:, c.past :] + self.position_near[None].astype(x.dtype), not train)
        mask = causal_mask(c.near) & key_mask(valid[:, c.past :])
        memory, shown = _joined(older, past, valid[:, : c.past])
        for layer in self.dntr:
            near = layer(near, memory, mask, key_mask(shown), train=train)
        return near, near[:, -1]

    def _encode(
        self, x: jax.Array, valid: jax.Array, train: bool, older: tuple[jax.Array, jax.Array] | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The released transformer, self attention over the whole window; the current frame's branch is not fed on."""
        c = self.config
        x = self.drop(x + self.position[None].astype(x.dtype), not train)
        mask = _encoder_mask(c) & key_mask(valid)
        for layer in self.dntr:
            x = layer(x, mask, train=train)
        if c.dntr != "encoder_xattn":
            return x, x[:, -1]
        kept = jax.lax.stop_gradient(x) if c.detach else x
        memory, shown = _joined(older, kept[:, : c.past], valid[:, : c.past])
        return x, self.current_attention(kept[:, c.past :], memory, key_mask(shown), train=train)[:, -1]

    def _cluster(self, x: jax.Array, valid: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        count, frames = x.shape[:2]
        tokens = jnp.broadcast_to(self.group_token[None].astype(x.dtype), (count, *self.group_token.shape))
        mask = key_mask(jnp.pad(valid, ((0, 0), (0, tokens.shape[1])), constant_values=True))
        x = jnp.concatenate([x, tokens], axis=1)
        for layer in self.cluster:
            x = layer(x, mask, train=train)
        x, groups = x[:, :frames], x[:, frames:]
        if self.config.unit == "slot":
            groups = self.norm_group(groups + self.group_attention(groups, train=train))
            groups = self.mix(groups) if hasattr(self, "mix") else groups
            groups = self.norm_query(self.drop(groups, not train))
        groups, logits = self.unit(groups, x, valid, train=train)
        for layer in self.group_layers:
            groups = layer(groups, train=train)
        return groups, logits


class OvoadModel(nn.Module):
    """Windows and texts to two spaces: `joint` of clips, groups and captions, and `current` of single frames.

    text: sizes of the text tower. embed_dim: of the encoder's own joint space. dtype: of matmul inputs.
    """

    config: OvoadConfig
    text_sizes: TextConfig
    embed_dim: int
    dtype: Any = jnp.float32

    def setup(self) -> None:
        m, t = self.config.model, self.config.text
        self.visual = VideoEncoder(m, self.dtype)
        self.visual_projector = Projector(m.project_hidden, m.joint_width, self.dtype)
        self.text_projector = Projector(m.project_hidden, m.joint_width, self.dtype)
        width = self.text_sizes.width if t.current_space == "eot" else self.embed_dim
        self.current_projection = CurrentProjection(width)
        make = functools.partial(ParallelAdapter, t.adapter, t.adapter_scale, t.adapter_dropout, self.dtype)
        self.text = TextTower(self.text_sizes, self.embed_dim, self.dtype, adapter=make if t.adapter else None)
        scale = nn.initializers.constant(LOGIT_SCALE_INIT)
        self.logit_scale = self.param("logit_scale", scale, (), jnp.float32)
        self.multi_label_scale = self.param("multi_label_scale", scale, (), jnp.float32)

    def encode_window(
        self, features: jax.Array, valid: jax.Array, train: bool = False
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """As VideoEncoder -> groups [B, k, E], clip [B, E], current [B, F], all float32 and not normalised, logits."""
        current, groups, logits = self.visual(features, valid, train)
        both = jnp.concatenate([groups, jnp.mean(groups, axis=1, keepdims=True)], axis=1)
        projected = self.visual_projector(both)
        return projected[:, :-1], projected[:, -1], self.current_projection(current), logits

    def encode_text(self, ids: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Token ids int32 [M, L] -> float32 joint [M, E] and current [M, F], not normalised."""
        out = self.text(ids, train=train)
        current = out.eot if self.config.text.current_space == "eot" else out.embedding
        return self.text_projector(out.eot), current.astype(jnp.float32)

    def __call__(self, features: jax.Array, valid: jax.Array, ids: jax.Array) -> Any:
        """Every part once, so that `init` makes every parameter."""
        return self.encode_window(features, valid), self.encode_text(ids)


def _joined(
    older: tuple[jax.Array, jax.Array] | None, past: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The tokens that cross attention looks at and which of them are valid, oldest first."""
    if older is None:
        return past, valid
    return jnp.concatenate([older[0], past], axis=1), jnp.concatenate([older[1], valid], axis=1)


def _depth_rates(config: OvoadModelConfig) -> list[float]:
    """Stochastic depth of every block in order, growing linearly from 0 to drop_path."""
    count = config.dntr_layers if config.dntr != "none" else 0
    count += config.cluster_layers + config.group_layers if config.clustering else 0
    return [config.drop_path * i / max(count - 1, 1) for i in range(max(count, 1))]


def _encoder_mask(config: OvoadModelConfig) -> jax.Array:
    """[1, 1, T, T], True where the query (row) sees the key."""
    length = config.past + config.near
    causal = causal_mask(length)
    if config.mask == "causal":
        return causal
    if config.mask == "none":
        return jnp.ones_like(causal)
    past = jnp.arange(length) < config.past
    return causal | (past[:, None] & past[None, :])[None, None]
