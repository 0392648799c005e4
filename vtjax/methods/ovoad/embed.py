"""Scores of frames by a trained model, window by window; streaming (stream.py) must give the same."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtjax.config import Experiment
from vtjax.encoders.frames import FrameEncoder
from vtjax.errors import VtjaxError
from vtjax.evals.embed import in_batches, stacked
from vtjax.losses.contrastive import unit
from vtjax.methods.ovoad import scores, task
from vtjax.methods.ovoad.classes import ClassSet
from vtjax.methods.ovoad.config import OvoadConfig, span_of, window_of
from vtjax.methods.ovoad.data import window_at
from vtjax.methods.ovoad.encoder import encoder_sizes, open_encoder
from vtjax.methods.ovoad.scores import Bank, Scores
from vtjax.nn.clip import ClipConfig as Sizes
from vtjax.text.assets import load_tokenizer
from vtjax.text.tokenizer import Tokenizer

WINDOWS, TEXTS = 32, 64  # batch sizes
TOKENIZER = "tokenizer"  # in a run's assets


@dataclasses.dataclass(frozen=True)
class VideoScores:
    """Of L frames, each as the last of its window; numpy float32. As scores.Scores, without the other frames.

    fused, group, current, clip (or None): [L, C]. actionness: [L]. binding: int32 [L], the group of the frame.
    """

    fused: np.ndarray
    group: np.ndarray
    current: np.ndarray
    clip: np.ndarray | None
    actionness: np.ndarray
    binding: np.ndarray


class _Windows(Sequence):
    """The windows of all frames of videos [L, D], one video after the other."""

    def __init__(self, videos: Sequence[np.ndarray], window: int):
        self._videos, self._window = videos, window
        self._ends = np.cumsum([len(v) for v in videos])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        video = self._videos[number]
        return window_at(video, index - int(self._ends[number]) + len(video), self._window)


class Scorer:
    """A model with its tokenizer, and its encoder where the run has one."""

    def __init__(
        self,
        config: OvoadConfig,
        sizes: Sizes,
        tokenizer: Tokenizer,
        encoder: FrameEncoder | None = None,
        dtype: Any = jnp.float32,
    ):
        if config.fusion.clip and encoder is None:
            raise VtjaxError(
                f"config.method.fusion.clip={config.fusion.clip}: the encoder's own scores need "
                "config.method.encoder.weights"
            )
        self.config, self.sizes, self.tokenizer, self.encoder, self.dtype = config, sizes, tokenizer, encoder, dtype
        self.length = task.text_length(config, sizes)
        self.window = window_of(config.model)
        self._texts = jax.jit(self._encode_texts)
        self._windows = jax.jit(self.score)
        self._banked = jax.jit(lambda given, batch: self.score(given[0], *batch, given[1]))

    def _encode_texts(self, params: dict, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        return task.encode_text(self.config, self.sizes, params, ids, dtype=self.dtype)

    def texts(self, params: dict, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """float32 joint [M, E] and current [M, F], not normalised."""
        ids, _ = self.tokenizer.encode(list(texts), self.length)
        return in_batches(self._texts, params, list(ids), np.stack, TEXTS)

    def bank(self, params: dict, classes: ClassSet, capacity: int = 0) -> Bank:
        """The classes' embeddings, filled up to `capacity` classes that are not valid.

        Raises:
          VtjaxError: more classes than that.
        """
        count = len(classes)
        capacity = capacity or count
        if count > capacity:
            raise VtjaxError(f"{count} classes, the background included, exceed the {capacity} that there is room for")
        flat = [p for prompts in classes.prompts for p in prompts]
        ends = np.cumsum([len(prompts) for prompts in classes.prompts])[:-1]
        means = lambda rows: np.stack([part.mean(axis=0) for part in np.split(rows, ends)])  # noqa: E731
        joint, current = map(means, self.texts(params, flat))
        room = lambda x: np.concatenate([x, np.zeros((capacity - count, *x.shape[1:]), x.dtype)])  # noqa: E731
        clip = None if self.encoder is None else room(self.encoder.classes(classes.prompts))
        places = np.arange(capacity)
        return Bank(room(np.asarray(unit(joint))), room(current), places < count, places == 0, clip)

    def score(self, params: dict, features: jax.Array, valid: jax.Array, bank: Bank) -> Scores:
        """Of the last frames of windows float [B, T, D], bool [B, T]; pure."""
        encoded = task.encode_window(self.config, self.sizes, params, features, valid, dtype=self.dtype)
        return scores.frame_scores(self.config, params, encoded, bank, self.encoder_scores(features, valid, bank))

    def encoder_scores(self, features: jax.Array, valid: jax.Array, bank: Bank) -> jax.Array | None:
        """The encoder's own zero-shot probabilities [B, C], their mean over each window; None without an encoder."""
        if bank.clip is None or self.encoder is None:
            return None
        span = span_of(self.config.model)
        own = scores.zero_shot(
            features[:, -span:], self.encoder.projection, bank.clip, self.encoder.scale, bank.valid,
            self.config.fusion.clip_form,
        )  # fmt: skip
        return scores.window_mean(own, valid[:, -span:])

    def windows(self, params: dict, features: np.ndarray, valid: np.ndarray, bank: Bank) -> Scores:
        """`score`, compiled."""
        return self._windows(params, features, valid, bank)

    def video(self, params: dict, features: np.ndarray, bank: Bank) -> VideoScores:
        """Every frame of a video, features [L, D]; the first ones have windows that begin before it.

        Raises:
          VtjaxError: no frame.
        """
        if not len(features):
            raise VtjaxError("a video without frames cannot be scored")
        found = self.over_windows(self._banked, params, bank, [features])
        return VideoScores(
            found.fused, found.group, found.current, found.clip, found.actionness[:, -1], found.binding[:, -1]
        )

    def over_windows(self, function: Callable, params: dict, bank: Bank, videos: Sequence[np.ndarray]) -> Any:
        """function((params, bank), (features [B, T, D], valid [B, T])), jitted, of every frame of videos [L, D]: a tree
        of numpy arrays with all frames of all videos in order, shared out among processes (evals/embed.py)."""
        return in_batches(function, (params, bank), _Windows(videos, self.window), stacked, WINDOWS)


def open_scorer(experiment: Experiment, work: pathlib.Path, dtype: Any = None) -> Scorer:
    """The scorer of a run from what training left in its work directory.

    Raises:
      VtjaxError: no tokenizer there, or an encoder that cannot be opened.
    """
    from vtjax.training.precision import compute_dtype

    dtype = compute_dtype(experiment) if dtype is None else dtype
    folder = work / "assets" / TOKENIZER
    if not folder.is_dir():
        raise VtjaxError(f"{folder}: missing; vtjax.train writes it at the start of the stage `train`")
    encoder = open_encoder(experiment, work, dtype)
    config = experiment.method
    sizes = encoder.sizes if encoder is not None else encoder_sizes(config)
    return Scorer(config, sizes, load_tokenizer(folder), encoder, dtype)
