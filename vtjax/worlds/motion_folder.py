"""The motion world as a prepared folder, generated on first use."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping

import tqdm
from absl import logging

from vtjax.data.motion.clip import MotionClip
from vtjax.data.motion.store import MotionStore, write_store
from vtjax.worlds.motion_world import MOTION_WORLD_VERSION, MotionWorld, MotionWorldSettings


def motion_folder(
    seed: int, sizes: Mapping[str, int], settings: MotionWorldSettings, cache: pathlib.Path
) -> MotionStore:
    """Opens a world of several splits, generated into `cache` where it is not there yet.

    Args:
      seed: of the world. sizes: clips of each split.
      settings: of all splits; the script, a fixed order of events, is that of the split "train" alone.
    """
    common = {name: getattr(settings, name) for name in ("min_events", "max_events", "event_similarity", "paraphrase")}
    identity = {"version": MOTION_WORLD_VERSION, "seed": seed, "sizes": dict(sizes), **common}
    identity["script"] = settings.script
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache / f"motion-world-{digest}"
    if not (folder / "meta.json").is_file():
        splits: dict[str, str] = {}

        def clips() -> Iterator[MotionClip]:
            for split, size in sizes.items():
                script = settings.script if split == "train" else 0.0
                world = MotionWorld(seed, size, split, dataclasses.replace(settings, script=script))
                for i in tqdm.trange(size, desc=f"motion world, {split}", unit="clip", mininterval=5):
                    clip = world[i]
                    splits[clip.key] = split
                    yield clip

        logging.info("generating the motion world into %s", folder)
        write_store(folder, clips(), meta={"source": "world", **identity}, splits=splits, overwrite=folder.exists())
    return MotionStore(folder)
