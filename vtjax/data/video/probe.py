"""What is in video files, and what is wrong with them, without preparing anything.

    python -m vtjax.data.video.probe my_videos clip.mp4 --exact
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from vtjax.data.readers.media_folder import VIDEO_SUFFIXES, files_below
from vtjax.data.video.container import VideoError
from vtjax.data.video.decode import VideoReader
from vtjax.errors import Problems, VtjaxError


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """height, width: as shown, rotation applied. rotation: degrees counter-clockwise. frames, seconds: as decoded.

    fps: nominal. varying: True where steps between frames differ by more than a tick. key_seconds: mean distance of
    the frames at which decoding can begin, what a random access costs. damage: "" for nothing.
    """

    path: str
    height: int
    width: int
    rotation: int
    frames: int
    seconds: float
    fps: float
    varying: bool
    key_seconds: float
    codec: str
    damage: str


def probe(path: str | os.PathLike, *, exact: bool = False) -> VideoInfo:
    """Looks at one file; exact: decodes every frame, so that all damage is found. Raises VideoError."""
    with VideoReader(path, exact=exact) as reader:
        height, width = reader.size
        index = reader.index
        steps = np.diff(index.times)
        tick = index.time_base[0] / index.time_base[1]
        return VideoInfo(
            path=os.fspath(path),
            height=height,
            width=width,
            rotation=reader.rotation,
            frames=len(index),
            seconds=index.duration,
            fps=reader.fps,
            varying=bool(len(steps) and np.ptp(steps) > 1.5 * max(tick, 1e-6)),
            key_seconds=index.duration / len(index.keys),
            codec=reader.codec,
            damage=reader.damage,
        )


def probe_all(paths: Iterable[str | os.PathLike], problems: Problems, *, exact: bool = False) -> list[VideoInfo]:
    """Looks at files, and at the videos in folders; what cannot be used goes to `problems`.

    Raises VtjaxError where a folder has no videos.
    """
    infos = []
    for path in map(pathlib.Path, paths):
        files = [path]
        if path.is_dir():
            unreadable: list[str] = []
            files = [p for p in files_below(path, unreadable) if p.suffix.lower() in VIDEO_SUFFIXES]
            for folder in unreadable:
                problems.add(folder, "a folder that cannot be read")
            if not files:
                raise VtjaxError(f"{path}: no videos in it")
        for file in files:
            try:
                infos.append(probe(file, exact=exact))
            except VideoError as error:
                problems.add(error.where, error.reason)
    return infos


def main(argv: Sequence[str]) -> int:
    """Prints a line per video and what is wrong; status 2 where anything is."""
    from absl import flags

    if len(argv) < 2:
        raise VtjaxError("videos or folders are expected: python -m vtjax.data.video.probe FILE_OR_FOLDER ...")
    problems = Problems()
    damaged = 0
    for info in probe_all(argv[1:], problems, exact=flags.FLAGS.exact):
        rate = f"{info.fps:.5g} fps{', varying' if info.varying else ''}"
        turned = f", turned {info.rotation}" if info.rotation else ""
        print(f"{info.path}: {info.width}x{info.height}{turned}, {info.frames} frames, {info.seconds:.2f} s, {rate}, "
              f"a key every {info.key_seconds:.2f} s, {info.codec}")  # fmt: skip
        if info.damage:
            damaged += 1
            print(f"    damaged: {info.damage}")
    if len(problems):
        print(problems.report())
    return 2 if len(problems) or damaged else 0


if __name__ == "__main__":
    from absl import flags

    from vtjax import command_line

    flags.DEFINE_bool("exact", False, "Decode every frame, so that all damage is found.")
    command_line.run(main)
