"""The one record type every source of human motion yields: readers, the embedded world and stitched clips alike."""

from __future__ import annotations

import dataclasses

import numpy as np

FPS = 20.0  # HumanML3D's rate; every reader resamples to it
FEATURES = 263


@dataclasses.dataclass(frozen=True)
class Caption:
    """One sentence about a clip.

    text: the caption as written. events: its events in chronological order, () when not decomposed yet.
    start, end: the segment it describes, seconds from the clip's first frame; None means the whole clip.
    sequence: a key equal for captions that mean the same events in the same order (gold worlds), "" when unknown.
    index: position among all captions of the motion in its annotation file, the ones left out included; CAR's event
    files are named by it. None when unknown.
    """

    text: str
    events: tuple[str, ...] = ()
    start: float | None = None
    end: float | None = None
    sequence: str = ""
    index: int | None = None


@dataclasses.dataclass(frozen=True)
class MotionClip:
    """A motion with its captions.

    key: unique id. features: float32 [T, 263], not normalised, 20 fps.
    bounds: frame ranges [start, end) of the events in `features`, () when unknown.
    swapped: float32 [T', 263], the same segments stitched in another order by the same code, None when unknown;
    swapped_order: positions of the original events in `swapped`'s order, e.g. (1, 0).
    """

    key: str
    features: np.ndarray
    captions: tuple[Caption, ...]
    bounds: tuple[tuple[int, int], ...] = ()
    swapped: np.ndarray | None = None
    swapped_order: tuple[int, ...] = ()
