"""GroupViT (Xu et al., CVPR 2022, arXiv 2202.11094): patches gather into group tokens, stage by stage, and the groups
are named by text (ovoad.md sections 3.3 and 10)."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vtjax.errors import VtjaxError
from vtjax.nn import grouping
from vtjax.nn.attention import KERNEL_INIT, causal_mask
from vtjax.nn.clip import LOGIT_SCALE_INIT, TextConfig, eot_positions
from vtjax.nn.grouping import GroupingBlock, TokenMixer
from vtjax.nn.transformer import EncoderLayer, LayerConfig, LayerNorm
from vtjax.nn.vit import LayerStack, PatchEmbedding, layer_config

# Partition table (sharding/partition.py) of a GroupVit's parameters.
RULES = (
    (r"patch_embedding/kernel", (None, None, None, "embed")),
    (r"patch_bias|\w+_norm/(scale|bias)", (None,)),
    (r"group_token|position_embedding", (None, "embed")),
    (r"token_embedding/embedding", ("vocab", "embed")),
    (r"\w+_projector/hidden/kernel", ("embed", "mlp")),
    (r"\w+_projector/hidden/bias", ("mlp",)),
    (r"\w+_projector/norm/(scale|bias|mean|variance)", ("mlp",)),
    (r"\w+_projector/out/kernel", ("mlp", "embed")),
    (r"\w+_projector/out/bias|logit_scale", ()),
    (r"projector_mix/(up|down)/kernel", (None, None)),
    (r"projector_mix/(up|down)/bias", (None,)),
    *grouping.RULES,
)


@dataclasses.dataclass(frozen=True)
class GroupVitConfig:
    """Sizes; the defaults are the released models. depths, group_tokens, groups: of each stage, its layers, learnt
    tokens (0: no grouping) and output groups. project_hidden, embed_dim: of the projections into the joint space."""

    image_size: int = 224
    patch_size: int = 16
    width: int = 384
    heads: int = 6
    mlp_width: int = 1536
    depths: tuple[int, ...] = (6, 3, 3)
    group_tokens: tuple[int, ...] = (64, 8, 0)
    groups: tuple[int, ...] = (64, 8, 0)
    text: TextConfig = TextConfig(width=256, heads=4, mlp_width=1024)
    project_hidden: int = 4096
    embed_dim: int = 256
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if not len(self.depths) == len(self.group_tokens) == len(self.groups):
            found = f"{self.depths=}, {self.group_tokens=} and {self.groups=}"
            raise VtjaxError(f"GroupVitConfig: {found} differ in length")
        if self.width % self.heads or self.image_size % self.patch_size:
            found = f"{self.width=} of {self.heads=}, {self.image_size=} of {self.patch_size=}"
            raise VtjaxError(f"GroupVitConfig: {found}; both must divide")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GroupVitOutput:
    """Of B images and M texts, float32, nothing L2-normalised. image: [B, D]. text: [M, D]. groups: [B, k, D], each
    last group by itself. assignment: [B, k, N], the share of each patch, in reading order, that each last group has."""

    image: jax.Array
    text: jax.Array
    groups: jax.Array
    assignment: jax.Array
    logit_scale: jax.Array


class FixedBatchNorm(nn.Module):
    """Batch normalisation by the statistics of the training that is over: (x - mean) / sqrt(variance + eps)."""

    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., width] -> float32."""
        names = {"scale": 1.0, "bias": 0.0, "mean": 0.0, "variance": 1.0}
        shape = (1,) * (x.ndim - 1) + (-1,)
        p = {
            n: self.param(n, nn.initializers.constant(v), (x.shape[-1],), jnp.float32).reshape(shape)
            for n, v in names.items()
        }
        mean, variance = jax.lax.stop_gradient((p["mean"], p["variance"]))
        return (x.astype(jnp.float32) - mean) * jax.lax.rsqrt(variance + self.eps) * p["scale"] + p["bias"]


class Projector(nn.Module):
    """out(relu(norm(hidden(x)))), [..., in] -> float32 [..., features]."""

    hidden: int
    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = FixedBatchNorm(name="norm")(nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(x))
        return nn.Dense(self.features, dtype=self.dtype, name="out")(jax.nn.relu(y)).astype(jnp.float32)


