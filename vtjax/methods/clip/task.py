"""The contrastive objective over clips and texts, as pure functions of (config, sizes, params, batch)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vtjax.encoders.clip_config import ClipConfig
from vtjax.errors import VtjaxError
from vtjax.losses.contrastive import chronology_accuracy, contrastive_accuracy, unit
from vtjax.losses.distributed_contrastive import clip_info_nce
from vtjax.losses.sigmoid import sigmoid_contrastive
from vtjax.methods.clip.model import VideoTextModel
from vtjax.nn import clip as towers
from vtjax.sharding.mesh import BATCH_AXES

Batch = Mapping[str, jax.Array]
Metrics = dict[str, tuple[jax.Array, jax.Array]]

_RANKED = 4096  # rows up to which the accuracy over the batch is worth its N x N matrix


def build(config: ClipConfig, sizes: towers.ClipConfig, dtype: Any = jnp.float32) -> VideoTextModel:
    """The model of a configuration; dtype: of matmul inputs."""
    return VideoTextModel(sizes, config.model, config.loss.name, dtype)


def example_spec(config: ClipConfig, sizes: towers.ClipConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of every field of one training example; a batch leads with its size.

    frames: RGB. frame_mask: False where the last frame stands in. substitute: a video that cannot be read was replaced
    by this one. backwards_ids, backwards_valid: the caption that is true of the clip shown backwards, where one is.
    """
    spec = jax.ShapeDtypeStruct
    size, frames, tokens = sizes.vision.image_size, config.model.frames, sizes.text.context_length
    fields = {
        "frames": spec((frames, size, size, 3), jnp.uint8),
        "frame_mask": spec((frames,), jnp.bool_),
        "text_ids": spec((tokens,), jnp.int32),
        "substitute": spec((), jnp.bool_),
    }
    if config.loss.backwards:
        fields["backwards_ids"] = spec((tokens,), jnp.int32)
        fields["backwards_valid"] = spec((), jnp.bool_)
    return fields


def init(
    config: ClipConfig, sizes: towers.ClipConfig, rng: jax.Array, batch: Batch, dtype: Any = jnp.float32
) -> dict[str, Any]:
    """Random parameters, a nested dict of float32 arrays; of `batch` only the shapes matter."""
    model = build(config, sizes, dtype)
    return model.init(rng, batch["frames"], batch["frame_mask"], batch["text_ids"])["params"]


def loss(
    config: ClipConfig,
    sizes: towers.ClipConfig,
    params: Mapping[str, Any],
    batch: Batch,
    rng: jax.Array,
    train: bool,
    dtype: Any = jnp.float32,
    slices: int = 1,
) -> Metrics:
    """The objective over a batch of N clips, of N to 2N rows with `loss.backwards`.

    Args:
      batch: fields of `example_spec`, each with a leading N.
      rng: unused; the model has no dropout.
      slices: TPU slices of the mesh; between several, impl "auto" gathers.

    Returns:
      {name: (sum, weight)}: "loss"; accuracy_t2v, accuracy_v2t in the batch where it is small enough; order, the true
      caption against that of the clip shown backwards, given the clip; logit_scale, as used; substituted.

    Raises:
      VtjaxError: a field that the configuration needs is not in the batch.
    """
    model, variables = build(config, sizes, dtype), {"params": params}
    apply = lambda method, *args: model.apply(variables, *args, method=method)
    frames, mask, ids = (_field(batch, name) for name in ("frames", "frame_mask", "text_ids"))
    embeddings = _in_parts(lambda x: apply("encode_frames", x, train), frames, config.model.parts)
    encode_text = lambda x: _in_parts(lambda y: apply("encode_text", y, train), x, config.model.parts)
    video, valid = apply("pool", embeddings, mask), None
    own_video, metrics = video, {}
    if config.loss.backwards:
        backwards, has = _field(batch, "backwards_ids"), _field(batch, "backwards_valid")
        # Neighbours in the batch, so that rows keep their devices.
        text = encode_text(_interleave(ids, backwards))
        own_text, other = text[0::2], text[1::2]
        metrics["order"] = chronology_accuracy(video, own_text, other[:, None], has[:, None])
        video = _interleave(video, apply("pool", embeddings[:, ::-1], mask[:, ::-1]))
        valid = _interleave(jnp.ones_like(has), has)
    else:
        text = own_text = encode_text(ids)
    log_scale = clipped(params["logit_scale"], math.log(config.loss.max_scale))
    impl = "gather" if config.loss.impl == "auto" and slices > 1 else config.loss.impl
    how = dict(valid=valid, mesh=_mesh(frames), impl=impl, tile=config.loss.tile)
    # The loss multiplies matrices in the type of its inputs.
    rows = video.astype(dtype), text.astype(dtype)
    if config.loss.name == "sigmoid":
        objective = sigmoid_contrastive(*rows, jnp.exp(log_scale), params["logit_bias"], **how)
    else:
        objective = clip_info_nce(*rows, jnp.exp(log_scale), **how)
    count = jnp.asarray(frames.shape[0], jnp.float32)
    metrics = {"loss": objective, **metrics}
    if len(own_video) <= _RANKED:
        metrics["accuracy_t2v"], metrics["accuracy_v2t"] = contrastive_accuracy(own_text, own_video)
    metrics["logit_scale"] = (jnp.exp(log_scale) * count, count)
    metrics["substituted"] = (jnp.sum(_field(batch, "substitute"), dtype=jnp.float32), count)
    return metrics


