"""Embeddings of clips and texts by a trained model, in batches of one static shape."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtjax.data.video.container import VideoError
from vtjax.data.video.source import ClipSource, VideoHandle
from vtjax.encoders.clip_config import ClipConfig
from vtjax.encoders.image import ImageTransform
from vtjax.encoders.sizes import load_sizes
from vtjax.errors import Problems, VtjaxError
from vtjax.evals.embed import in_batches, stacked
from vtjax.methods.clip import task
from vtjax.methods.clip.data import sampler_of
from vtjax.methods.clip.text import open_tokenizer
from vtjax.nn.clip import ClipConfig as Sizes
from vtjax.text.class_prompts import ClassSet
from vtjax.text.tokenizer import Tokenizer

VIDEOS, TEXTS = 32, 64  # batch sizes


class Embedder:
    """Unit embeddings, float32 [N, D]; similarity is the dot product, a cosine."""

    def __init__(self, config: ClipConfig, sizes: Sizes, tokenizer: Tokenizer, dtype: Any = jnp.float32):
        self.config, self.sizes, self.tokenizer = config, sizes, tokenizer
        self.sampler = sampler_of(config)
        self.image = ImageTransform(sizes.vision.image_size, resize=config.data.resize)
        self._videos = jax.jit(lambda params, batch: task.embed_videos(config, sizes, params, *batch, dtype=dtype))
        self._checked = jax.jit(lambda params, batch: (*self._videos(params, batch[:-1]), batch[-1]))
        self._texts = jax.jit(lambda params, batch: task.embed_texts(config, sizes, params, *batch, dtype=dtype))

    def frames(self, handle: VideoHandle) -> tuple[np.ndarray, np.ndarray]:
        """What the model sees of a clip: uint8 [T, size, size, 3], mask bool [T]; always the same frames.

        Raises:
          VideoError: the video cannot be read.
        """
        with handle.open() as video:
            picks, mask = self.sampler(video)
            return self.image.pixels(video.frames(picks)), mask

    def videos(
        self, params: dict, source: ClipSource, bad: Callable[[VideoError], None]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The K clips of a source that can be read, and the same shown backwards: two float32 [K, D]; which they are:
        int [K]. `bad` is told of every other one: another in its place would be judged by a text that is not its own.

        Raises:
          VtjaxError: none can be read.
        """
        clips = _Clips(self, source, bad)
        videos, backwards, read = in_batches(self._checked, params, clips, stacked, VIDEOS)
        kept = np.flatnonzero(read)
        if not len(kept):
            raise VtjaxError(f"no video can be read\n{clips.failed.report()}")
        return videos[kept], backwards[kept], kept

    def embed_clips(
        self, params: dict, clips: Iterable[tuple[np.ndarray, np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same of (frames, mask) pairs as `frames` gives them."""
        return in_batches(self._videos, params, clips, stacked, VIDEOS)

    def texts(self, params: dict, texts: Sequence[str]) -> np.ndarray:
        """Texts -> float32 [N, D]."""
        distinct = list(dict.fromkeys(texts))
        ids, _ = self.tokenizer.encode(distinct, self.sizes.text.context_length)
        rows = in_batches(self._texts, params, [(row,) for row in ids], stacked, TEXTS)
        place = {text: i for i, text in enumerate(distinct)}
        return rows[[place[text] for text in texts]]

    def classes(self, params: dict, classes: ClassSet) -> np.ndarray:
        """float32 [C, D], unit: the mean over each class's prompts."""
        rows = self.texts(params, [p for prompts in classes.prompts for p in prompts])
        ends = np.cumsum([len(prompts) for prompts in classes.prompts])
        means = np.stack([part.mean(axis=0) for part in np.split(rows, ends[:-1])])
        return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)


class _Clips(Sequence):
    """(frames, mask, whether it could be read) of the clips of a source, each read when it is asked for."""

    def __init__(self, embedder: Embedder, source: ClipSource, bad: Callable[[VideoError], None]):
        self._embedder, self._source, self._bad = embedder, source, bad
        self.failed = Problems()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        try:
            return *self._embedder.frames(self._source[index]), np.array(True)
        except VideoError as error:
            self._bad(error)
            self.failed.add(error.where, error.reason)
        count, size = self._embedder.config.model.frames, self._embedder.sizes.vision.image_size
        return np.zeros((count, size, size, 3), np.uint8), np.ones(count, bool), np.array(False)


def open_embedder(config: ClipConfig, assets: pathlib.Path) -> Embedder:
    """The embedder of a run from what training left in its assets folder."""
    sizes = load_sizes(assets)
    return Embedder(config, sizes, open_tokenizer(config, sizes, assets))
