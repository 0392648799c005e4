"""OV-OAD's objective and embeddings as pure functions of (config, sizes, params, batch) (ovoad.md sections 3.5, 4)."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vtjax.errors import VtjaxError
from vtjax.losses.contrastive import contrastive_accuracy, info_nce, unit
from vtjax.losses.dice import dice, focal
from vtjax.losses.multi_positive import multi_positive_nce
from vtjax.losses.scale import clipped
from vtjax.methods.ovoad.config import OvoadConfig, clustered_frames, window_of
from vtjax.methods.ovoad.model import OvoadModel
from vtjax.nn.clip import ClipConfig as Sizes

Batch = Mapping[str, jax.Array]
Metrics = dict[str, tuple[jax.Array, jax.Array]]

_FLAT = 1e-6  # range over time below which a mask says nothing


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Encoded:
    """What the model made of B windows, float32; N frames are clustered, the last N of the window, into k groups.

    groups: [B, k, E], unit. clip: [B, E], unit, of all groups together. current: [B, F] of the last frame, not
    normalised. logits: [B, k, N] of the assignment, without noise. assignment: [B, k, N], their softmax over groups, 0
    on frames that are not valid. valid: bool [B, N].
    """

    groups: jax.Array
    clip: jax.Array
    current: jax.Array
    logits: jax.Array
    assignment: jax.Array
    valid: jax.Array


def build(config: OvoadConfig, sizes: Sizes, dtype: Any = jnp.float32) -> OvoadModel:
    """The model of a configuration. sizes: of the encoder, whose text tower it has; dtype: of matmul inputs."""
    return OvoadModel(config, sizes.text, sizes.embed_dim, dtype)


def text_length(config: OvoadConfig, sizes: Sizes) -> int:
    """Tokens of a text."""
    return config.text.max_tokens or sizes.text.context_length


def example_spec(config: OvoadConfig, sizes: Sizes) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of every field of one training example; a batch leads with its size.

    features: of the window's frames, oldest first. valid: False before the video begins. action: something is done.
    text_ids: the caption of the window, then the further ones. current_ids: the caption of the last frame. With
    data.windows above 1 each field has that many of them.
    """
    window, tokens, several = window_of(config.model), text_length(config, sizes), config.data.windows

    def spec(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((several, *shape) if several > 1 else shape, dtype)

    return {
        "features": spec((window, config.model.width), jnp.float32),
        "valid": spec((window,), jnp.bool_),
        "action": spec((window,), jnp.bool_),
        "text_ids": spec((1 + config.loss.extra, tokens), jnp.int32),
        "current_ids": spec((tokens,), jnp.int32),
    }


def init(config: OvoadConfig, sizes: Sizes, rng: jax.Array, batch: Batch, dtype: Any = jnp.float32) -> dict[str, Any]:
    """Random parameters, a nested dict of float32 arrays; of `batch` only the shapes matter."""
    model = build(config, sizes, dtype)
    features, valid, ids = (windows_of(config, batch[name]) for name in ("features", "valid", "current_ids"))
    return model.init(rng, features, valid, ids)["params"]


def windows_of(config: OvoadConfig, field: jax.Array) -> jax.Array:
    """A field of a batch with one row per window; those of an example stay neighbours, so the sharding stays."""
    return field.reshape(-1, *field.shape[2:]) if config.data.windows > 1 else field


def encode_window(
    config: OvoadConfig,
    sizes: Sizes,
    params: Mapping[str, Any],
    features: jax.Array,
    valid: jax.Array,
    *,
    dtype: Any = jnp.float32,
    train: bool = False,
    rngs: Mapping[str, jax.Array] | None = None,
) -> Encoded:
    """features float [B, T, D], oldest first; valid bool [B, T], False before the video begins.

    rngs: with `train`, keys of the streams "dropout" and "gumbel".

    Raises:
      VtjaxError: a window of another length, or features of another width.
    """
    expected = (window_of(config.model), config.model.width)
    if features.ndim != 3 or features.shape[1:] != expected:
        raise VtjaxError(
            f"windows of features {features.shape}; this model takes [B, {expected[0]} frames, {expected[1]} values]"
        )
    model = build(config, sizes, dtype)
    groups, clip, current, logits = model.apply(
        {"params": params}, features, valid, train, rngs=rngs, method="encode_window"
    )
    seen = valid[:, -clustered_frames(config.model) :]
    assignment = jax.nn.softmax(logits, axis=1) * seen[:, None]
    return Encoded(unit(groups), unit(clip), current, logits, assignment, seen)


def encode_text(
    config: OvoadConfig,
    sizes: Sizes,
    params: Mapping[str, Any],
    ids: jax.Array,
    *,
    dtype: Any = jnp.float32,
    train: bool = False,
    rngs: Mapping[str, jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Token ids int32 [M, L] -> float32 joint [M, E] and current [M, F], neither normalised."""
    model = build(config, sizes, dtype)
    return model.apply({"params": params}, ids, train, rngs=rngs, method="encode_text")


def scale_of(params: Mapping[str, Any], name: str, config: OvoadConfig) -> jax.Array:
    """The factor on cosines behind the learnt log-scale `name`, at most model.max_scale."""
    return jnp.exp(clipped(params[name], math.log(config.model.max_scale)))


def background_mask(config: OvoadConfig, encoded: Encoded, text: jax.Array, scale: jax.Array | float) -> jax.Array:
    """How sure every clustered frame is to show an action, float32 [B, N] in [0, 1] (ovoad.md section 4.3).

    text: [B, E], unit, what the window shows. scale: of mask_squash=sigmoid.
    """
    if config.loss.mask_from == "logits":
        mean = jnp.where(encoded.valid, jnp.mean(encoded.logits, axis=1), 0.0)
        return _between(unit(mean), encoded.valid)
    similar = jnp.einsum("bke,be->bk", encoded.groups, text, precision=jax.lax.Precision.HIGHEST)
    mask = jnp.einsum("bkn,bk->bn", encoded.assignment, similar, precision=jax.lax.Precision.HIGHEST)
    if config.loss.mask_squash == "sigmoid":
        return jax.nn.sigmoid(scale * mask)
    return _between(mask, encoded.valid)


def _between(x: jax.Array, valid: jax.Array) -> jax.Array:
    """x [B, N] with its range over valid frames stretched to [0, 1]; 1/2 where it is flat."""
    low = jnp.min(jnp.where(valid, x, jnp.inf), axis=-1, keepdims=True)
    high = jnp.max(jnp.where(valid, x, -jnp.inf), axis=-1, keepdims=True)
    wide = high - low >= _FLAT
    return jnp.where(wide, (x - low) / jnp.where(wide, high - low, 1.0), 0.5)


def loss(
    config: OvoadConfig,
    sizes: Sizes,
    params: Mapping[str, Any],
    batch: Batch,
    rng: jax.Array,
    train: bool,
    dtype: Any = jnp.float32,
) -> Metrics:
    """L = contrast + alpha current + beta mask over N windows.

    Args:
      batch: fields of `example_spec`, each with a leading batch size.
      rng: key; the streams for dropout and for the assignment's noise are folded from it by name. Unused where train
        is False.

    Returns:
      {name: (sum, weight)}: "loss" (N * objective, N); then itc, multi, current and mask, unweighted, each where it
      applies; accuracy_t2v, accuracy_v2t of captions and accuracy_current in the batch; logit_scale.

    Raises:
      VtjaxError: a field that the configuration needs is not in the batch.
    """
    weights = config.loss
    features, valid, action, ids, current_ids = (
        windows_of(config, _field(batch, name)) for name in example_spec(config, sizes)
    )

    def streams(part: str) -> dict[str, jax.Array] | None:
        return {name: _stream(rng, f"{name} {part}") for name in ("dropout", "gumbel")} if train else None

    encoded = encode_window(
        config, sizes, params, features, valid, dtype=dtype, train=train, rngs=streams("video")
    )
    # Texts of an item are neighbours in one call, so that the batch keeps its sharding.
    texts = jnp.concatenate([ids, current_ids[:, None]], axis=1)
    joint, states = encode_text(
        config, sizes, params, texts.reshape(-1, texts.shape[-1]), dtype=dtype, train=train, rngs=streams("text")
    )
    joint = joint.reshape(*texts.shape[:2], -1)[:, :-1]
    caption, extra = joint[:, 0], joint[:, 1:]
    state = states.reshape(*texts.shape[:2], -1)[:, -1]
    scale = scale_of(params, "logit_scale", config)
    left_out = weights.equal_texts == "left_out"

    parts: Metrics = {}
    own = _equal(ids[:, 0], ids[:, 0]) if left_out else None
    parts["itc"] = info_nce(caption, encoded.clip, temperature=1.0 / scale, exclude=own)
    if weights.extra:
        several = scale_of(params, "multi_label_scale", config)
        exclude = _shared(ids[:, 1:]) if left_out else None
        parts["multi"] = multi_positive_nce(
            encoded.clip, extra, several, form=weights.multi_positive, exclude=exclude
        )
    same = _equal(current_ids, current_ids) if left_out else None
    parts["current"] = info_nce(state, encoded.current, temperature=1.0 / scale, exclude=same)
    if config.model.clustering:
        mask = background_mask(config, encoded, unit(caption), scale)
        target = action[:, -mask.shape[1] :]
        parts["mask"] = dice(mask, target, encoded.valid)
        if weights.focal:
            parts["focal"] = focal(mask, target, encoded.valid)
    factors = {
        "itc": weights.contrast, "multi": weights.contrast, "current": weights.current, "mask": weights.mask,
        "focal": weights.focal,
    }  # fmt: skip
    means = {name: total / jnp.maximum(weight, 1.0) for name, (total, weight) in parts.items()}
    if "mask" in parts and weights.mask_mean == "frames":
        means["mask"] = parts["mask"][0] / clustered_frames(config.model)
    objective = sum(factors[name] * value for name, value in means.items())
    count = jnp.asarray(features.shape[0], jnp.float32)
    to_video, to_text = contrastive_accuracy(caption, encoded.clip, own)
    return {
        "loss": (objective * count, count),
        **parts,
        "accuracy_t2v": to_video,
        "accuracy_v2t": to_text,
        "accuracy_current": contrastive_accuracy(state, encoded.current, same)[1],
        "logit_scale": (scale * count, count),
    }


def _equal(a: jax.Array, b: jax.Array) -> jax.Array:
    """bool [N, N]: ids [N, L] of two different items are the same text."""
    return (a[:, None] == b[None, :]).all(axis=-1) & ~jnp.eye(len(a), dtype=bool)


def _shared(ids: jax.Array) -> jax.Array:
    """bool [N, N, M]: text m of another item j is also one of item i's, ids [N, M, L]."""
    same = (ids[:, None, :, None] == ids[None, :, None, :]).all(axis=-1)  # i, j, m of i, m of j
    return same.any(axis=2) & ~jnp.eye(len(ids), dtype=bool)[:, :, None]


def _stream(rng: jax.Array, name: str) -> jax.Array:
    return jax.random.fold_in(rng, zlib.crc32(name.encode()) & 0x7FFFFFFF)


def _field(batch: Batch, name: str) -> jax.Array:
    if name not in batch:
        raise VtjaxError(f"batch has no {name!r}, which this configuration needs; it has {', '.join(sorted(batch))}")
    return batch[name]
