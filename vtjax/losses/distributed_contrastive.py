"""InfoNCE of CLIP (Radford et al., arXiv 2103.00020) over a global batch, with a learned scale.

Three implementations of one number: "plain" forms the N x N matrix and leaves its placement to XLA; "gather" and
"ring" never form it (`vtjax.losses.pair_sweep`). Their backward pass is written here: it forms the blocks again from
the two log-sums of every item, which are all that the forward pass keeps besides the embeddings.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Num, Shaped

from vtjax.arrays import Array, Scalar
from vtjax.errors import VtjaxError
from vtjax.losses.contrastive import unit
from vtjax.losses.pair_sweep import TILE, LogSum, Plan, plan
from vtjax.sharding.mesh import BATCH_AXES


def clip_info_nce(
    image: Num[Array, "n width"],
    text: Num[Array, "m text_width"],
    scale: Scalar,
    *,
    valid: Shaped[Array, "valid"] | None = None,
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh | None = None,
    axes: Sequence[str] = BATCH_AXES,
    impl: str = "auto",
    tile: int = TILE,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Half of the cross entropy over images plus half over texts, labels on the diagonal.

    Args:
      image, text: float [N, D], the whole batch; row i of one belongs to row i of the other. Normalised here in
        float32; matrix products take the inputs' type (bfloat16 stays so) and add up in float32.
      scale: factor on the cosines, exp(logit_scale) in CLIP; differentiable.
      valid: bool [N], False for rows that only fill the batch up: they are neither query nor candidate.
      mesh, axes, impl, tile: see `pair_sweep.plan`. plain is differentiable twice and forwards; the others once,
        backwards.

    Returns:
      (sum over valid items, their number), float32 scalars; divide after summing over micro-batches.

    Raises:
      VtjaxError: inputs of other shapes, or as `pair_sweep.plan`.
    """
    x, y, valid = prepared(image, text, valid)
    how = plan(x.shape[0], impl, mesh, axes, tile)
    scale = jnp.asarray(scale, jnp.float32)
    total = (_plain if how.impl == "plain" else functools.partial(_swept, how))(x, y, scale, valid)
    return total, jnp.sum(valid, dtype=jnp.float32)


def prepared(image: Array, text: Array, valid: Array | None) -> tuple[Array, Array, Array]:
    """Unit rows in the type of the matrix products, and validity bool [N].

    Raises:
      VtjaxError: inputs of other shapes.
    """
    image, text = jnp.asarray(image), jnp.asarray(text)
    if image.ndim != 2 or image.shape != text.shape:
        raise VtjaxError(f"embeddings of shapes {image.shape} and {text.shape}; expected two of one shape [N, D]")
    valid = jnp.ones(image.shape[:1], bool) if valid is None else jnp.asarray(valid, bool)
    if valid.shape != image.shape[:1]:
        raise VtjaxError(f"valid has shape {valid.shape}; expected one entry per row, {image.shape[:1]}")
    dtype = jnp.result_type(image, text)
    return unit(image).astype(dtype), unit(text).astype(dtype), valid


def product(equation: str, a: Array, b: Array) -> Array:
    """einsum in the type of the inputs (float32 in full precision), added up in float32."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.einsum(equation, a, b, precision=precision, preferred_element_type=jnp.float32)


def own_cosines(x: Array, y: Array) -> Array:
    """Cosine of every matching pair, float32 [N]."""
    return jnp.sum(x.astype(jnp.float32) * y.astype(jnp.float32), axis=-1)


def items(x: Array, valid: Array, **more: Any) -> dict[str, Any]:
    """One side of a sweep. `index` tells the matching pair from the others."""
    return {"x": x, "valid": valid, "index": jnp.arange(x.shape[0], dtype=jnp.int32), **more}


def pair_masks(rows: dict[str, Any], columns: dict[str, Any]) -> tuple[Array, Array]:
    """bool [rows, columns]: pairs of two valid items, and matching pairs."""
    valid = rows["valid"][:, None] & columns["valid"][None, :]
    return valid, valid & (rows["index"][:, None] == columns["index"][None, :])


def _plain(x: Array, y: Array, scale: Array, valid: Array) -> Array:
    logits = scale * product("id,jd->ij", x, y)
    lse = [
        jax.nn.logsumexp(jnp.where(jnp.expand_dims(valid, 1 - axis), logits, -jnp.inf), axis=axis) for axis in (1, 0)
    ]
    per_item = 0.5 * (lse[0] + lse[1]) - jnp.diagonal(logits)
    return jnp.sum(jnp.where(valid, per_item, 0.0))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _swept(how: Plan, x: Array, y: Array, scale: Array, valid: Array) -> Array:
    return _forward(how, x, y, scale, valid)[0]


def _forward(how: Plan, x: Array, y: Array, scale: Array, valid: Array) -> tuple[Array, Any]:
    def pair(scale, rows, columns):
        logits = scale * product("id,jd->ij", rows["x"], columns["x"])
        mask, _ = pair_masks(rows, columns)
        return LogSum.of(logits, mask, 1), LogSum.of(logits, mask, 0)

    sums = how.sweep(pair, scale, items(x, valid), items(y, valid))
    own = scale * own_cosines(x, y)
    per_item = 0.5 * (sums[0].log_above(own) + sums[1].log_above(own))
    return jnp.sum(jnp.where(valid, per_item, 0.0)), (x, y, scale, valid, sums)


def _backward(how: Plan, kept: Any, cotangent: Array) -> tuple[Any, ...]:
    x, y, scale, valid, (to_text, to_image) = kept

    def pair(scale, rows, columns):
        """Gradient of the loss with respect to a block of logits, carried on to both sides' embeddings."""
        logits = scale * product("id,jd->ij", rows["x"], columns["x"])
        mask, own = pair_masks(rows, columns)
        shares = 0.5 * (rows["candidates"].share(logits, 1) + columns["candidates"].share(logits, 0))
        # Taken off before rounding to the inputs' type: where the pair is nearly certain, the rest is small.
        grad = (jnp.where(mask, shares, 0.0) - own).astype(rows["x"].dtype)
        return product("ij,jd->id", grad, columns["x"]), product("ij,id->jd", grad, rows["x"])

    by_x, by_y = how.sweep(pair, scale, items(x, valid, candidates=to_text), items(y, valid, candidates=to_image))
    by_scale = jnp.sum(x.astype(jnp.float32) * by_x)
    factor = cotangent * scale
    return (factor * by_x).astype(x.dtype), (factor * by_y).astype(y.dtype), cotangent * by_scale, None


_swept.defvjp(_forward, _backward)