class GroupingStage(nn.Module):
    """Layers over tokens and this stage's group tokens, then the grouping, where the stage has one."""

    config: GroupVitConfig
    index: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, previous: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
        """x [B, N, width], group tokens of the stage before -> (x or its groups, group tokens, logits [B, k, N])."""
        c, i = self.config, self.index
        layer = LayerConfig(c.heads, c.mlp_width, pre_norm=True, eps=c.eps, dtype=self.dtype)
        count, seen, tokens = c.group_tokens[i], x.shape[1], None
        if count:
            table = self.param("group_token", nn.initializers.truncated_normal(0.02), (count, c.width), jnp.float32)
            tokens = jnp.broadcast_to(table[None].astype(x.dtype), (x.shape[0], count, c.width))
            if previous is not None:
                mix = TokenMixer(count, c.width // 2, KERNEL_INIT, self.dtype, name="projector_mix")
                tokens = tokens + mix(LayerNorm(c.eps, name="projector_norm")(previous))
            x = jnp.concatenate([x, tokens], axis=1)
        for j in range(c.depths[i]):
            x = EncoderLayer(layer, name=f"layer_{j}")(x)
        if not count:
            return x, None, None
        x, tokens = x[:, :seen], x[:, seen:]
        groups, logits = GroupingBlock(layer, c.groups[i], name="grouping")(tokens, x)
        return groups, tokens, logits


class GroupVitVision(nn.Module):
    """Images to group tokens and to who is in which."""

    config: GroupVitConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """float [B, height, width, 3] -> (groups [B, k, width] after the last norm, assignment [B, k, N])."""
        c = self.config
        if images.ndim != 4 or images.shape[1:] != (c.image_size, c.image_size, 3):
            raise VtjaxError(f"images {images.shape}; expected [B, {c.image_size}, {c.image_size}, 3]")
        x = PatchEmbedding(c.patch_size, c.width, self.dtype, name="patch_embedding")(images)
        bias = self.param("patch_bias", nn.initializers.zeros, (c.width,), jnp.float32)
        x = LayerNorm(c.eps, name="patch_norm")(x + bias[None, None].astype(x.dtype))
        init = nn.initializers.truncated_normal(0.02)
        x += self.param("position_embedding", init, (x.shape[1], c.width), jnp.float32)[None].astype(x.dtype)
        tokens, assignment = None, None
        for i in range(len(c.depths)):
            x, tokens, logits = GroupingStage(c, i, self.dtype, name=f"stage_{i}")(x, tokens)
            if logits is not None:
                share = jax.nn.softmax(logits, axis=1)
                assignment = share if assignment is None else jnp.einsum("bkg,bgn->bkn", share, assignment)
        if assignment is None:
            assignment = jnp.zeros((x.shape[0], 0, x.shape[1]), jnp.float32)
        return LayerNorm(c.eps, name="norm")(x), assignment


class GroupVitText(nn.Module):
    """Token ids int32 [M, L] -> the end-of-text states [M, width] after the last norm."""

    config: TextConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        c = self.config
        if ids.ndim != 2 or ids.shape[1] > c.context_length:
            raise VtjaxError(f"token ids {ids.shape}; expected [M, L] with L at most {c.context_length}")
        x = nn.Embed(c.vocab_size, c.width, embedding_init=nn.initializers.normal(0.02), name="token_embedding")(ids)
        shape = c.context_length, c.width
        table = self.param("position_embedding", nn.initializers.normal(0.01), shape, jnp.float32)
        x = (x + table[None, : ids.shape[1]]).astype(self.dtype)
        x = LayerStack(layer_config(c, self.dtype), c.layers, name="transformer")(x, causal_mask(ids.shape[1])).x
        x = LayerNorm(c.eps, name="final_norm")(x)
        return jnp.take_along_axis(x, eot_positions(ids, c.eot_id)[:, None, None], axis=1)[:, 0]


class GroupVit(nn.Module):
    """Images and texts in one space; dtype: of matmul inputs."""

    config: GroupVitConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        c = self.config
        self.vision, self.text = GroupVitVision(c, self.dtype), GroupVitText(c.text, self.dtype)
        self.vision_projector = Projector(c.project_hidden, c.embed_dim, self.dtype)
        self.text_projector = Projector(c.project_hidden, c.embed_dim, self.dtype)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(LOGIT_SCALE_INIT), (), jnp.float32)

    def __call__(self, images: jax.Array, ids: jax.Array) -> GroupVitOutput:
        """images: float [B, height, width, 3], normalised as the model wants it; ids: int32 [M, L].

        Raises:
          VtjaxError: images of another size, or texts that are too long.
        """
        groups, assignment = self.vision(images)
        return GroupVitOutput(
            self.vision_projector(jnp.mean(groups, axis=1)),
            self.text_projector(self.text(ids)),
            self.vision_projector(groups),
            assignment,
            self.logit_scale,
        )
