"""InfoNCE between text and motion (or video) with false-negative filtering and chronological negatives.

All similarities are float32 cosines over a temperature. The sums run over the N items of the batch and the weight is
N; reduce once, over the global batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Bool, Float, Num

from vtjax.arrays import Array, Scalar
from vtjax.errors import VtjaxError

SCOPES = ("batch", "own")


def unit(x: Num[Array, "*rows width"]) -> Float[Array, "*rows width"]:
    """x over its Euclidean norm along the last axis, float32; a zero vector stays zero, with zero gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-24))


def cosine_matrix(a: Num[Array, "n width"], b: Num[Array, "m width"]) -> Float[Array, "n m"]:
    """[N, D], [M, D] -> float32 [N, M] cosines, computed in full precision."""
    return jnp.einsum("nd,md->nm", unit(a), unit(b), precision=jax.lax.Precision.HIGHEST)


def paired_cosine(a: Num[Array, "*rows width"], b: Num[Array, "*rows width"]) -> Float[Array, "*rows"]:
    """Cosine along the last axis of two arrays of one shape, float32 [...]."""
    return jnp.sum(unit(a) * unit(b), axis=-1)


def false_negatives(sentence: Num[Array, "n features"], threshold: float) -> Bool[Array, "n n"]:
    """Pairs of different items that mean nearly the same, bool [N, N], False on the diagonal (docs/methods/car.md).

    Args:
      sentence: float [N, E], sentence embeddings (normalised here).
      threshold: on the cosine rescaled to [0, 1] as in TMR, so 0.8 is a cosine of 0.6; exceeded means too similar.
    """
    similar = cosine_matrix(sentence, sentence) > 2.0 * threshold - 1.0
    return similar & ~jnp.eye(sentence.shape[0], dtype=bool)


def _excluded(logits: Array, exclude: Array | None) -> Array:
    return logits if exclude is None else jnp.where(exclude, -jnp.inf, logits)


