"""The contrastive objective and embeddings of clips and texts, as pure functions of parameters and a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from vtjax.config import check_fields
from vtjax.encoders.clip_config import ClipConfig, check
from vtjax.errors import VtjaxError
from vtjax.losses.contrastive import chronology_accuracy, contrastive_accuracy, unit
from vtjax.losses.distributed_contrastive import clip_info_nce
from vtjax.losses.scale import clipped
from vtjax.losses.sigmoid import sigmoid_contrastive
from vtjax.methods.clip.model import VideoTextModel
from vtjax.nn.clip import ClipConfig as Sizes
from vtjax.sharding.mesh import BATCH_AXES
from vtjax.training.task import Batch, field

Metrics = dict[str, tuple[jax.Array, jax.Array]]

_RANKED = 4096  # rows up to which the accuracy over the batch is worth its N x N matrix


class ClipObjective:
    """The objective and the embeddings of one configuration, bound to its model.

    Its functions are pure functions of parameters and a batch. A batch has the fields of `example_spec`, each with a
    leading N.
    """

    def __init__(self, config: ClipConfig, sizes: Sizes, dtype: Any = jnp.float32, slices: int = 1):
        """Builds the model.

        Args:
          config: settings of the method.
          sizes: of both towers.
          dtype: of matmul inputs.
          slices: TPU slices of the mesh; between several, loss.impl "auto" gathers.

        Raises:
          VtjaxError: settings that cannot work.
        """
        check_fields(config, "config.method")
        check(config)
        self.config, self.sizes, self.dtype = config, sizes, dtype
        self.model = VideoTextModel(sizes, config.model, config.loss.name, dtype)
        self._impl = "gather" if config.loss.impl == "auto" and slices > 1 else config.loss.impl

    def example_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Gives the shape and dtype of every field of one training example.

        frames: RGB. frame_mask: False where the last frame stands in. substitute: a video that cannot be read was
        replaced by this one. backwards_ids, backwards_valid: the caption that is true of the clip shown backwards,
        where one is.
        """
        spec, sizes = jax.ShapeDtypeStruct, self.sizes
        size, frames, tokens = sizes.vision.image_size, self.config.model.frames, sizes.text.context_length
        fields = {
            "frames": spec((frames, size, size, 3), jnp.uint8),
            "frame_mask": spec((frames,), jnp.bool_),
            "text_ids": spec((tokens,), jnp.int32),
            "substitute": spec((), jnp.bool_),
        }
        if self.config.loss.backwards:
            fields["backwards_ids"] = spec((tokens,), jnp.int32)
            fields["backwards_valid"] = spec((), jnp.bool_)
        return fields

    def init(self, rng: jax.Array, batch: Batch) -> dict[str, Any]:
        """Draws random parameters, a nested dict of float32 arrays; of `batch` only the shapes matter."""
        return self.model.init(rng, batch["frames"], batch["frame_mask"], batch["text_ids"])["params"]

    def loss(self, params: Mapping[str, Any], batch: Batch, rng: jax.Array, train: bool) -> Metrics:
        """Computes the objective over a batch of N clips, of N to 2N rows with `loss.backwards`.

        Args:
          params: as `init` gives them.
          batch: fields of `example_spec`.
          rng: unused; the model has no dropout.
          train: passed on to the towers; nothing depends on it.

        Returns:
          {name: (sum, weight)}: "loss" (CLIP, section 2.3; SigLIP, section 3.2); accuracy_t2v, accuracy_v2t in the
          batch where it is small enough; order, the true caption against that of the clip shown backwards, given the
          clip; logit_scale, as used; substituted.

        Raises:
          VtjaxError: a field that the configuration needs is not in the batch.
        """
        settings, parts = self.config.loss, self.config.model.parts
        frames, mask, ids = (field(batch, name) for name in ("frames", "frame_mask", "text_ids"))
        embeddings = _in_parts(lambda x: self._apply("encode_frames", params, x, train), frames, parts)
        encode_text = lambda x: _in_parts(lambda y: self._apply("encode_text", params, y, train), x, parts)
        metrics: Metrics = {}
        video = self._apply("pool", params, embeddings, mask)
        if settings.backwards:
            backwards, has = field(batch, "backwards_ids"), field(batch, "backwards_valid")
            texts = encode_text(_interleaved(ids, backwards))
            text, other = texts[0::2], texts[1::2]
            metrics["order"] = chronology_accuracy(video, text, other[:, None], has[:, None])
            turned = self._apply("pool", params, embeddings[:, ::-1], mask[:, ::-1])
            videos, valid = _interleaved(video, turned), _interleaved(jnp.ones_like(has), has)
        else:
            text = encode_text(ids)
            videos, texts, valid = video, text, None
        scale = jnp.exp(clipped(params["logit_scale"], math.log(settings.max_scale)))
        how = {"valid": valid, "mesh": _mesh(frames), "impl": self._impl, "tile": settings.tile}
        # The loss multiplies matrices in the type of its inputs.
        rows = videos.astype(self.dtype), texts.astype(self.dtype)
        if settings.name == "sigmoid":
            objective = sigmoid_contrastive(*rows, scale, params["logit_bias"], **how)
        else:
            objective = clip_info_nce(*rows, scale, **how)
        count = jnp.asarray(frames.shape[0], jnp.float32)
        metrics = {"loss": objective, **metrics}
        if len(video) <= _RANKED:
            metrics["accuracy_t2v"], metrics["accuracy_v2t"] = contrastive_accuracy(text, video)
        metrics["logit_scale"] = (scale * count, count)
        metrics["substituted"] = (jnp.sum(field(batch, "substitute"), dtype=jnp.float32), count)
        return metrics

    def embed_videos(
        self, params: Mapping[str, Any], frames: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Embeds clips uint8 [B, T, size, size, 3], mask bool [B, T] -> unit float32 [B, D], and the same shown
        backwards."""
        embeddings = self._apply("encode_frames", params, frames)
        pool = lambda x, m: unit(self._apply("pool", params, x, m))
        return pool(embeddings, mask), pool(embeddings[:, ::-1], mask[:, ::-1])

    def embed_texts(self, params: Mapping[str, Any], ids: jax.Array) -> jax.Array:
        """Embeds token ids int32 [B, L] -> unit float32 [B, D]."""
        return unit(self._apply("encode_text", params, ids))

    def _apply(self, method: str, params: Mapping[str, Any], *args: Any) -> Any:
        return self.model.apply({"params": params}, *args, method=method)


def _interleaved(a: jax.Array, b: jax.Array) -> jax.Array:
    """[N, ...] and [N, ...] -> [2N, ...]: a0, b0, a1, b1, ...: neighbours in the batch, so that rows keep devices."""
    return rearrange([a, b], "two n ... -> (n two) ...")


def _in_parts(encode: Callable[[jax.Array], jax.Array], x: jax.Array, parts: int) -> jax.Array:
    """encode(x), its rows taken in `parts` groups one after the other, each computed again in the backward pass."""
    if parts == 1:
        return encode(x)
    if x.shape[0] % parts:
        raise VtjaxError(f"config.method.model.parts={parts} does not divide a batch of {x.shape[0]}")
    # Row r goes to part r % parts, so that every device keeps its own rows.
    groups = rearrange(x, "(n parts) ... -> parts n ...", parts=parts)
    return rearrange(jax.lax.map(jax.checkpoint(encode), groups), "parts n ... -> (n parts) ...")


def _mesh(x: Any) -> Any:
    """The mesh that the batch is laid out on, read off its type; None on one device and outside `jit`."""
    mesh = jax.typeof(x).sharding.mesh
    split = not mesh.empty and mesh.size > 1 and set(BATCH_AXES) <= set(mesh.axis_names)
    return mesh if split else None
