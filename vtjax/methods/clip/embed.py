"""Embeddings of clips and texts by a trained model, and what a run keeps open to search with them."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Hashable, Iterable, Sequence

import jax
import numpy as np

from vtjax.config import Experiment
from vtjax.data.video.container import VideoError
from vtjax.data.video.source import ClipSource, VideoHandle
from vtjax.encoders.clip_config import ClipConfig
from vtjax.encoders.image import ImageTransform
from vtjax.encoders.sizes import load_sizes
from vtjax.errors import Problems, VtjaxError
from vtjax.evals.embed import class_means, embed_distinct, in_batches, stacked
from vtjax.methods.clip import data
from vtjax.methods.clip.task import ClipObjective
from vtjax.methods.clip.text import open_tokenizer
from vtjax.text.class_prompts import ClassSet
from vtjax.text.tokenizer import Tokenizer
from vtjax.worlds.drawn import cache_folder

VIDEOS, TEXTS = 32, 64  # batch sizes


@dataclasses.dataclass
class Gallery:
    """N clips that can be read, and what the model makes of them.

    videos, backwards: unit embeddings float32 [N, D], of the clips shown forwards and backwards. left_out: number of
    clips that cannot be read. unread: those of them that this process tried, with reasons.
    """

    rows: data.Rows
    videos: np.ndarray
    backwards: np.ndarray
    left_out: int = 0
    unread: Problems = dataclasses.field(default_factory=Problems)

    @property
    def labels(self) -> np.ndarray:
        """int [N], -1 for clips without."""
        return np.array([row.label for row in self.rows.rows])


class Embedder:
    """Unit embeddings, float32 [N, D]; similarity is the dot product, a cosine (CLIP, section 2.3)."""

    def __init__(self, objective: ClipObjective, tokenizer: Tokenizer):
        config, self.sizes, self.tokenizer = objective.config, objective.sizes, tokenizer
        self.sampler = data.sampler_of(config)
        self.image = ImageTransform(self.sizes.vision.image_size, resize=config.data.resize)
        # What a row holds beside frames and mask comes back with it, so that all processes know it of all rows.
        self._videos = jax.jit(lambda params, batch: (*objective.embed_videos(params, *batch[:2]), *batch[2:]))
        self._texts = jax.jit(objective.embed_texts)

    def frames(self, handle: VideoHandle) -> tuple[np.ndarray, np.ndarray]:
        """Takes what the model sees of a clip: uint8 [T, size, size, 3], mask bool [T]; always the same frames.

        Raises:
          VideoError: the video cannot be read.
        """
        with handle.open() as video:
            picks, mask = self.sampler(video)
            return self.image.pixels(video.frames(picks)), mask

    def gallery(self, params: dict, rows: data.Rows) -> Gallery:
        """Embeds the clips that can be read; no other takes the place of one that cannot, whose text is not its own.

        Raises:
          VtjaxError: none can be read.
        """
        clips = _Clips(self, rows)
        videos, backwards, read = in_batches(self._videos, params, clips, stacked, VIDEOS)
        kept = np.flatnonzero(read)
        if not len(kept):
            raise VtjaxError(f"no video can be read\n{clips.unread.report()}")
        readable = data.Rows(rows.source, [rows.rows[i] for i in kept], rows.log)  # type: ignore[arg-type]
        return Gallery(readable, videos[kept], backwards[kept], len(rows) - len(kept), clips.unread)

    def embed_clips(
        self, params: dict, clips: Iterable[tuple[np.ndarray, np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embeds (frames, mask) pairs as `frames` gives them: two float32 [N, D], shown forwards and backwards."""
        return in_batches(self._videos, params, clips, stacked, VIDEOS)

    def texts(self, params: dict, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts -> float32 [N, D]."""

        def encode(distinct: list[str]) -> np.ndarray:
            ids, _ = self.tokenizer.encode(distinct, self.sizes.text.context_length)
            return in_batches(self._texts, params, list(ids), np.stack, TEXTS)

        return embed_distinct(texts, encode)

    def classes(self, params: dict, classes: ClassSet) -> np.ndarray:
        """Embeds classes -> float32 [C, D], unit: the mean over each class's prompts."""
        rows = self.texts(params, [p for prompts in classes.prompts for p in prompts])
        return class_means(rows, [len(prompts) for prompts in classes.prompts])


class _Clips(Sequence):
    """(frames, mask, whether it could be read) of the clips of a source, each read when it is asked for."""

    def __init__(self, embedder: Embedder, source: ClipSource):
        self._embedder, self._source = embedder, source
        self.unread = Problems()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # type: ignore[override]
        try:
            return *self._embedder.frames(self._source[index]), np.array(True)
        except VideoError as error:
            self.unread.add(error.where, error.reason)
        count, size = self._embedder.sampler.frames, self._embedder.image.size
        return np.zeros((count, size, size, 3), np.uint8), np.ones(count, bool), np.array(False)


def open_embedder(config: ClipConfig, assets: pathlib.Path) -> Embedder:
    """Opens the embedder of a run from what training left in its assets folder."""
    sizes = load_sizes(assets)
    return Embedder(ClipObjective(config, sizes), open_tokenizer(config, sizes, assets))


class ClipModel:
    """What a run keeps open: the embedder, its data, and the embeddings of classes and of the clips searched."""

    def __init__(self, experiment: Experiment, work: pathlib.Path):
        self.config: ClipConfig = experiment.method
        self.embedder = open_embedder(self.config, work / "assets")
        self._cache = cache_folder(experiment, work)
        self._galleries: dict[Hashable, Gallery] = {}
        self._classes: np.ndarray | None = None

    @functools.cached_property
    def data(self) -> data.Videos:
        """The run's data."""
        return data.open_videos(self.config, self.embedder.sizes.vision.image_size, self._cache)

    def classes(self, params: dict) -> np.ndarray | None:
        """Embeddings float32 [C, D] of the data's classes, computed once; None where it has none."""
        if self._classes is None and self.data.classes is not None:
            self._classes = self.embedder.classes(params, self.data.classes)
        return self._classes

    def gallery(self, params: dict, split: str = "", videos: str = "", window: float = 0.0) -> Gallery:
        """Gives clips and their embeddings, embedded once as long as the files stay as they are.

        Args:
          params: of the run.
          split: of the run's data, default its test split.
          videos: a file, a folder, a prepared folder or a list to take instead.
          window: seconds; videos that are longer become windows of this length, half overlapping. 0 keeps them whole.
        """
        problems, split = Problems(), split or self.config.data.test_split
        source = data.open_source(videos, problems) if videos else None
        key = split if source is None else (data.state_of(source), window)
        if key not in self._galleries:
            rows = self.data.rows(split) if source is None else data.windows(source, window, problems)
            gallery = self.embedder.gallery(params, rows)
            gallery.unread.items[:0] = problems.items
            self._galleries[key] = gallery
        return self._galleries[key]