def info_nce(
    text: Num[Array, "n width"],
    motion: Num[Array, "n width"],
    *,
    temperature: Scalar,
    exclude: Bool[Array, "n n"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Symmetric InfoNCE: half of cross entropy over rows plus half over columns, labels on the diagonal.

    Args:
      text, motion: float [N, D]; row i of one belongs to row i of the other.
      exclude: bool [N, N] (text, motion), pairs left out of both softmaxes; the diagonal must be False.

    Returns:
      (sum over items, N), float32 scalars.
    """
    return chronological_info_nce(text, motion, temperature=temperature, exclude=exclude)


def chronological_info_nce(
    text: Num[Array, "n width"],
    motion: Num[Array, "n width"],
    *,
    temperature: Scalar,
    exclude: Bool[Array, "n n"] | None = None,
    negative_text: Num[Array, "n texts width"] | None = None,
    negative_text_valid: Bool[Array, "n texts"] | None = None,
    negative_text_exclude: Bool[Array, "n texts n"] | None = None,
    negative_motion: Num[Array, "n motions width"] | None = None,
    negative_motion_valid: Bool[Array, "n motions"] | None = None,
    scope: str = "batch",
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """InfoNCE with events in a wrong order as further negatives (CAR, ECCV 2024; docs/methods/car.md, code form).

    A text with shuffled events has no motion of its own, so it is never a query: it only joins the candidates of the
    motion-to-text softmax. The mirror image holds for motions whose segments were swapped (text-to-motion softmax;
    not in the paper). Without negatives this is `info_nce`.

    Args:
      text, motion, exclude: as in `info_nce`; exclude touches the originals only.
      negative_text: float [N, K, D]; negative_text_valid: bool [N, K], False for items with a single event.
      negative_text_exclude: bool [N, K, N], shuffled texts (i, k) that motion j must not be contrasted with, for
        example because they are j's own text.
      negative_motion: float [N, M, D]; negative_motion_valid: bool [N, M].
      scope: "batch" (the released code): every negative is a candidate of every item; "own": of its own item only.

    Returns:
      (sum over items, N), float32 scalars; per item (t2m + m2t) / 2.

    Raises:
      VtjaxError: unknown scope.
    """
    if scope not in SCOPES:
        raise VtjaxError(f"scope={scope!r}: one of {', '.join(SCOPES)}")
    count = text.shape[0]
    logits = _excluded(cosine_matrix(text, motion) / temperature, exclude)
    to_motion, to_text = [logits], [logits.T]
    if negative_text is not None:
        to_text.append(
            _negative_logits(motion, negative_text, negative_text_valid, negative_text_exclude, temperature, scope)
        )
    if negative_motion is not None:
        to_motion.append(_negative_logits(text, negative_motion, negative_motion_valid, None, temperature, scope))
    loss = 0.0
    for candidates in (to_motion, to_text):
        loss += jax.nn.logsumexp(jnp.concatenate(candidates, axis=1), axis=1) - jnp.diagonal(logits)
    return 0.5 * jnp.sum(loss), jnp.asarray(count, jnp.float32)


def _negative_logits(
    query: Array,
    negative: Array,
    valid: Array | None,
    exclude: Array | None,
    temperature: Scalar,
    scope: str,
) -> Array:
    """Logits [N, N * K] (scope batch) or [N, K] (own) of each query's extra candidates, -inf where not one."""
    count, several, _ = negative.shape
    valid = jnp.ones((count, several), bool) if valid is None else valid
    out = jnp.zeros((count, several, count), bool) if exclude is None else exclude
    out = out | ~valid[:, :, None]
    if scope == "own":
        cosine = paired_cosine(jnp.broadcast_to(query[:, None], negative.shape), negative)
        return _excluded(cosine / temperature, jnp.diagonal(out, axis1=0, axis2=2).T)
    cosine = cosine_matrix(query, rearrange(negative, "n k width -> (n k) width"))
    return _excluded(cosine / temperature, rearrange(out, "n k query -> query (n k)"))


def contrastive_accuracy(
    queries: Num[Array, "n width"], items: Num[Array, "n width"], exclude: Bool[Array, "n n"] | None = None
) -> tuple[tuple[Float[Array, ""], Float[Array, ""]], tuple[Float[Array, ""], Float[Array, ""]]]:
    """In-batch retrieval: how often a pair's cosine beats every other of its row, and of its column, strictly.

    Args:
      queries, items: float [N, D]; row i of one belongs to row i of the other.
      exclude: bool [N, N], pairs that are no rivals.

    Returns:
      ((pairs right among the items, N), (pairs right among the queries, N)), float32 scalars.
    """
    cosine = cosine_matrix(queries, items)
    pair = jnp.diagonal(cosine)
    rivals = jnp.where(jnp.eye(len(pair), dtype=bool), -jnp.inf, _excluded(cosine, exclude))
    weight = jnp.asarray(len(pair), jnp.float32)
    row, column = (jnp.sum(pair > jnp.max(rivals, axis=axis), dtype=jnp.float32) for axis in (1, 0))
    return (row, weight), (column, weight)


def chronology_accuracy(
    query: Num[Array, "n width"],
    positive: Num[Array, "n width"],
    negative: Num[Array, "n orders width"],
    valid: Bool[Array, "n orders"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """How often the right order beats the wrong one, strictly: a tie is wrong (docs/methods/car.md).

    Args:
      query, positive: float [N, D]. negative: float [N, K, D], the same item in wrong orders. valid: bool [N, K].

    Returns:
      (number right, number of valid pairs), float32 scalars.
    """
    # One expression for both, so that equal embeddings give equal bits and a tie stays a tie.
    candidates = jnp.concatenate([positive[:, None], negative], axis=1)
    cosine = paired_cosine(jnp.broadcast_to(query[:, None], candidates.shape), candidates)
    right = (cosine[:, :1] > cosine[:, 1:]) & valid
    return jnp.sum(right, dtype=jnp.float32), jnp.sum(valid, dtype=jnp.float32)
