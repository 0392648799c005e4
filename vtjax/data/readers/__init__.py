"""Readers, one per published layout. The record below is what readers of bare joints yield."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class RawMotion:
    """A recorded motion before it is mapped, resampled and turned into features.

    key: unique within its source. joints: [T, J, 3] in the file's unit, Y up. fps: of the file. where: file (and key),
    for messages. names: joint names, None when the file has none. captions: sentences, the first is the main one.
    label: the action, equal for motions of the same kind, "" when unknown. sentence: one short clause that tells the
    motion from those of other labels ("a person walks sadly"), "" when none is known.
    """

    key: str
    joints: np.ndarray
    fps: float
    where: str
    names: tuple[str, ...] | None = None
    captions: tuple[str, ...] = ()
    label: str = ""
    sentence: str = ""
