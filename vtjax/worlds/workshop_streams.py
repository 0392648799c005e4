"""Untrimmed streams of the workshop, one folder a split: drawn once, then read through a memory map.

frames.npy  uint8 [streams, frames, size, size, 3]
meta.json   settings, and per stream its segments: verb, frames, captions
"""

from __future__ import annotations

import functools
import pathlib

import numpy as np

from vtjax.worlds.drawn import Drawn, Item, drawn
from vtjax.worlds.workshop import WORKSHOP_VERSION, Workshop
from vtjax.worlds.workshop_types import Settings
from vtjax.worlds.workshop_verbs import LABEL

SPLITS = ("train", "val", "test", "zero_shot", "everything")


def world_streams(split: str, count: int, *, seed: int, size: int, fps: float, cache: pathlib.Path) -> Drawn:
    """Opens `count` streams of a split, drawn on first use into `cache`; size: pixels, fps: frames per second."""
    identity = {
        "version": WORKSHOP_VERSION, "seed": seed, "split": split, "size": size, "fps": fps, "count": count,
    }  # fmt: skip
    world = Workshop(seed, size, split, Settings(fps=fps))
    frames = round(world.settings.stream_seconds * fps)
    return drawn(
        cache, "stream", identity, lambda: range(count), functools.partial(_draw, world), (frames, size, size, 3),
        chunk=4, alone=12, label=f"workshop ({split})",
    )  # fmt: skip


def _draw(world: Workshop, index: int) -> tuple[np.ndarray, Item]:
    stream = world.stream(index)
    segments = [
        {
            "verb": s.verb,
            "label": LABEL[s.verb],
            "begin": s.begin,
            "end": s.end,
            "captions": [c.text for c in s.captions],
        }
        for s in stream.segments
    ]
    return stream.frames, {"key": f"{world.split}-{index:05d}", "segments": segments}
