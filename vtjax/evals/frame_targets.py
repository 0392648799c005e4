"""What frames show, as frame-by-frame protocols need it."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class FrameTargets:
    """Per-row classes. targets: [T, C] of zeros and ones, column 0 is the background. classes: the C names.

    fps: rows per second of this very video, None when nothing says it. ambiguous: column of the rows that
    evaluation leaves out, None when there is none.
    """

    targets: np.ndarray
    classes: tuple[str, ...]
    fps: float | None
    ambiguous: int | None = None

    @property
    def times(self) -> np.ndarray:
        """Centre of every row, float64 [T] seconds. Only where fps is known."""
        return (np.arange(len(self.targets)) + 0.5) / self.fps