def embed_videos(
    config: ClipConfig,
    sizes: towers.ClipConfig,
    params: Mapping[str, Any],
    frames: jax.Array,
    mask: jax.Array,
    dtype: Any = jnp.float32,
) -> tuple[jax.Array, jax.Array]:
    """Clips uint8 [B, T, size, size, 3], mask bool [B, T] -> unit float32 [B, D], and of the same shown backwards."""
    model, variables = build(config, sizes, dtype), {"params": params}
    embeddings = model.apply(variables, frames, method="encode_frames")
    pool = lambda x, m: unit(model.apply(variables, x, m, method="pool"))
    return pool(embeddings, mask), pool(embeddings[:, ::-1], mask[:, ::-1])


def embed_texts(
    config: ClipConfig, sizes: towers.ClipConfig, params: Mapping[str, Any], ids: jax.Array, dtype: Any = jnp.float32
) -> jax.Array:
    """Token ids int32 [B, L] -> unit float32 [B, D]."""
    return unit(build(config, sizes, dtype).apply({"params": params}, ids, method="encode_text"))


@jax.custom_vjp
def clipped(x: jax.Array, limit: float) -> jax.Array:
    """min(x, limit), whose gradient at and above the limit lets descent go down and never up.

    CLIP sets its parameter back to the limit after a step; where the parameters are plain arrays and the optimizer
    knows nothing of this one, the same is had from the gradient.
    """
    return jnp.minimum(x, limit)


def _clipped_forward(x: jax.Array, limit: float) -> tuple[jax.Array, jax.Array]:
    return jnp.minimum(x, limit), x >= limit


def _clipped_backward(above: jax.Array, g: jax.Array) -> tuple[jax.Array, None]:
    return jnp.where(above, jnp.maximum(g, 0.0), g), None


clipped.defvjp(_clipped_forward, _clipped_backward)


def _interleave(a: jax.Array, b: jax.Array) -> jax.Array:
    """[N, ...] and [N, ...] -> [2N, ...]: a0, b0, a1, b1, ..."""
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])


def _in_parts(encode: Callable[[jax.Array], jax.Array], x: jax.Array, parts: int) -> jax.Array:
    """encode(x), its rows taken in `parts` groups one after the other, each computed again in the backward pass."""
    if parts == 1:
        return encode(x)
    if x.shape[0] % parts:
        raise VtjaxError(f"config.method.model.parts={parts} does not divide a batch of {x.shape[0]}")
    # Row r goes to part r % parts, so that every device keeps its own rows.
    groups = x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
    out = jax.lax.map(jax.checkpoint(encode), groups).swapaxes(0, 1)
    return out.reshape(-1, *out.shape[2:])


def _mesh(x: Any) -> Any:
    """The mesh that the batch is laid out on, read off its type; None on one device and outside `jit`."""
    mesh = jax.typeof(x).sharding.mesh
    split = not mesh.empty and mesh.size > 1 and set(BATCH_AXES) <= set(mesh.axis_names)
    return mesh if split else None


def _field(batch: Batch, name: str) -> jax.Array:
    if name not in batch:
        raise VtjaxError(f"batch has no {name!r}, which this configuration needs; it has {', '.join(sorted(batch))}")
    return batch[name]
