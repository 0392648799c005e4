"""OV-OAD's objective as pure functions of parameters and a batch, bound to one model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from vtjax.config import check_fields
from vtjax.errors import VtjaxError
from vtjax.losses.contrastive import contrastive_accuracy, info_nce, unit
from vtjax.losses.dice import dice, focal
from vtjax.losses.multi_positive import multi_positive_nce
from vtjax.losses.scale import clipped
from vtjax.methods.ovoad.config import OvoadConfig, check, clustered_frames, window_of
from vtjax.methods.ovoad.model import OvoadModel
from vtjax.nn.clip import ClipConfig as Sizes
from vtjax.training.task import Batch, Metrics, field, stream

_FLAT = 1e-6  # range over time below which a mask says nothing
_HIGHEST = jax.lax.Precision.HIGHEST


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Encoded:
    """What the model makes of B windows, float32; N frames are clustered, the last N of the window, into k groups.

    Attributes:
      groups: [B, k, E], unit.
      clip: [B, E], unit, of all groups together.
      current: [B, F] of the last frame, not normalised.
      logits: [B, k, N] of the assignment, without noise.
      assignment: [B, k, N], their softmax over groups, 0 on frames that are not valid.
      valid: bool [B, N].
    """

    groups: jax.Array
    clip: jax.Array
    current: jax.Array
    logits: jax.Array
    assignment: jax.Array
    valid: jax.Array


class OvoadObjective:
    """The objective of one configuration, bound to its model.

    Attributes:
      text_length: tokens of a text.
      window: frames that the model takes.
    """

    def __init__(self, config: OvoadConfig, sizes: Sizes, dtype: Any = jnp.float32):
        """Builds the model.

        Args:
          config: settings of the method.
          sizes: of the encoder, whose text tower the model has.
          dtype: of matmul inputs.

        Raises:
          VtjaxError: settings that cannot work.
        """
        check_fields(config, "config.method")
        check(config)
        self.config, self.sizes, self.dtype = config, sizes, dtype
        self.model = OvoadModel(config, sizes.text, sizes.embed_dim, dtype)
        self.text_length = config.text.max_tokens or sizes.text.context_length
        self.window = window_of(config.model)

    def example_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Gives the shape and dtype of every field of one training example.

        Returns:
          features: of the window's frames, oldest first. valid: False before the video begins. action: something is
          done. text_ids: the caption of the window, then the further ones. current_ids: the caption of the last frame.
          With data.windows above 1 each field has that many of them.
        """
        config, several = self.config, self.config.data.windows

        def spec(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((several, *shape) if several > 1 else shape, dtype)

        return {
            "features": spec((self.window, config.model.width), jnp.float32),
            "valid": spec((self.window,), jnp.bool_),
            "action": spec((self.window,), jnp.bool_),
            "text_ids": spec((1 + config.loss.extra, self.text_length), jnp.int32),
            "current_ids": spec((self.text_length,), jnp.int32),
        }

    def init(self, rng: jax.Array, batch: Batch) -> dict[str, Any]:
        """Draws random parameters, a nested dict of float32 arrays; of `batch` only the shapes matter."""
        inputs = (self._windows(batch, name) for name in ("features", "valid", "current_ids"))
        return self.model.init(rng, *inputs)["params"]

    def _windows(self, batch: Batch, name: str) -> jax.Array:
        """A field with one row per window; those of an example stay neighbours, so that the sharding stays."""
        rows = field(batch, name)
        return rearrange(rows, "b w ... -> (b w) ...") if self.config.data.windows > 1 else rows

    def encode_window(
        self,
        params: Mapping[str, Any],
        features: jax.Array,
        valid: jax.Array,
        *,
        train: bool = False,
        rngs: Mapping[str, jax.Array] | None = None,
    ) -> Encoded:
        """Encodes windows.

        Args:
          params: as `init` gives them.
          features: float [B, T, D], oldest first.
          valid: bool [B, T], False before the video begins.
          train: dropout and the assignment's noise on.
          rngs: with `train`, keys of the streams "dropout" and "gumbel".

        Raises:
          VtjaxError: a window of another length, or features of another width.
        """
        expected = (self.window, self.config.model.width)
        if features.ndim != 3 or features.shape[1:] != expected:
            shape = f"[B, {expected[0]} frames, {expected[1]} values]"
            raise VtjaxError(f"windows of features {features.shape}; this model takes {shape}")
        groups, clip, current, logits = self.model.apply(
            {"params": params}, features, valid, train, rngs=rngs, method="encode_window"
        )
        clustered = valid[:, -clustered_frames(self.config.model) :]
        assignment = jax.nn.softmax(logits, axis=1) * clustered[:, None]
        return Encoded(unit(groups), unit(clip), current, logits, assignment, clustered)

    def encode_text(
        self,
        params: Mapping[str, Any],
        ids: jax.Array,
        *,
        train: bool = False,
        rngs: Mapping[str, jax.Array] | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Encodes token ids int32 [M, L] -> float32 joint [M, E] and current [M, F], neither normalised."""
        return self.model.apply({"params": params}, ids, train, rngs=rngs, method="encode_text")

    def scale_of(self, params: Mapping[str, Any], name: str) -> jax.Array:
        """Gives the factor on cosines behind the learnt log-scale `name`, at most model.max_scale."""
        return jnp.exp(clipped(params[name], math.log(self.config.model.max_scale)))

    def background_mask(self, encoded: Encoded, text: jax.Array, scale: jax.Array | float) -> jax.Array:
        """Computes how sure every clustered frame is to show an action (OV-OAD, eq. 2).

        Args:
          encoded: B windows.
          text: [B, E], unit, what each window shows.
          scale: of mask_squash=sigmoid.

        Returns:
          float32 [B, N] in [0, 1].
        """
        if self.config.loss.mask_from == "logits":
            mean = jnp.where(encoded.valid, jnp.mean(encoded.logits, axis=1), 0.0)
            return _between(unit(mean), encoded.valid)
        similar = jnp.einsum("bke,be->bk", encoded.groups, text, precision=_HIGHEST)
        mask = jnp.einsum("bkn,bk->bn", encoded.assignment, similar, precision=_HIGHEST)
        if self.config.loss.mask_squash == "sigmoid":
            return jax.nn.sigmoid(scale * mask)
        return _between(mask, encoded.valid)

    def loss(self, params: Mapping[str, Any], batch: Batch, rng: jax.Array, train: bool) -> Metrics:
        """Computes L = contrast + alpha current + beta mask over N windows.

        Args:
          params: as `init` gives them.
          batch: fields of `example_spec`, each with a leading batch size.
          rng: key; the streams for dropout and for the assignment's noise are folded from it by name. Unused where
            train is False.
          train: whether there is dropout and noise.

        Returns:
          {name: (sum, weight)}: "loss" (N * objective, N); then itc, multi, current and mask, unweighted, each where it
          applies; accuracy_t2v, accuracy_v2t of captions and accuracy_current in the batch; logit_scale.

        Raises:
          VtjaxError: a field that the configuration needs is not in the batch.
        """
        config, weights = self.config, self.config.loss
        features, valid, action, ids, current_ids = (self._windows(batch, name) for name in self.example_spec())

        def streams(part: str) -> dict[str, jax.Array] | None:
            return {name: stream(rng, f"{name} {part}") for name in ("dropout", "gumbel")} if train else None

        encoded = self.encode_window(params, features, valid, train=train, rngs=streams("video"))
        # Texts of an item are neighbours in one call, so that the batch keeps its sharding.
        texts = jnp.concatenate([ids, current_ids[:, None]], axis=1)
        both = self.encode_text(params, rearrange(texts, "n m l -> (n m) l"), train=train, rngs=streams("text"))
        joint, states = (rearrange(x, "(n m) d -> n m d", n=len(texts)) for x in both)
        caption, extra, state = joint[:, 0], joint[:, 1:-1], states[:, -1]
        scale = self.scale_of(params, "logit_scale")
        left_out = weights.equal_texts == "left_out"

        same_caption = _equal(ids[:, 0], ids[:, 0]) if left_out else None
        same_state = _equal(current_ids, current_ids) if left_out else None
        parts = {"itc": info_nce(caption, encoded.clip, temperature=1.0 / scale, exclude=same_caption)}
        if weights.extra:
            parts["multi"] = multi_positive_nce(
                encoded.clip, extra, self.scale_of(params, "multi_label_scale"), form=weights.multi_positive,
                exclude=_shared(ids[:, 1:]) if left_out else None,
            )  # fmt: skip
        parts["current"] = info_nce(state, encoded.current, temperature=1.0 / scale, exclude=same_state)
        if config.model.clustering:
            mask = self.background_mask(encoded, unit(caption), scale)
            target = action[:, -mask.shape[1] :]
            parts["mask"] = dice(mask, target, encoded.valid)
            if weights.focal:
                parts["focal"] = focal(mask, target, encoded.valid)
        means = {name: total / jnp.maximum(weight, 1.0) for name, (total, weight) in parts.items()}
        if "mask" in parts and weights.mask_mean == "frames":
            means["mask"] = parts["mask"][0] / clustered_frames(config.model)
        factors = {"itc": weights.contrast, "multi": weights.contrast, "current": weights.current}
        factors |= {"mask": weights.mask, "focal": weights.focal}
        objective = sum(factors[name] * value for name, value in means.items())
        count = jnp.asarray(features.shape[0], jnp.float32)
        to_video, to_text = contrastive_accuracy(caption, encoded.clip, same_caption)
        return {
            "loss": (objective * count, count),
            **parts,
            "accuracy_t2v": to_video,
            "accuracy_v2t": to_text,
            "accuracy_current": contrastive_accuracy(state, encoded.current, same_state)[1],
            "logit_scale": (scale * count, count),
        }


def _between(x: jax.Array, valid: jax.Array) -> jax.Array:
    """x [B, N] with its range over valid frames stretched to [0, 1]; 1/2 where it is flat."""
    low = jnp.min(jnp.where(valid, x, jnp.inf), axis=-1, keepdims=True)
    high = jnp.max(jnp.where(valid, x, -jnp.inf), axis=-1, keepdims=True)
    wide = high - low >= _FLAT
    return jnp.where(wide, (x - low) / jnp.where(wide, high - low, 1.0), 0.5)


def _equal(a: jax.Array, b: jax.Array) -> jax.Array:
    """bool [N, N]: ids [N, L] of two different items are the same text."""
    return (a[:, None] == b[None, :]).all(axis=-1) & ~jnp.eye(len(a), dtype=bool)


def _shared(ids: jax.Array) -> jax.Array:
    """bool [N, N, M]: text m of another item j is also one of item i's, ids [N, M, L]."""
    same = (ids[:, None, :, None] == ids[None, :, None, :]).all(axis=-1)  # i, j, m of i, m of j
    return same.any(axis=2) & ~jnp.eye(len(ids), dtype=bool)[:, :, None]
