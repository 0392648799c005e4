"""Sentences to times of a long video: the temporal alignment network (TAN, Han et al., CVPR 2022)
and the aligner of MPTVA (arXiv 2409.16145), which differ in sizes and in what the joint transformer
starts from. Sentences are bags of words (MIL-NCE's text module)."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from vtjax.arrays import Array
from vtjax.errors import VtjaxError
from vtjax.nn import transformer
from vtjax.nn.attention import MultiHeadAttention, key_mask
from vtjax.nn.transformer import FeedForward, LayerConfig, LayerNorm

# Partition table (sharding/partition.py) of a TemporalAligner's parameters.
RULES = (
    (r"words/embedding/embedding", ("vocab", None)),
    (r"words/hidden/kernel", (None, "mlp")),
    (r"words/hidden/bias", ("mlp",)),
    (r"words/out/kernel", ("mlp", "embed")),
    (r"(video|text)_projection/kernel", (None, "embed")),
    (r"(text_)?position_embedding", (None, "embed")),
    (r"alignability/(kernel|bias)", ()),
    (r"\w+_norm/(scale|bias)", (None,)),
    *transformer.RULES,
)


@dataclasses.dataclass(frozen=True)
class AlignerConfig:
    """Sizes; the defaults are TAN's released model.

    features: of a video segment. words, word_width, word_hidden, text_features: of the bag of words. positions: longest
    video in segments that has position embeddings of its own. joint_from: the joint transformer starts from "embedded"
    video and text (TAN) or from what the transformers of either made of them ("encoded", MPTVA). alignability: with
    the head that says whether a sentence can be aligned at all.
    """

    features: int = 1024
    words: int = 66250
    word_width: int = 300
    word_hidden: int = 2048
    text_features: int = 512
    width: int = 512
    heads: int = 8
    ffn_width: int = 2048
    video_layers: int = 6
    text_layers: int = 0
    joint_layers: int = 6
    positions: int = 1024
    joint_from: str = "embedded"
    alignability: bool = False
    activation: str = "quick_gelu"

    def __post_init__(self) -> None:
        if self.joint_from not in ("embedded", "encoded"):
            raise VtjaxError(f"AlignerConfig: joint_from={self.joint_from!r}; expected 'embedded' or 'encoded'")
        if self.width % self.heads:
            raise VtjaxError(f"AlignerConfig: width {self.width} is not a multiple of heads {self.heads}")


PRESETS = {
    "tan": AlignerConfig(),
    "mptva": AlignerConfig(
        width=256, ffn_width=1024, video_layers=2, text_layers=2, joint_layers=2, joint_from="encoded"
    ),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AlignerOutput:
    """Features of B videos of T segments and L sentences each, not normalised; S stages of a transformer, the last is
    its result (see `StagedEncoder`).

    video: [S, B, T, width] from the video alone. text: [B, L, width] from the sentences alone. joint_video: [S, B, T,
    width]; joint_text: [S, B, L, width]. text_alignability [B, L] and joint_alignability [S, B, L]: logits, or None.
    """

    video: Array
    text: Array
    joint_video: Array
    joint_text: Array
    text_alignability: Array | None
    joint_alignability: Array | None


def similarity(
    text: Float[Array, "*batch texts width"], video: Float[Array, "*batch times width"]
) -> Float[Array, "*batch texts times"]:
    """Cosines float32 [..., L, T] of sentences [..., L, width] and segments [..., T, width]."""
    text, video = (x.astype(jnp.float32) for x in (text, video))
    text, video = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (text, video))
    return jnp.einsum("...lc,...tc->...lt", text, video, precision=jax.lax.Precision.HIGHEST)


class BagOfWords(nn.Module):
    """out(max over words of relu(hidden(embedding))); word 0 is padding and what is not in the vocabulary.

    A sentence without a known word is the maximum over all its places, as in TAN. The embedding takes no gradient.
    """

    config: AlignerConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "*texts words"]) -> Float[Array, "*texts features"]:
        """ids int32 [..., W] -> [..., text_features]."""
        c = self.config
        known = ids != 0
        known = known | ~jnp.any(known, axis=-1, keepdims=True)
        vectors = jax.lax.stop_gradient(nn.Embed(c.words, c.word_width, name="embedding")(ids))
        x = jax.nn.relu(nn.Dense(c.word_hidden, dtype=self.dtype, name="hidden")(vectors.astype(self.dtype)))
        x = jnp.max(jnp.where(known[..., None], x, jnp.asarray(-6e4, x.dtype)), axis=-2)
        return nn.Dense(c.text_features, dtype=self.dtype, name="out")(x)


class _StagedLayer(nn.Module):
    """A pre-norm layer that also returns its normed input; parameters as in `transformer.EncoderLayer`."""

    config: LayerConfig

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> tuple[Array, Array]:
        c = self.config
        normed = LayerNorm(c.eps, name="norm1")(x)
        x += MultiHeadAttention(c.heads, dtype=c.dtype, name="attention")(normed, mask=mask)
        return x + FeedForward(c, name="ffn")(LayerNorm(c.eps, name="norm2")(x)), normed


class StagedEncoder(nn.Module):
    """Pre-norm layers whose every stage is a result: the normed inputs of layers 2, 3, ..., and the last layer's
    output after `final_norm`."""

    config: LayerConfig
    layers: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens width"], valid: Bool[Array, "batch tokens"]
    ) -> Float[Array, "stages batch tokens width"]:
        """x [B, N, width], valid bool [B, N] -> [layers, B, N, width]; without layers, x itself as the one stage."""
        stages = []
        for i in range(self.layers):
            x, normed = _StagedLayer(self.config, name=f"layer_{i}")(x, key_mask(valid))
            stages += [normed] if i else []
        x = LayerNorm(self.config.eps, name="final_norm")(x) if self.layers else x
        return jnp.stack([*stages, x])


class TemporalAligner(nn.Module):
    """Video features and sentences to features whose cosines say what is told when; dtype: of matmul inputs."""

    config: AlignerConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        c = self.config
        layer = LayerConfig(c.heads, c.ffn_width, activation=c.activation, pre_norm=True, dtype=self.dtype)
        dense = functools.partial(
            nn.Dense, c.width, use_bias=False, dtype=self.dtype, kernel_init=nn.initializers.normal(0.01)
        )
        table = nn.initializers.normal(0.01), (c.positions, c.width), jnp.float32
        self.words = BagOfWords(c, self.dtype)
        self.video_projection, self.text_projection = dense(), dense()
        self.video_norm, self.text_norm, self.position_norm = LayerNorm(), LayerNorm(), LayerNorm()
        self.position_embedding = self.param("position_embedding", *table)
        self.text_position_embedding = self.param("text_position_embedding", *table)
        self.video_encoder = StagedEncoder(layer, c.video_layers)
        self.text_encoder = StagedEncoder(layer, c.text_layers)
        self.joint_encoder = StagedEncoder(layer, c.joint_layers)
        if c.alignability:
            self.alignability = nn.Dense(1, kernel_init=nn.initializers.normal(0.01))

    def __call__(
        self,
        features: Float[Array, "batch times features"],
        ids: Int[Array, "batch texts words"],
        valid: Bool[Array, "batch times"] | None = None,
        text_valid: Bool[Array, "batch texts"] | None = None,
        *,
        start: Array | int = 0,
        ordered: bool = False,
    ) -> AlignerOutput:
        """features float [B, T, features], one row a second; ids int32 [B, L, W] word ids of L sentences.

        valid bool [B, T] and text_valid bool [B, L]: False on padding. start: first row of the position table, random
        in training. ordered: the order of the sentences is that of the video, so they have positions too; in the joint
        transformer alone where that starts from embedded sentences.
        """
        c = self.config
        valid = jnp.ones(features.shape[:2], bool) if valid is None else valid
        text_valid = jnp.ones(ids.shape[:2], bool) if text_valid is None else text_valid
        video = self.video_norm(self.video_projection(features.astype(self.dtype)))
        video += self._positions(self.position_embedding, features.shape[1], start)
        plain = self.text_norm(self.text_projection(self.words(ids)))
        placed = plain + self._positions(self.text_position_embedding, ids.shape[1], 0) if ordered else plain
        encoded_video = self.video_encoder(video, valid)
        text = plain if not c.text_layers else self.text_encoder(placed, text_valid)[-1]
        first = (video, placed) if c.joint_from == "embedded" else (encoded_video[-1], text)
        joint = self.joint_encoder(jnp.concatenate(first, axis=1), jnp.concatenate([valid, text_valid], axis=1))
        joint_video, joint_text = joint[:, :, : features.shape[1]], joint[:, :, features.shape[1] :]
        said = lambda x: self.alignability(x)[..., 0] if c.alignability else None
        return AlignerOutput(encoded_video, text, joint_video, joint_text, said(text), said(joint_text))

    def _positions(self, table: Array, length: int, start: Array | int) -> Array:
        """[1, length, width]; a longer sequence than the table stretches it linearly, as the original's evaluation."""
        if length > len(table):
            rows = jax.image.resize(table, (length, table.shape[1]), "linear", antialias=False)
        else:
            rows = jax.lax.dynamic_slice_in_dim(table, start, length)
        return self.position_norm(rows)[None].astype(self.dtype)
