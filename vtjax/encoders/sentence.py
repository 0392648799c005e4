"""Embeds sentences at unit norm, for filtering false negatives and for thresholded retrieval protocols."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vtjax.encoders.frozen_text import FrozenTextEncoder
from vtjax.errors import VtjaxError
from vtjax.text.tokenizer import check_texts, stable_hash, words
from vtjax.weights.files import read_json
from vtjax.weights.hub import local_folder

_POOLING = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}


class SentenceEncoder:
    """A published sentence-transformers model (all-mpnet-base-v2, all-MiniLM-L6-v2): encoder, pooling, unit norm.

    The result is of unit norm whether or not the model says Normalize, which leaves its cosines as they are.

    Args:
      folder_or_hub_id: the sentence-transformers layout; a plain encoder without modules.json is mean pooled.
      length: tokens of a text, default the model's own.

    Raises:
      VtjaxError: the encoder cannot be loaded, or has a module or a pooling that is not supported.
    """

    def __init__(self, folder_or_hub_id: str | os.PathLike[str], length: int | None = None):
        folder = local_folder(folder_or_hub_id)
        self.pooling = "mean"
        if (folder / "modules.json").is_file():
            for module in read_json(folder / "modules.json"):
                kind = module["type"].rsplit(".", 1)[-1]
                if kind == "Pooling":
                    self.pooling = _pooling(folder / module["path"] / "config.json")
                elif kind not in ("Transformer", "Normalize"):
                    raise VtjaxError(f"{folder}/modules.json: module {kind!r}; known: Transformer, Pooling, Normalize")
        path = folder / "sentence_bert_config.json"
        settings = read_json(path) if path.is_file() else {}
        self._lower = bool(settings.get("do_lower_case"))
        self.encoder = FrozenTextEncoder(folder, length or settings.get("max_seq_length") or 128)
        self.dim = self.encoder.width

    @functools.cached_property
    def _embed(self) -> Callable[..., jax.Array]:
        model, pooling = self.encoder.model, self.pooling

        def embed(params, batch):
            pooled = pool(model.apply({"params": params}, *batch), batch[1], pooling)
            return pooled / jnp.maximum(jnp.linalg.norm(pooled, axis=-1, keepdims=True), 1e-12)

        return jax.jit(embed)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts: float32 [N, dim], unit norm.

        Raises:
          VtjaxError: an empty text.
        """
        texts = check_texts(texts)
        if self._lower:
            texts = [text.lower() for text in texts]
        out = np.zeros((len(texts), self.dim), np.float32)
        for rows, embedded, _ in self.encoder.batches(texts, self._embed):
            out[rows] = embedded
        return out


def pool(states: jax.Array, mask: jax.Array, how: str = "mean") -> jax.Array:
    """Pools states [B, L, D] over tokens with mask bool [B, L]: float32 [B, D]; how: "mean", "cls" (first) or "max"."""
    states = states.astype(jnp.float32)
    if how == "cls":
        return states[:, 0]
    if how == "max":
        return jnp.max(jnp.where(mask[..., None], states, -jnp.inf), axis=1)
    weights = mask.astype(jnp.float32)[..., None]
    return jnp.sum(states * weights, axis=1) / jnp.maximum(jnp.sum(weights, axis=1), 1)


class HashedSentenceEncoder:
    """Signed feature hashing of word n-grams (Weinberger et al., ICML 2009): needs no model, no training, no files.

    Cosines reflect shared words and, from n = 2 on, their order. Deterministic over processes and versions.
    """

    def __init__(self, dim: int = 256, ngrams: Sequence[int] = (1, 2)):
        if dim < 1 or not ngrams or min(ngrams) < 1:
            raise VtjaxError(f"HashedSentenceEncoder: dim {dim}, ngrams {tuple(ngrams)}; each must be 1 or more")
        self.dim, self.ngrams = dim, tuple(ngrams)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts: float32 [N, dim], unit norm.

        Raises:
          VtjaxError: an empty text.
        """
        out = np.zeros((len(texts), self.dim), np.float32)
        for i, text in enumerate(check_texts(texts)):
            tokens = words(text) or [text.strip()]
            for n in self.ngrams:
                for at in range(len(tokens) - n + 1):
                    value = stable_hash(" ".join(tokens[at : at + n]))
                    out[i, (value >> 1) % self.dim] += 1.0 if value & 1 else -1.0
            if not out[i].any():  # grams of opposite sign met in every bucket, or all n-grams are longer than the text
                out[i, stable_hash(" ".join(tokens)) % self.dim] = 1.0
        return out / np.linalg.norm(out, axis=1, keepdims=True)


def gold_embeddings(sequences: Sequence[str], dim: int = 256) -> np.ndarray:
    """Gives each distinct `Caption.sequence` a random direction, always the same one: float32 [N, dim], unit norm.

    Equal sequences have cosine 1, different ones about N(0, 1 / dim): with 256 dimensions, below 0.6 for certain.

    Raises:
      VtjaxError: a sequence is "", that is, unknown.
    """
    if "" in sequences:
        at = list(sequences).index("")
        raise VtjaxError(f"gold_embeddings: sequence {at} is unknown (\"\"); only gold worlds have them")
    rows = {s: np.random.default_rng(stable_hash(s)).standard_normal(dim) for s in dict.fromkeys(sequences)}
    out = np.array([rows[s] for s in sequences], np.float64).reshape(len(sequences), dim)
    return (out / np.linalg.norm(out, axis=1, keepdims=True)).astype(np.float32)


def _pooling(path: pathlib.Path) -> str:
    chosen = [name for name, on in read_json(path).items() if name.startswith("pooling_mode") and on is True]
    if len(chosen) != 1 or chosen[0] not in _POOLING:
        raise VtjaxError(f"{path}: pooling {chosen}; expected exactly one of {', '.join(_POOLING)}")
    return _POOLING[chosen[0]]
