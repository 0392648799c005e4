"""A part of a video, on the clock of the whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from vtjax.data.video.container import VideoError
from vtjax.data.video.timed import Times, Video


class Excerpt(Video):
    """The frames of `video` that are shown from `start` on and before `end`, in seconds.

    Indices count from the excerpt's first frame; times stay those of the whole video. Closing it closes the video.

    Raises:
      VideoError: the video ends before `start`.
    """

    def __init__(self, video: Video, start: float, end: float):
        if start >= video.end or end <= start:
            raise VideoError(video.path, "its annotation lies after its end", f"{start:g} s of {video.end:.2f} s")
        first = int(video.index_at([start])[0])
        count = int(np.searchsorted(video.times, end - 1e-6)) - first
        self.video, self._first = video, first
        self.times = video.times[first : first + max(count, 1)]
        self.start, self.end = float(start), float(min(end, video.end))
        self.fps, self.path = video.fps, video.path

    def close(self) -> None:
        self.video.close()

    @property
    def damage(self) -> str:
        return self.video.damage

    def index_at(self, times: Times) -> np.ndarray:
        """int64, the frames shown at these seconds of the whole video, kept within the excerpt."""
        return np.clip(self.video.index_at(times) - self._first, 0, len(self) - 1)

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        return self.video.frames(np.asarray(indices, np.int64) + self._first)

    def iterate(self, indices: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index, frame in self.video.iterate(int(i) + self._first for i in indices):
            yield index - self._first, frame


def excerpt(video: Video, span: tuple[float, float] | None) -> Video:
    """`video` itself, or its part. Closes the video where that part does not exist."""
    if span is None:
        return video
    try:
        return Excerpt(video, *span)
    except VideoError:
        video.close()
        raise
