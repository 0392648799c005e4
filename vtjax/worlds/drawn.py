"""Drawing many clips of a world into one folder, on all cores: frames.npy, a memory map, beside meta.json."""

from __future__ import annotations

import concurrent.futures
import functools
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

from vtjax.files import write_atomically

Items = list[dict[str, Any]]


def draw_folder(
    folder: pathlib.Path,
    shape: Sequence[int],
    parts: Sequence[Any],
    job: Callable[[pathlib.Path, Any], Items],
    meta: Callable[[Items], Mapping[str, Any]],
    *,
    name: str,
    unit: str,
    alone: int,
) -> None:
    """Draws every part and moves the finished folder to its place at once; of two runs that do so one is kept.

    shape: of the uint8 array in frames.npy, its first size the number of items. job: (path of frames.npy, part) -> what
    is kept of each item of the part, whose frames it has written; picklable. meta: all items -> meta.json. alone: up to
    this many items, starting processes costs more than it saves.
    """
    import tqdm

    folder.parent.mkdir(parents=True, exist_ok=True)
    logging.info("drawing %d %ss of the %s into %s", shape[0], unit, name, folder)
    temporary = pathlib.Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        np.lib.format.open_memmap(temporary / "frames.npy", "w+", np.uint8, tuple(shape)).flush()
        items: Items = []
        with tqdm.tqdm(total=shape[0], desc=name, unit=unit, mininterval=5) as bar:
            drawn = functools.partial(job, temporary / "frames.npy")
            for part in _everywhere(drawn, parts, shape[0] > alone):
                items += part
                bar.update(len(part))
        write_atomically(temporary / "meta.json", json.dumps(meta(items)) + "\n")
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


def _everywhere(job: Callable[[Any], Items], parts: Sequence[Any], several: bool) -> Iterator[Items]:
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
