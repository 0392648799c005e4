"""Pairwise sigmoid loss of SigLIP (Zhai et al., arXiv 2303.15343, equation in section 3.2) over a global batch.

Plain, gather and ring as in `vtjax.losses.distributed_contrastive`; a pair needs nothing of the other pairs, so the
forward pass keeps the embeddings alone.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Num, Shaped

from vtjax.arrays import Array, Scalar
from vtjax.losses.distributed_contrastive import items, own_cosines, pair_masks, prepared, product
from vtjax.losses.pair_sweep import TILE, Plan, plan
from vtjax.sharding.mesh import BATCH_AXES

SCALE_INIT, BIAS_INIT = 10.0, -10.0  # the paper's: exp(log 10), so that nearly all pairs start as surely unmatched


def sigmoid_contrastive(
    image: Num[Array, "n width"],
    text: Num[Array, "m text_width"],
    scale: Scalar,
    bias: Scalar,
    *,
    valid: Shaped[Array, "valid"] | None = None,
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh | None = None,
    axes: Sequence[str] = BATCH_AXES,
    impl: str = "auto",
    tile: int = TILE,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """-log sigmoid(z (scale * cosine + bias)) over all pairs, z = 1 for matching ones and -1 for the others.

    Args:
      image, text, valid, mesh, axes, impl, tile: as `distributed_contrastive.clip_info_nce`.
      scale, bias: differentiable scalars; the paper's initial ones are `SCALE_INIT` and `BIAS_INIT`.

    Returns:
      (sum over pairs of valid items, number of valid items), float32 scalars: the paper divides by items, not pairs.

    Raises:
      VtjaxError: as `clip_info_nce`.
    """
    x, y, valid = prepared(image, text, valid)
    how = plan(x.shape[0], impl, mesh, axes, tile)
    scalars = jnp.asarray(scale, jnp.float32), jnp.asarray(bias, jnp.float32)
    total = (_plain if how.impl == "plain" else functools.partial(_swept, how))(x, y, scalars, valid)
    return total, jnp.sum(valid, dtype=jnp.float32)


def _plain(x: Array, y: Array, scalars: tuple[Array, Array], valid: Array) -> Array:
    scale, bias = scalars
    logits = scale * product("id,jd->ij", x, y) + bias
    sign = 2.0 * jnp.eye(x.shape[0]) - 1.0
    losses = -jax.nn.log_sigmoid(sign * logits)
    return jnp.sum(jnp.where(valid[:, None] & valid[None, :], losses, 0.0))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _swept(how: Plan, x: Array, y: Array, scalars: tuple[Array, Array], valid: Array) -> Array:
    return _forward(how, x, y, scalars, valid)[0]


def _logits(scalars: Any, rows: dict, columns: dict) -> Array:
    return scalars[0] * product("id,jd->ij", rows["x"], columns["x"]) + scalars[1]


def _forward(how: Plan, x: Array, y: Array, scalars: Any, valid: Array) -> tuple[Array, Any]:
    def pair(scalars, rows, columns):
        mask, _ = pair_masks(rows, columns)
        return jnp.sum(jnp.where(mask, jax.nn.softplus(_logits(scalars, rows, columns)), 0.0), axis=1), ()

    # -log sigmoid(l) = softplus(l) - l for matching pairs, softplus(l) for the others.
    as_unmatched, _ = how.sweep(pair, scalars, items(x, valid), items(y, valid))
    own = scalars[0] * own_cosines(x, y) + scalars[1]
    return jnp.sum(jnp.where(valid, as_unmatched - own, 0.0)), (x, y, scalars, valid)


def _backward(how: Plan, kept: Any, cotangent: Array) -> tuple[Any, ...]:
    x, y, scalars, valid = kept

    def pair(scalars, rows, columns):
        mask, own = pair_masks(rows, columns)
        grad = jnp.where(mask, jax.nn.sigmoid(_logits(scalars, rows, columns)), 0.0) - own
        low = grad.astype(rows["x"].dtype)
        to_rows = {"x": product("ij,jd->id", low, columns["x"]), "bias": jnp.sum(grad, axis=1)}
        return to_rows, product("ij,id->jd", low, rows["x"])

    by_x, by_y = how.sweep(pair, scalars, items(x, valid), items(y, valid))
    by_scale, by_bias = jnp.sum(x.astype(jnp.float32) * by_x["x"]), jnp.sum(by_x["bias"])
    factor = cotangent * scalars[0]
    grads = (factor * by_x["x"]).astype(x.dtype), (factor * by_y).astype(y.dtype)
    return *grads, (cotangent * by_scale, cotangent * by_bias), None


_swept.defvjp(_forward, _backward)
