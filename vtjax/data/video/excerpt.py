"""A part of a video, on the clock of the whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from vtjax.data.video.container import VideoError


def nearest_in(times: np.ndarray, wanted: Sequence[float] | np.ndarray) -> np.ndarray:
    """int64, the places in rising `times` that are closest to the wanted ones (the earlier of two)."""
    wanted = np.asarray(wanted, np.float64)
    if len(times) == 1:
        return np.zeros(wanted.shape, np.int64)
    right = np.clip(np.searchsorted(times, wanted), 1, len(times) - 1)
    left = right - 1
    return np.where(times[right] - wanted < wanted - times[left], right, left).astype(np.int64)


class Excerpt:
    """The frames of `video` (a VideoReader or StoredVideo) that are shown from `start` on and before `end`, in seconds.

    Indices count from the excerpt's first frame; times stay those of the whole video. Closing it closes the video.

    Raises:
      VideoError: the video ends before `start`.
    """

    def __init__(self, video, start: float, end: float):
        if start >= video.end or end <= start:
            raise VideoError(video.path, "its annotation lies after its end", f"{start:g} s of {video.end:.2f} s")
        first = int(video.index_at([start])[0])
        count = int(np.searchsorted(video.times, end - 1e-6)) - first
        self.video, self._first = video, first
        self.times = video.times[first : first + max(count, 1)]
        self.start, self.end = float(start), float(min(end, video.end))
        self.fps = video.fps

    def __len__(self) -> int:
        return len(self.times)

    def __enter__(self) -> Excerpt:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        self.video.close()

    @property
    def path(self) -> str:
        """Of the video."""
        return self.video.path

    @property
    def damage(self) -> str:
        """What is known to be wrong with the video, "" for nothing."""
        return self.video.damage

    def index_at(self, times: Sequence[float] | np.ndarray) -> np.ndarray:
        """int64, the frames shown at these seconds of the whole video, kept within the excerpt."""
        return np.clip(self.video.index_at(times) - self._first, 0, len(self) - 1)

    def index_near(self, times: Sequence[float] | np.ndarray) -> np.ndarray:
        """int64, the frames whose own times are closest."""
        return nearest_in(self.times, times)

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, 3], or features [n, ...] of a stored video that holds those."""
        return self.video.frames(np.asarray(indices, np.int64) + self._first)

    def iterate(self, indices: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index, frame) for rising indices."""
        for index, frame in self.video.iterate(int(i) + self._first for i in indices):
            yield index - self._first, frame


def excerpt(video, span: tuple[float, float] | None):
    """`video` itself, or its part. Closes the video where that part does not exist."""
    if span is None:
        return video
    try:
        return Excerpt(video, *span)
    except VideoError:
        video.close()
        raise

