"""The workshop's trimmed clips as a source of videos: drawn once into a folder, then read through a memory map.

frames.npy  uint8 [clips, frames, size, size, 3]
meta.json   settings, and per clip: split, class (classes.workshop_classes), captions, captions of the clip backwards
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vtjax.data.video.source import ClipSource
from vtjax.data.video_records import Caption, VideoRecord
from vtjax.encoders.clip_config import ClipDataConfig
from vtjax.errors import VtjaxError
from vtjax.methods.clip.classes import workshop_classes, workshop_pairs
from vtjax.worlds.drawn import draw_folder
from vtjax.worlds.workshop import WORKSHOP_VERSION, Workshop
from vtjax.worlds.workshop_types import Settings

SECONDS = 2.0  # of a clip
# An encoder trained beforehand may know every verb but no held-out pair; clips far behind the training ones are new
# renderings of seen pairs.
_SEEN, _ALL = "pretrain", "everything"
_FIRST = {"train": 0, "val": 10_000_000, "test": 20_000_000, "held out": 30_000_000}
_CHUNK = 32  # clips that a process draws at once
_FEW = 128  # clips up to which starting processes costs more than it saves


@dataclasses.dataclass(frozen=True)
class Draw:
    """Clip `index` of workshop split `world`, kept as row of this source's `split`."""

    split: str
    world: str
    index: int


class MemoryVideo:
    """Frames uint8 [N, H, W, 3] with the interface of a StoredVideo."""

    def __init__(self, key: str, frames: np.ndarray, fps: float):
        self.key, self.path, self.fps, self._frames = key, key, fps, frames
        self.damage = ""
        self.times = np.arange(len(frames)) / fps
        self.start, self.end = 0.0, len(frames) / fps

    def __len__(self) -> int:
        return len(self.times)

    def __enter__(self) -> MemoryVideo:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """Nothing to do; the map belongs to the source."""

    def index_at(self, times: Sequence[float] | np.ndarray) -> np.ndarray:
        """int64, the last frames at or before these seconds."""
        found = np.searchsorted(self.times, np.asarray(times, np.float64) + 1e-9, side="right") - 1
        return np.clip(found, 0, len(self) - 1).astype(np.int64)

    def index_near(self, times: Sequence[float] | np.ndarray) -> np.ndarray:
        """int64, the frames whose times are closest."""
        return np.clip(np.rint(np.asarray(times) * self.fps), 0, len(self) - 1).astype(np.int64)

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, 3]."""
        return np.ascontiguousarray(self._frames[np.asarray(indices, np.int64)])


class WorkshopClips(ClipSource):
    """A folder of drawn clips. items: what meta.json says of each clip.

    Raises:
      VtjaxError: a folder that `draw_clips` did not finish.
    """

    def __init__(self, folder: pathlib.Path):
        super().__init__()
        self.folder = folder
        try:
            self.meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise VtjaxError(f"{folder}: not a folder of drawn clips ({error}); remove it") from error
        self.items: list[dict[str, Any]] = self.meta["clips"]
        self.fingerprint: str = self.meta["digest"]

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k != "_frames"}

    @functools.cached_property
    def _frames(self) -> np.ndarray:
        return np.load(self.folder / "frames.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.items)

    def split(self, name: str) -> list[int]:
        """Rows of a split; none where it has no clips."""
        return [i for i, item in enumerate(self.items) if item["split"] == name]

    def record(self, index: int) -> VideoRecord:
        item, key = self.items[index], f"workshop-{index:06d}"
        captions = tuple(map(Caption, item["captions"]))
        name = workshop_classes().names[item["class"]]
        return VideoRecord(
            key, key, f"{self.folder}[{index}]", item["split"], duration=SECONDS, label=item["class"], class_name=name,
            captions=captions,
        )  # fmt: skip

    def open(self, index: int) -> MemoryVideo:
        frames = self._frames[index]
        return MemoryVideo(f"workshop-{index:06d}", frames, len(frames) / SECONDS)


def world_clips(config: ClipDataConfig, size: int, cache: pathlib.Path) -> WorkshopClips:
    """The clips of a configuration, drawn on first use into `cache`; size: pixels."""
    counts = {"train": config.world_train, "val": config.val_size, "test": config.world_test}
    identity = {
        "version": WORKSHOP_VERSION, "seed": config.world_seed, "size": size, "frames": config.world_frames,
        "counts": counts, "seconds": SECONDS,
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    folder = cache / f"workshop-clips-{digest[:16]}"
    if not (folder / "meta.json").is_file():
        draw_clips(folder, config, size, counts, {**identity, "digest": digest})
    return WorkshopClips(folder)


def settings_of(config: ClipDataConfig) -> Settings:
    """The world's settings for clips of `config.world_frames` frames in `SECONDS`."""
    return Settings(fps=config.world_frames / SECONDS, clip_frames=config.world_frames)


def draws(config: ClipDataConfig, size: int, counts: dict[str, int]) -> list[Draw]:
    """Which clips are drawn: train shows seen verb-object pairs alone, val and test as many clips of held-out ones."""
    rows = [Draw("train", _SEEN, _FIRST["train"] + i) for i in range(counts["train"])]
    world, index = Workshop(config.world_seed, size, _ALL, settings_of(config)), _FIRST["held out"]
    for split in ("val", "test"):
        rows += [Draw(split, _SEEN, _FIRST[split] + i) for i in range(counts[split] - counts[split] // 2)]
        wanted = len(rows) + counts[split] // 2
        while len(rows) < wanted:
            if workshop_classes().held_out[_class(*world.clip_text(index))]:
                rows.append(Draw(split, _ALL, index))
            index += 1
    return rows


def _class(action: Any, entities: Sequence[Any]) -> int:
    return workshop_pairs().index((action.verb, tuple(entities[o].kind for o in action.objects)))


def draw_clips(
    folder: pathlib.Path, config: ClipDataConfig, size: int, counts: dict[str, int], identity: dict[str, Any]
) -> None:
    """Draws every clip and moves the finished folder to its place at once; of two runs that do so one is kept."""
    rows = draws(config, size, counts)
    draw_folder(
        folder,
        (len(rows), config.world_frames, size, size, 3),
        [(first, rows[first : first + _CHUNK]) for first in range(0, len(rows), _CHUNK)],
        functools.partial(_draw, config.world_seed, size, settings_of(config)),
        lambda items: {**identity, "clips": items},
        name="workshop", unit="clip", alone=_FEW,
    )  # fmt: skip


def _draw(
    seed: int, size: int, settings: Settings, path: pathlib.Path, part: tuple[int, Sequence[Draw]]
) -> list[dict[str, Any]]:
    """Draws clips into rows `first` and on of the array at `path`; what meta.json keeps of each."""
    frames = np.load(path, mmap_mode="r+")
    items = []
    first, rows = part
    for place, row in enumerate(rows, first):
        clip = Workshop(seed, size, row.world, settings).clip(row.index)
        frames[place] = clip.frames
        items.append(
            {
                "split": row.split,
                "class": _class(clip.action, clip.entities),
                "captions": [c.text for c in clip.captions],
                "backwards": [c.text for c in clip.action.reversed_captions],
            }
        )
    frames.flush()
    return items
