"""The workshop's trimmed clips as a source of videos: drawn once into a folder, then read through a memory map.

frames.npy  uint8 [clips, frames, size, size, 3]
meta.json   settings, and per clip: split, class (workshop_classes.pair_classes), captions, captions of the clip
            backwards
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vtjax.data.video.source import ClipSource
from vtjax.data.video.timed import Video
from vtjax.data.video_records import Caption, VideoRecord
from vtjax.worlds.drawn import Drawn, Item, drawn
from vtjax.worlds.workshop import WORKSHOP_VERSION, Workshop
from vtjax.worlds.workshop_classes import pair_classes, workshop_pairs
from vtjax.worlds.workshop_types import Settings

SECONDS = 2.0  # of a clip
CHUNK = 32  # clips that a process draws at once
# An encoder trained beforehand may know every verb but no held-out pair; clips far behind the training ones are new
# renderings of seen pairs.
_SEEN, _ALL = "pretrain", "everything"
_FIRST = {"train": 0, "val": 10_000_000, "test": 20_000_000, "held out": 30_000_000}


@dataclasses.dataclass(frozen=True)
class Draw:
    """Clip `index` of workshop split `world`, kept as row of this source's `split`."""

    split: str
    world: str
    index: int


class MemoryVideo(Video):
    """Frames uint8 [N, H, W, 3] in memory, or in a map that belongs to their source."""

    def __init__(self, key: str, frames: np.ndarray, fps: float):
        self.key, self.path, self.fps, self._frames = key, key, fps, frames
        self.times = np.arange(len(frames)) / fps
        self.start, self.end = 0.0, len(frames) / fps

    def index_near(self, times: Sequence[float] | np.ndarray) -> np.ndarray:
        """int64, the frames whose times are closest."""
        return np.clip(np.rint(np.asarray(times) * self.fps), 0, len(self) - 1).astype(np.int64)

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, 3]."""
        return np.ascontiguousarray(self._frames[np.asarray(indices, np.int64)])


class WorkshopClips(ClipSource):
    """A folder of drawn clips as a source. items: what its meta.json says of each clip."""

    splits = ("train", "val", "test")

    def __init__(self, drawn: Drawn):
        super().__init__()
        self.drawn, self.folder, self.items, self.fingerprint = drawn, drawn.folder, drawn.items, drawn.fingerprint

    def __len__(self) -> int:
        return len(self.items)

    def split(self, name: str) -> list[int]:
        """Rows of a split; none where it has no clips."""
        return [i for i, item in enumerate(self.items) if item["split"] == name]

    def record(self, index: int) -> VideoRecord:
        item, key = self.items[index], f"workshop-{index:06d}"
        captions = tuple(map(Caption, item["captions"]))
        name = pair_classes().names[item["class"]]
        return VideoRecord(
            key, key, f"{self.folder}[{index}]", item["split"], duration=SECONDS, label=item["class"], class_name=name,
            captions=captions,
        )  # fmt: skip

    def open(self, index: int) -> MemoryVideo:
        frames = self.drawn.frames[index]
        return MemoryVideo(f"workshop-{index:06d}", frames, len(frames) / SECONDS)


def world_clips(
    counts: Mapping[str, int], *, seed: int, size: int, frames: int, cache: pathlib.Path
) -> WorkshopClips:
    """Opens clips, drawn on first use into `cache`.

    Args:
      counts: clips of the splits train, val and test, see `draws`.
      seed: of the world.
      size: pixels, both sides.
      frames: of a clip, in `SECONDS`.
      cache: the folder of drawn worlds.
    """
    identity = {
        "version": WORKSHOP_VERSION, "seed": seed, "size": size, "frames": frames, "counts": dict(counts),
        "seconds": SECONDS,
    }  # fmt: skip
    rows = functools.partial(draws, counts, seed, size, frames)
    draw = functools.partial(_draw, seed, size, settings_of(frames))
    return WorkshopClips(
        drawn(cache, "clip", identity, rows, draw, (frames, size, size, 3), chunk=CHUNK, alone=128)
    )


def settings_of(frames: int) -> Settings:
    """The world's settings for clips of `frames` frames in `SECONDS`."""
    return Settings(fps=frames / SECONDS, clip_frames=frames)


def draws(counts: Mapping[str, int], seed: int, size: int, frames: int) -> list[Draw]:
    """Which clips are drawn: train shows seen verb-object pairs alone, val and test as many clips of held-out ones."""
    rows = [Draw("train", _SEEN, _FIRST["train"] + i) for i in range(counts["train"])]
    world, index = Workshop(seed, size, _ALL, settings_of(frames)), _FIRST["held out"]
    for split in ("val", "test"):
        rows += [Draw(split, _SEEN, _FIRST[split] + i) for i in range(counts[split] - counts[split] // 2)]
        wanted = len(rows) + counts[split] // 2
        while len(rows) < wanted:
            if pair_classes().held_out[_class(*world.clip_text(index))]:
                rows.append(Draw(split, _ALL, index))
            index += 1
    return rows


def _class(action: Any, entities: Sequence[Any]) -> int:
    return workshop_pairs().index((action.verb, tuple(entities[o].kind for o in action.objects)))


def _draw(seed: int, size: int, settings: Settings, row: Draw) -> tuple[np.ndarray, Item]:
    clip = Workshop(seed, size, row.world, settings).clip(row.index)
    return clip.frames, {
        "split": row.split,
        "class": _class(clip.action, clip.entities),
        "captions": [c.text for c in clip.captions],
        "backwards": [c.text for c in clip.action.reversed_captions],
    }
