"""What every video has in common, read from a file, a store or memory: frames that appear at times."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

import numpy as np

Times = Sequence[float] | np.ndarray


def nearest_in(times: np.ndarray, wanted: Times) -> np.ndarray:
    """int64, the places in rising `times` that are closest to the wanted ones (the earlier of two)."""
    wanted = np.asarray(wanted, np.float64)
    if len(times) == 1:
        return np.zeros(wanted.shape, np.int64)
    right = np.clip(np.searchsorted(times, wanted), 1, len(times) - 1)
    left = right - 1
    return np.where(times[right] - wanted < wanted - times[left], right, left).astype(np.int64)


class Video(abc.ABC):
    """N frames, or features, with their times; to be used in a `with`.

    times: float64 [N] seconds, when each frame appears, rising. start, end: of the video or excerpt, on the same clock.
    fps: nominal frames per second. path: for messages.
    """

    times: np.ndarray
    start: float
    end: float
    fps: float
    path: str

    def __len__(self) -> int:
        return len(self.times)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    @property
    def damage(self) -> str:
        """What is known to be wrong with it, "" for nothing."""
        return ""

    def close(self) -> None:  # noqa: B027
        """Gives back what the video holds; nothing where that belongs to its source."""

    def index_at(self, times: Times) -> np.ndarray:
        """int64, the last frames at or before these seconds, the first one before it."""
        places = np.searchsorted(self.times, np.asarray(times, np.float64) + 1e-9, side="right") - 1
        return np.clip(places, 0, len(self) - 1).astype(np.int64)

    def index_near(self, times: Times) -> np.ndarray:
        """int64, the frames whose own times are closest to these seconds (the earlier of two)."""
        return nearest_in(self.times, times)

    @abc.abstractmethod
    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, 3], or features [n, ...], in the order asked for."""

    def iterate(self, indices: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index, frame) for rising indices."""
        for index in indices:
            yield int(index), self.frames([index])[0]
