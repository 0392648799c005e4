"""Cross entropy of the next token, without the logits of a whole sequence at once."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Bool, Float, Int

from vtjax.arrays import Array

CHUNK = 256  # positions whose logits are formed at once


def next_token_loss(
    logits: Callable[[Array], Array],
    hidden: Float[Array, "batch tokens width"],
    ids: Int[Array, "batch tokens"],
    counted: Bool[Array, "batch tokens"],
    chunk: int = CHUNK,
) -> tuple[tuple[Float[Array, ""], Float[Array, ""]], tuple[Float[Array, ""], Float[Array, ""]]]:
    """-log p(token t | tokens before t), summed over the counted tokens.

    Args:
      logits: states [B, C, width] -> float [B, C, vocab]. Called on `chunk` positions at a time, again in the backward
        pass, so that memory holds [B, chunk, vocab] and not [B, L, vocab].
      hidden: [B, L, width]; the state at position t - 1 predicts token t.
      ids: int32 [B, L]. counted: bool [B, L], the tokens that are to be predicted; the first one never counts.

    Returns:
      (sum of -log p, tokens) and (tokens that were the likeliest, tokens), float32 scalars.
    """
    batch, length = ids.shape
    size = min(chunk, length)
    targets = jnp.concatenate([ids[:, 1:], jnp.zeros((batch, 1), ids.dtype)], axis=1)
    weights = jnp.concatenate([counted[:, 1:], jnp.zeros((batch, 1), bool)], axis=1)
    missing = -length % size

    def chunks(x: Array) -> Array:
        x = jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2))
        return rearrange(x, "b (n chunk) ... -> n b chunk ...", chunk=size)

    @jax.checkpoint
    def one(states: Array, targets: Array, weights: Array) -> tuple[Array, Array]:
        scores = logits(states).astype(jnp.float32)
        own = jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]
        missed = jax.nn.logsumexp(scores, axis=-1) - own
        hit = jnp.argmax(scores, axis=-1) == targets
        return jnp.sum(jnp.where(weights, missed, 0.0)), jnp.sum(hit & weights, dtype=jnp.float32)

    def step(sums: tuple[Array, Array], part: tuple[Array, ...]) -> tuple[tuple, None]:
        return jax.tree.map(jnp.add, sums, one(*part)), None

    zero = jnp.zeros((), jnp.float32)
    (missed, hits), _ = jax.lax.scan(step, (zero, zero), tuple(map(chunks, (hidden, targets, weights))))
    count = jnp.sum(weights, dtype=jnp.float32)
    return (missed, count), (hits, count)
