"""Untrimmed streams of the workshop, one folder a split: drawn once, then read through a memory map.

frames.npy  uint8 [streams, frames, size, size, 3]
meta.json   settings, and per stream its segments: verb, frames, captions
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import json
import multiprocessing
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
from absl import logging

from vtjax.data.synthetic.workshop import WORKSHOP_VERSION, Workshop
from vtjax.data.synthetic.workshop_types import Settings
from vtjax.data.synthetic.workshop_verbs import LABEL
from vtjax.errors import VtjaxError
from vtjax.files import write_atomically
from vtjax.methods.ovoad.config import OvoadDataConfig

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
    import tqdm

    folder.parent.mkdir(parents=True, exist_ok=True)
    count, size = identity["count"], identity["size"]
    logging.info("drawing %d streams of the workshop (%s) into %s", count, identity["split"], folder)
    length = round(Settings().stream_seconds * identity["fps"])
    temporary = pathlib.Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        np.lib.format.open_memmap(temporary / "frames.npy", "w+", np.uint8, (count, length, size, size, 3)).flush()
        parts = [range(first, min(first + _CHUNK, count)) for first in range(0, count, _CHUNK)]
        job = functools.partial(_draw, temporary / "frames.npy", identity)
        items: list[dict[str, Any]] = []
        with tqdm.tqdm(total=count, desc="workshop streams", unit="stream", mininterval=5) as bar:
            for part in _everywhere(job, parts, count):
                items += part
                bar.update(len(part))
        write_atomically(temporary / "meta.json", json.dumps({**identity, "streams": items}) + "\n")
        os.chmod(temporary, 0o755)
        if folder.exists() and not (folder / "meta.json").is_file():
            shutil.rmtree(folder)
        try:
            temporary.rename(folder)
        except OSError:
            if not (folder / "meta.json").is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _everywhere(job: Any, parts: Sequence[range], streams: int) -> Iterator[list[dict[str, Any]]]:
    """job(part) for every part in order, on all cores where that is worth it."""
    cores, done = os.cpu_count() or 1, 0
    if cores > 1 and streams > _FEW:
        context = multiprocessing.get_context("spawn")
        try:
            with concurrent.futures.ProcessPoolExecutor(min(cores, len(parts)), mp_context=context) as pool:
                for items in pool.map(job, parts):
                    done += 1
                    yield items
        except BrokenProcessPool:  # a script without `if __name__ == "__main__"` cannot start processes
            logging.warning("other processes cannot be started; drawing in this one")
    yield from (job(part) for part in parts[done:])


def _draw(path: pathlib.Path, identity: dict[str, Any], indices: Sequence[int]) -> list[dict[str, Any]]:
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
