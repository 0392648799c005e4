"""Scores of frames by a trained model, window by window (streaming must give the same), and what a run keeps open."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtjax.config import Experiment
from vtjax.encoders.frames import FrameEncoder
from vtjax.errors import VtjaxError
from vtjax.evals.embed import class_means, in_batches, stacked
from vtjax.losses.contrastive import unit
from vtjax.methods.ovoad import data, scores
from vtjax.methods.ovoad.classes import ClassSet, named_classes, world_classes
from vtjax.methods.ovoad.config import span_of
from vtjax.methods.ovoad.encoder import encoder_sizes, open_encoder
from vtjax.methods.ovoad.scores import Bank, Scores
from vtjax.methods.ovoad.task import OvoadObjective
from vtjax.text.assets import kept_tokenizer
from vtjax.text.tokenizer import Tokenizer
from vtjax.training.precision import compute_dtype

WINDOWS, TEXTS = 32, 64  # batch sizes


class _Windows(Sequence):
    """The windows of all frames of videos [L, D], one video after the other."""

    def __init__(self, videos: Sequence[np.ndarray], window: int):
        self._videos, self._window = videos, window
        self._ends = np.cumsum([len(v) for v in videos])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[override]
        number = int(np.searchsorted(self._ends, index, side="right"))
        video = self._videos[number]
        return data.window_at(video, index - int(self._ends[number]) + len(video), self._window)


class Scorer:
    """A model with its tokenizer, and its encoder where the run has one."""

    def __init__(self, objective: OvoadObjective, tokenizer: Tokenizer, encoder: FrameEncoder | None = None):
        """Takes the parts.

        Raises:
          VtjaxError: the fusion needs an encoder and there is none.
        """
        self.config, self.objective = objective.config, objective
        if self.config.fusion.clip and encoder is None:
            raise VtjaxError(
                f"config.method.fusion.clip={self.config.fusion.clip}: the encoder's own scores need "
                "config.method.encoder.weights"
            )
        self.tokenizer, self.encoder = tokenizer, encoder
        self._texts = jax.jit(objective.encode_text)
        self._banked = jax.jit(lambda given, batch: self.score(given[0], batch[0], batch[1], given[1]))

    def texts(self, params: dict, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Embeds texts: float32 joint [M, E] and current [M, F], not normalised."""
        ids, _ = self.tokenizer.encode(list(texts), self.objective.text_length)
        return in_batches(self._texts, params, list(ids), np.stack, TEXTS)

    def bank(self, params: dict, classes: ClassSet, capacity: int = 0) -> Bank:
        """Embeds classes, filled up to `capacity` classes that are not valid.

        Raises:
          VtjaxError: more classes than that.
        """
        count = len(classes)
        capacity = capacity or count
        if count > capacity:
            raise VtjaxError(f"{count} classes, the background included, exceed the {capacity} that there is room for")
        rows = self.texts(params, [prompt for prompts in classes.prompts for prompt in prompts])
        counts = [len(prompts) for prompts in classes.prompts]
        joint, current = (class_means(x, counts, normalise=False) for x in rows)
        room = lambda x: np.concatenate([x, np.zeros((capacity - count, *x.shape[1:]), x.dtype)])
        clip = None if self.encoder is None else room(self.encoder.classes(classes.prompts))
        places = np.arange(capacity)
        parts: list[Any] = [room(np.asarray(unit(joint))), room(current), places < count, places == 0, clip]
        return Bank(*parts)

    def score(self, params: dict, features: jax.Array, valid: jax.Array, bank: Bank) -> Scores:
        """Scores the last frames of windows float [B, T, D], bool [B, T]; pure."""
        encoded = self.objective.encode_window(params, features, valid)
        clip = self.encoder_scores(features, valid, bank)
        return scores.frame_scores(self.objective, params, encoded, bank, clip)

    def encoder_scores(self, features: jax.Array, valid: jax.Array, bank: Bank) -> jax.Array | None:
        """The encoder's own zero-shot probabilities [B, C], their mean over each window; None without an encoder."""
        if bank.clip is None or self.encoder is None:
            return None
        span = span_of(self.config.model)
        probabilities = scores.zero_shot(
            features[:, -span:], self.encoder.projection, bank.clip, self.encoder.scale, bank.valid,
            self.config.fusion.clip_form,
        )  # fmt: skip
        return scores.window_mean(probabilities, valid[:, -span:])

    def video(self, params: dict, features: np.ndarray, bank: Bank) -> Scores:
        """Scores of every frame of a video, features [L, D]; the first ones have windows that begin before it.

        Raises:
          VtjaxError: no frame.
        """
        if not len(features):
            raise VtjaxError("a video without frames cannot be scored")
        return self.over_windows(self._banked, params, bank, [features])

    def over_windows(self, function: Callable, params: dict, banks: Any, videos: Sequence[np.ndarray]) -> Any:
        """Computes function((params, banks), (features [B, T, D], valid [B, T])) of every frame of videos.

        Args:
          function: jitted; every array it returns has the batch as its first dimension.
          params: of the model.
          banks: a Bank, or any tree of them.
          videos: features [L, D] of each.

        Returns:
          A tree of numpy arrays with all frames of all videos in order, shared out among processes (evals/embed.py).
        """
        return in_batches(function, (params, banks), _Windows(videos, self.objective.window), stacked, WINDOWS)


