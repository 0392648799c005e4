"""Embeddings of motions and texts by a trained model, in batches of one static shape."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtjax.evals.embed import in_batches
from vtjax.methods.car import task
from vtjax.methods.car.config import CarConfig
from vtjax.methods.car.data import Normalizer
from vtjax.methods.car.text import TextFields, language_model_config, open_text

BATCH = 64


class Embedder:
    """mu of motions and texts (car.md 2.3): float32 [N, latent]; similarity is the cosine."""

    def __init__(self, config: CarConfig, normalizer: Normalizer, text: TextFields, dtype: Any = jnp.float32):
        self.config, self.normalizer, self.text = config, normalizer, text
        language_model = language_model_config(config.text)
        common = {"language_model": language_model, "dtype": dtype}
        self._motion = jax.jit(lambda params, batch: task.embed_motion(config, params, batch, **common))
        self._text = jax.jit(lambda params, batch: task.embed_text(config, params, batch, **common))

    def motions(self, params: dict, features: Sequence[np.ndarray]) -> np.ndarray:
        """Motions as features [T, 263], not normalised -> float32 [N, latent]."""

        def batch(rows):
            motion, mask = zip(*(self.normalizer(f) for f in rows), strict=True)
            return {"motion": np.stack(motion), "motion_mask": np.stack(mask)}

        return in_batches(self._motion, params, features, batch, BATCH)

    def texts(self, params: dict, texts: Sequence[str], masks_of: Sequence[str] | None = None) -> np.ndarray:
        """Texts -> float32 [N, latent]. masks_of: N texts whose token counts are taken for the masks (quirk 3.8.5)."""

        def batch(rows):
            own, lengths = zip(*rows, strict=True)
            values, mask = self.text(own)
            if masks_of is not None:
                mask = self.text(lengths)[1]
            return {f"text_{self.text.kind}": values, "text_mask": mask}

        self.text.ready([*texts, *(masks_of or ())])
        pairs = list(zip(texts, texts if masks_of is None else masks_of, strict=True))
        return in_batches(self._text, params, pairs, batch, BATCH)


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines [N, M] of rows [N, D] and [M, D]."""
    unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)  # noqa: E731
    return unit(a) @ unit(b).T


def open_embedder(config: CarConfig, assets: pathlib.Path, cache: pathlib.Path | None = None) -> Embedder:
    """The embedder of a run from what training left in its assets folder. cache: as of `TextFields`."""
    normalizer = Normalizer.load(assets, config.model.max_frames)
    return Embedder(config, normalizer, open_text(config.text, assets, cache=cache))
