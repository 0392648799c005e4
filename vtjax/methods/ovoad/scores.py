"""Scores of the last frame of windows: the branches of OV-OAD (eq. 3 of the paper) and their fusion."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtjax.losses.contrastive import unit
from vtjax.methods.ovoad.config import OvoadFusionConfig
from vtjax.methods.ovoad.task import Encoded, OvoadObjective

_HIGHEST = jax.lax.Precision.HIGHEST


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bank:
    """Embeddings of C classes, of which those that are not `valid` only fill it up.

    Attributes:
      joint: float32 [C, E], unit.
      current: [C, F], not normalised.
      valid: bool [C].
      background: bool [C], no action.
      clip: [C, Ec], unit, by the encoder's own text tower, or None.
    """

    joint: jax.Array
    current: jax.Array
    valid: jax.Array
    background: jax.Array
    clip: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scores:
    """Of the last frame of B windows, float32; 0 for classes that are not valid. N clustered frames, k groups.

    Attributes:
      fused: [B, C], the answer.
      group, current, clip: [B, C], the branches as they enter the fusion; clip may be None.
      mapping: [B, k, C], cosines of groups and classes.
      binding: int32 [B, N], the group of every clustered frame.
      actionness: [B, N], the predicted background mask, 1 for action.
    """

    fused: jax.Array
    group: jax.Array
    current: jax.Array
    clip: jax.Array | None
    mapping: jax.Array
    binding: jax.Array
    actionness: jax.Array


def frame_scores(
    objective: OvoadObjective,
    params: Mapping[str, Any],
    encoded: Encoded,
    bank: Bank,
    clip: jax.Array | None = None,
    fusion: OvoadFusionConfig | None = None,
) -> Scores:
    """Scores the windows' last frames.

    In mode "paper" scores are cosines, weighted and added up; in the others they are probabilities over the valid
    classes, the background among them, and the fusion is their weighted mean.

    Args:
      objective: of the run.
      params: of the model, for its learnt scales.
      encoded: B windows.
      bank: C classes.
      clip: probabilities float32 [B, C] of the encoder's own zero-shot scores (`zero_shot`, their mean over the
        window), needed where fusion.clip is not 0.
      fusion: default that of the configuration.
    """
    fusion = objective.config.fusion if fusion is None else fusion
    scale = objective.scale_of(params, "logit_scale")
    mapping = jnp.einsum("bke,ce->bkc", encoded.groups, bank.joint, precision=_HIGHEST)
    binding = jnp.argmax(encoded.assignment, axis=1).astype(jnp.int32)
    bound = jnp.take_along_axis(mapping, binding[:, -1][:, None, None], axis=1)[:, 0]
    whole = jnp.einsum("be,ce->bc", encoded.clip, bank.joint, precision=_HIGHEST)
    cosine = jnp.einsum("bf,cf->bc", unit(encoded.current), unit(bank.current), precision=_HIGHEST)
    if fusion.mode == "paper":
        group, current = bound, cosine
    elif fusion.mode == "calibrated":
        group, current = (_softmax(scale * x, bank.valid) for x in (bound, cosine))
    else:
        # Classes that the clip as a whole is not among the nearest `top` of are out; then the softmax is taken twice.
        kept = whole >= _nth_largest(jnp.where(bank.valid, whole, -jnp.inf), fusion.top)
        group = _softmax(_softmax(scale * bound, bank.valid[None] & kept), bank.valid)
        dots = jnp.einsum("bf,cf->bc", encoded.current, bank.current, precision=_HIGHEST)
        current = _softmax(dots, bank.valid)
    branches = [(fusion.group, group), (fusion.current, current)]
    if fusion.clip:
        branches.append((fusion.clip, clip))
    total = sum(weight for weight, _ in branches)
    fused = sum(weight / total * branch for weight, branch in branches)
    # The mask as trained; the window's caption, unknown in use, is the action that the window is most like.
    likely = jnp.argmax(jnp.where(bank.valid & ~bank.background, whole, -jnp.inf), axis=-1)
    actionness = objective.background_mask(encoded, bank.joint[likely], scale)
    if fusion.background == "mask":
        fused = jnp.where(bank.background, fused, fused * actionness[:, -1:])
    fused, group, current, clip, mapping = (
        None if x is None else jnp.where(bank.valid, x, 0.0) for x in (fused, group, current, clip, mapping)
    )
    return Scores(fused, group, current, clip, mapping, binding, actionness)


def zero_shot(
    features: jax.Array,
    projection: jax.Array | np.ndarray,
    classes: jax.Array,
    scale: jax.Array | float,
    valid: jax.Array,
    form: str = "standard",
) -> jax.Array:
    """Computes probabilities of classes by the pretrained encoder alone, frame by frame.

    Args:
      features: [..., D], before the projection.
      projection: [D, Ec].
      classes: [C, Ec], unit.
      scale: of the cosines.
      valid: bool [C].
      form: "standard": cosines after the projection; "code": features are normalised before and not after it.

    Returns:
      float32 [..., C].
    """
    first = unit(features) if form == "code" else features.astype(jnp.float32)
    embedding = jnp.einsum("...d,de->...e", first, projection, precision=_HIGHEST)
    embedding = embedding if form == "code" else unit(embedding)
    return _softmax(scale * jnp.einsum("...e,ce->...c", embedding, classes, precision=_HIGHEST), valid)


def window_mean(probabilities: jax.Array, valid: jax.Array) -> jax.Array:
    """Mean over the valid frames, [B, T, C] and bool [B, T] -> [B, C]."""
    weights = valid.astype(jnp.float32)[..., None]
    return jnp.sum(probabilities * weights, axis=1) / jnp.maximum(jnp.sum(weights, axis=1), 1.0)


def _softmax(logits: jax.Array, valid: jax.Array) -> jax.Array:
    """Over valid classes; 0 for the others."""
    return jax.nn.softmax(jnp.where(valid, logits, -jnp.inf), axis=-1)


def _nth_largest(x: jax.Array, n: int) -> jax.Array:
    """[B, 1]: the n-th largest of every row, the smallest where there are fewer."""
    return jax.lax.top_k(x, min(n, x.shape[-1]))[0][:, -1:]
