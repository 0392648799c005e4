"""Worlds drawn into folders, on all cores and on first use: frames.npy, a memory map, beside meta.json."""

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
from absl import logging

from vtjax.config import Experiment
from vtjax.errors import VtjaxError
from vtjax.files import write_atomically

Item = dict[str, Any]


def cache_folder(experiment: Experiment, work: pathlib.Path) -> pathlib.Path:
    """The folder for drawn worlds, shared by the runs beside each other unless config.method.data.cache names one."""
    return pathlib.Path(experiment.method.data.cache or work.absolute().parent / "cache")


class Drawn:
    """A finished folder of N items. items: what its meta.json says of each. fingerprint: of all they depend on.

    Raises:
      VtjaxError: a folder that `drawn` did not finish.
    """

    def __init__(self, folder: pathlib.Path, unit: str):
        self.folder = folder
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise VtjaxError(f"{folder}: not a folder of drawn {unit}s ({error}); remove it") from error
        self.items: list[Item] = meta[f"{unit}s"]
        self.fingerprint: str = meta["digest"]

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k != "frames"}

    @functools.cached_property
    def frames(self) -> np.ndarray:
        """uint8 [N, frames, size, size, 3]."""
        return np.load(self.folder / "frames.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.items)


def drawn(
    cache: pathlib.Path,
    unit: str,
    identity: Mapping[str, Any],
    rows: Callable[[], Sequence[Any]],
    draw: Callable[[Any], tuple[np.ndarray, Item]],
    shape: Sequence[int],
    *,
    chunk: int,
    alone: int,
    label: str = "workshop",
) -> Drawn:
    """Opens the folder of a world's clips or streams, drawn into `cache` where it is not there yet.

    The finished folder is moved to its place at once; of two runs that draw it one is kept.

    Args:
      cache: the folder of such folders.
      unit: "clip" or "stream", one item.
      identity: everything that the items depend on, plain values; the folder is named after its digest.
      rows: gives what `draw` takes for each of the N items.
      draw: one row to uint8 frames of `shape` and what meta.json keeps of the item; picklable.
      shape: of the frames of one item.
      chunk: items that a process draws at once.
      alone: up to this many items, starting processes costs more than it saves.
      label: names the world in messages.

    Raises:
      VtjaxError: a folder there that is not finished.
    """
    import tqdm

    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    folder = cache / f"workshop-{unit}s-{digest[:16]}"
    if (folder / "meta.json").is_file():
        return Drawn(folder, unit)
    numbered = list(enumerate(rows()))
    parts = [numbered[first : first + chunk] for first in range(0, len(numbered), chunk)]
    cache.mkdir(parents=True, exist_ok=True)
    logging.info("drawing %d %ss of the %s into %s", len(numbered), unit, label, folder)
    temporary = pathlib.Path(tempfile.mkdtemp(dir=cache, prefix=f".{folder.name}."))
    try:
        frames = temporary / "frames.npy"
        np.lib.format.open_memmap(frames, "w+", np.uint8, (len(numbered), *shape)).flush()
        items: list[Item] = []
        with tqdm.tqdm(total=len(numbered), desc=label, unit=unit, mininterval=5) as bar:
            for part in _everywhere(functools.partial(_fill, draw, frames), parts, len(numbered) > alone):
                items += part
                bar.update(len(part))
        write_atomically(temporary / "meta.json", json.dumps({**identity, "digest": digest, f"{unit}s": items}) + "\n")
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
    return Drawn(folder, unit)


def _fill(draw: Callable[[Any], tuple[np.ndarray, Item]], path: pathlib.Path, part: Sequence[tuple[int, Any]]) -> list:
    """Draws (place, row) pairs into their places of the array at `path`; what meta.json keeps of each."""
    frames = np.load(path, mmap_mode="r+")
    items = []
    for place, row in part:
        frames[place], item = draw(row)
        items.append(item)
    frames.flush()
    return items


def _everywhere(job: Callable[[Any], list[Item]], parts: Sequence[Any], several: bool) -> Iterator[list[Item]]:
    """job(part) for every part in order, on all cores where that is worth it."""
    cores, done = os.cpu_count() or 1, 0
    if cores > 1 and several:
        # Forked processes would share this one's JAX threads; fresh ones do not.
        context = multiprocessing.get_context("spawn")
        try:
            with concurrent.futures.ProcessPoolExecutor(min(cores, len(parts)), mp_context=context) as pool:
                for items in pool.map(job, parts):
                    done += 1
                    yield items
        except BrokenProcessPool:  # a script without `if __name__ == "__main__"` cannot start processes
            logging.warning("other processes cannot be started; drawing in this one")
    yield from (job(part) for part in parts[done:])
