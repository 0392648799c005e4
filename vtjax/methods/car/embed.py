"""Embeddings of motions and texts by a trained model, and what a run keeps open to search with them."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from vtjax.config import Experiment
from vtjax.data.motion.clip import MotionClip
from vtjax.data.motion.store import MotionStore
from vtjax.evals.embed import in_batches
from vtjax.methods.car import data
from vtjax.methods.car.config import CarConfig
from vtjax.methods.car.task import CarObjective
from vtjax.methods.car.text import TextFields, language_model_config, open_text
from vtjax.worlds.drawn import cache_folder

BATCH = 64


class Embedder:
    """Means mu of motions and texts, float32 [N, latent]; similarity is the cosine (TMR, section 3.3)."""

    def __init__(self, objective: CarObjective, normalizer: data.Normalizer, text: TextFields):
        self.config, self.normalizer, self.text = objective.config, normalizer, text
        self._motion = jax.jit(objective.embed_motion)
        self._text = jax.jit(objective.embed_text)

    def motions(self, params: dict, features: Sequence[np.ndarray]) -> np.ndarray:
        """Embeds motions given as features [T, 263], not normalised -> float32 [N, latent]."""

        def batch(rows):
            motion, mask = zip(*(self.normalizer(f) for f in rows), strict=True)
            return {"motion": np.stack(motion), "motion_mask": np.stack(mask)}

        return in_batches(self._motion, params, features, batch, BATCH)

    def texts(
        self, params: dict, texts: Sequence[str], masks_of: Sequence[str] | None = None, keep: bool = False
    ) -> np.ndarray:
        """Embeds texts -> float32 [N, latent].

        Args:
          masks_of: N texts whose token counts are taken for the masks (a quirk of the released code).
          keep: keep the states of a frozen language model in the cache, for texts that will come again.
        """

        def batch(rows):
            sentences, lengths = zip(*rows, strict=True)
            values, mask = self.text(sentences)
            if masks_of is not None:
                mask = self.text(lengths)[1]
            return {f"text_{self.text.kind}": values, "text_mask": mask}

        if keep:
            self.text.ready([*texts, *(masks_of or ())])
        pairs = list(zip(texts, texts if masks_of is None else masks_of, strict=True))
        return in_batches(self._text, params, pairs, batch, BATCH)


def open_embedder(config: CarConfig, assets: pathlib.Path, cache: pathlib.Path | None = None) -> Embedder:
    """Opens the embedder of a run from what training left in its assets folder. cache: as of `TextFields`."""
    normalizer = data.Normalizer.load(assets, config.model.max_frames)
    objective = CarObjective(config, language_model_config(config.text))
    return Embedder(objective, normalizer, open_text(config.text, assets, cache=cache))


class CarModel:
    """What a run keeps open: the embedder, its data, and the embeddings of the motions that were searched.

    Attributes:
      embedder: of the run. cache: folder for worlds, states and prepared motions.
    """

    def __init__(self, experiment: Experiment, work: pathlib.Path):
        self.config: CarConfig = experiment.method
        self.cache = cache_folder(experiment, work)
        self.embedder = open_embedder(self.config, work / "assets", self.cache)
        self._galleries: dict[str, tuple[list[MotionClip], np.ndarray]] = {}

    @functools.cached_property
    def store(self) -> MotionStore:
        """The run's data."""
        return data.open_store(self.config.data, self.cache)

    def clips(self, split: str) -> data.Clips:
        """Clips of a split of the run's data, default its test split."""
        return data.split_clips(self.store, split or self.config.data.test_split)

    def gallery(self, params: dict, store: MotionStore | None, split: str) -> tuple[list[MotionClip], np.ndarray]:
        """Gives clips and their embeddings [N, latent], embedded once: those of `store`, or of a split of the data."""
        key = store.fingerprint if store is not None else f"split {split or self.config.data.test_split}"
        if key not in self._galleries:
            clips = list(store) if store is not None else [clip for _, clip in self.clips(split)]
            self._galleries[key] = clips, self.embedder.motions(params, [clip.features for clip in clips])
        return self._galleries[key]
