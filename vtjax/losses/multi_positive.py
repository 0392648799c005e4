"""Contrastive loss of videos with several texts each (GroupViT, arXiv 2202.11094, equations 6 and 7; OV-OAD)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Num

from vtjax.arrays import Array, Scalar
from vtjax.errors import VtjaxError
from vtjax.losses.contrastive import unit

FORMS = ("logsumexp", "mean_log")


def multi_positive_nce(
    video: Num[Array, "..."],
    text: Num[Array, "..."],
    scale: Scalar,
    *,
    form: str = "logsumexp",
    exclude: Bool[Array, "n n texts"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Half of video to texts plus half of texts to video, over a batch of N videos with M texts each.

    Video to texts, over all N M texts: -log of the share of the own texts together ("logsumexp", the paper), or the
    mean over the own texts of -log of the share of each ("mean_log", the released code). Text to video, in both: the
    mean over the M texts of -log of the share of the own video.

    Args:
      video: float [N, D]. text: float [N, M, D]; both are normalised here.
      scale: factor on the cosines; differentiable.
      exclude: bool [N, N, M], (video i, text m of j) that is neither positive nor negative; False for i = j.

    Returns:
      (sum over videos, N), float32 scalars.

    Raises:
      VtjaxError: unknown form, or shapes that do not belong together.
    """
    if form not in FORMS:
        raise VtjaxError(f"multi-positive form {form!r}: one of {', '.join(FORMS)}")
    if video.ndim != 2 or text.ndim != 3 or (text.shape[0], text.shape[2]) != video.shape:
        raise VtjaxError(f"videos {video.shape} and texts {text.shape}; expected [N, D] and [N, M, D]")
    count = video.shape[0]
    # Logits [i, j, m] of video i and text m of item j.
    logits = scale * jnp.einsum("id,jmd->ijm", unit(video), unit(text), precision=jax.lax.Precision.HIGHEST)
    candidates = logits if exclude is None else jnp.where(exclude, -jnp.inf, logits)
    own = jnp.diagonal(logits, axis1=0, axis2=1).T  # [i, m]
    over_texts = jax.nn.logsumexp(candidates, axis=(1, 2))
    positive = jax.nn.logsumexp if form == "logsumexp" else jnp.mean
    to_texts = over_texts - positive(own, axis=1)
    to_video = jnp.mean(jax.nn.logsumexp(candidates, axis=0) - own, axis=1)
    return 0.5 * jnp.sum(to_texts + to_video), jnp.asarray(count, jnp.float32)