def open_scorer(experiment: Experiment, work: pathlib.Path, dtype: Any = None) -> Scorer:
    """Opens the scorer of a run from what training left in its work directory. dtype: default that of the run.

    Raises:
      VtjaxError: no tokenizer there, or an encoder that cannot be opened.
    """
    dtype = compute_dtype(experiment) if dtype is None else dtype
    tokenizer = kept_tokenizer(work / "assets")
    encoder = open_encoder(experiment, work, dtype)
    sizes = encoder.sizes if encoder is not None else encoder_sizes(experiment.method)
    return Scorer(OvoadObjective(experiment.method, sizes, dtype), tokenizer, encoder)


class Opened:
    """What a run keeps open: its scorer, and the splits of its data, each opened when it is first needed."""

    def __init__(self, experiment: Experiment, work: pathlib.Path):
        self.config, self._experiment, self._work = experiment.method, experiment, work
        self._scorers: dict[str, Scorer] = {}
        self._splits: dict[str, tuple[list[data.FeatureVideo], ClassSet]] = {}

    def scorer_in(self, dtype: Any) -> Scorer:
        """Gives the scorer with matmul inputs of a type, "" or None for that of the run.

        Raises:
          VtjaxError: no tokenizer in the work directory, or an encoder that cannot be opened.
        """
        chosen = jnp.dtype(dtype) if dtype else None
        name = chosen.name if chosen is not None else ""
        if name not in self._scorers:
            self._scorers[name] = open_scorer(self._experiment, self._work, chosen)
        return self._scorers[name]

    @property
    def scorer(self) -> Scorer:
        """The scorer of the run."""
        return self.scorer_in("")

    def split(self, name: str) -> tuple[list[data.FeatureVideo], ClassSet]:
        """Gives the videos of a split of the run's data and the classes that their labels count in.

        Raises:
          MissingSplit: there is no such split.
          VtjaxError: data that cannot be used.
        """
        if name not in self._splits:
            self._splits[name] = data.open_split(self._experiment, self._work, name, self.scorer.encoder)[:2]
        return self._splits[name]

    @functools.cached_property
    def classes(self) -> ClassSet:
        """The classes of the run's own data.

        Raises:
          VtjaxError: it has none.
        """
        if self.config.data.source == "world":
            return world_classes(self.config)
        from vtjax.data.video.store import VideoStore

        names = [name for name in VideoStore(self.config.data.source).classes if name]
        if not names:
            raise VtjaxError(
                f"{self.config.data.source}: the run's data has no class names; name the classes to look for"
            )
        return named_classes(names, self.config)
