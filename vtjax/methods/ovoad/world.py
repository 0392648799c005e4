"""Untrimmed streams of the workshop, one folder a split: drawn once, then read through a memory map.

frames.npy  uint8 [streams, frames, size, size, 3]
meta.json   settings, and per stream its segments: verb, frames, captions
"""

from __future__ import annotations

import functools
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vtjax.errors import VtjaxError
from vtjax.methods.ovoad.config import OvoadDataConfig
from vtjax.worlds.drawn import draw_folder
from vtjax.worlds.workshop import WORKSHOP_VERSION, Workshop
from vtjax.worlds.workshop_types import Settings
from vtjax.worlds.workshop_verbs import LABEL

SPLITS = ("train", "val", "test", "zero_shot", "everything")
_CHUNK = 4  # streams that a process draws at once
_FEW = 12  # streams up to which starting processes costs more than it saves


class WorkshopStreams:
    """A drawn folder. items: what meta.json says of each stream.

    Raises:
      VtjaxError: a folder that `draw_streams` did not finish.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        try:
            self.meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise VtjaxError(f"{folder}: not a folder of drawn streams ({error}); remove it") from error
        self.items: list[dict[str, Any]] = self.meta["streams"]
        self.fingerprint: str = self.meta["digest"]

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k != "frames"}

    @functools.cached_property
    def frames(self) -> np.ndarray:
        """uint8 [streams, frames, size, size, 3]."""
        return np.load(self.folder / "frames.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.items)


def world_streams(config: OvoadDataConfig, split: str, size: int, cache: pathlib.Path) -> WorkshopStreams:
    """The streams of a split, drawn on first use into `cache`; size: pixels."""
    sizes = {"train": config.world_train, "val": config.val_size}
    identity = {
        "version": WORKSHOP_VERSION, "seed": config.world_seed, "split": split, "size": size, "fps": config.fps,
        "count": sizes.get(split, config.world_test),
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    folder = cache / f"workshop-streams-{digest[:16]}"
    if not (folder / "meta.json").is_file():
        draw_streams(folder, {**identity, "digest": digest})
    return WorkshopStreams(folder)


def draw_streams(folder: pathlib.Path, identity: dict[str, Any]) -> None:
    """Draws every stream and moves the finished folder to its place at once; of two runs that do so one is kept."""
    count, size = identity["count"], identity["size"]
    draw_folder(
        folder,
        (count, round(Settings().stream_seconds * identity["fps"]), size, size, 3),
        [range(first, min(first + _CHUNK, count)) for first in range(0, count, _CHUNK)],
        functools.partial(_draw, identity),
        lambda items: {**identity, "streams": items},
        name=f"workshop ({identity['split']})", unit="stream", alone=_FEW,
    )  # fmt: skip


def _draw(identity: dict[str, Any], path: pathlib.Path, indices: Sequence[int]) -> list[dict[str, Any]]:
    """Draws streams into their rows of the array at `path`; what meta.json keeps of each."""
    frames = np.load(path, mmap_mode="r+")
    world = Workshop(identity["seed"], identity["size"], identity["split"], Settings(fps=identity["fps"]))
    items = []
    for index in indices:
        stream = world.stream(index)
        frames[index] = stream.frames
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
        items.append({"key": f"{identity['split']}-{index:05d}", "segments": segments})
    frames.flush()
    return items
