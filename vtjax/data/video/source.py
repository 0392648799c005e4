"""Videos as a random-access source of the step-indexed pipeline (vtjax/data/pipeline.py): a bad one never ends a run.

The source hands out light handles; frames are decoded in the pipeline's transform, where the example's own randomness
is known. A video that cannot be read is replaced by one that this randomness names, so that every host and every
worker makes the same batch, and is counted: `Clip.substitute` in the batch, its reason in the source's problems.
Damaged videos are used as far as they decode, and are among the problems too.
"""

from __future__ import annotations

import abc
import collections
import dataclasses
import json
import os
import pathlib
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vtjax.data.video.container import MAX_PIXELS, VideoError
from vtjax.data.video.decode import VideoReader
from vtjax.data.video.excerpt import excerpt
from vtjax.data.video.index import FrameIndex
from vtjax.data.video.sampling import Sampler
from vtjax.data.video.timed import Video
from vtjax.data.video_records import VideoRecord
from vtjax.errors import Problems, VtjaxError

if TYPE_CHECKING:
    pass

ATTEMPTS = 16  # videos in a row that may be bad before the data is taken to be at fault
_CACHED = 4096  # frame indices kept, about 20 kB each for a video of a minute


@dataclasses.dataclass(frozen=True)
class VideoHandle:
    """Element `index` of a source; nothing is read before `open`."""

    source: ClipSource
    index: int

    @property
    def record(self) -> VideoRecord:
        return self.source.record(self.index)

    def open(self) -> Video:
        """The video, to be used in a `with`. Raises VideoError."""
        return self.source.open(self.index)


class ClipSource(abc.ABC):
    """Base of sources: `len`, `record(i)`, `open(i)`; `source[i]` is a VideoHandle. Picklable, thread-safe.

    log: a file to which every process of a run adds the videos it could not read, one JSON object a line.
    """

    def __init__(self, log: str | os.PathLike | None = None):
        self.log = None if log is None else os.fspath(log)
        self._bad: dict[str, str] = {}

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of videos."""

    @abc.abstractmethod
    def record(self, index: int) -> VideoRecord:
        """The annotation of a video."""

    @abc.abstractmethod
    def open(self, index: int) -> Video:
        """The video. Raises VideoError."""

    def __getitem__(self, index: int) -> VideoHandle:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return VideoHandle(self, int(index) % len(self))

    def report(self, error: VideoError) -> None:
        """Notes a bad or damaged video, once per process and video."""
        if error.where in self._bad:
            return
        self._bad[error.where] = error.reason
        if self.log is not None:
            pathlib.Path(self.log).parent.mkdir(parents=True, exist_ok=True)
            line = json.dumps({"where": error.where, "reason": error.reason, "detail": error.detail}) + "\n"
            with open(self.log, "a", encoding="utf-8") as file:  # short appends of several processes do not mix
                file.write(line)

    def problems(self) -> Problems:
        """The bad and damaged videos met so far: of all processes where there is a log, else of this one."""
        bad = dict(self._bad)
        if self.log is not None and os.path.exists(self.log):
            for line in pathlib.Path(self.log).read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                bad[entry["where"]] = entry["reason"]
        problems = Problems()
        for where, reason in sorted(bad.items()):
            problems.add(where, reason)
        return problems


class VideoSource(ClipSource):
    """Video files named by records, decoded on demand. A record with a span gives that part of its file.

    Frame indices are kept, so that a file's packets are looked through once per process.

    Raises:
      VtjaxError: no records, or one without a file.
    """

    def __init__(
        self, records: Sequence[VideoRecord], *, max_pixels: int = MAX_PIXELS, log: str | os.PathLike | None = None
    ):
        super().__init__(log)
        self._records = list(records)
        if not self._records:
            raise VtjaxError("no videos")
        absent = next((r for r in self._records if r.path is None), None)
        if absent is not None:
            raise VtjaxError(f"{absent.where}: {absent.id!r} has no file; name the folder of the videos")
        self._max_pixels = max_pixels
        self._reset()

    def _reset(self) -> None:
        self._indices: collections.OrderedDict[str, tuple[FrameIndex, FrameIndex]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_indices")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._reset()

    def __len__(self) -> int:
        return len(self._records)

    def record(self, index: int) -> VideoRecord:
        return self._records[index]

    def remember(self, path: str, index: FrameIndex, actual: FrameIndex) -> None:
        """Keeps what a reader of the file found."""
        with self._lock:
            self._indices[path] = index, actual
            while len(self._indices) > _CACHED:
                self._indices.popitem(last=False)

    def open(self, index: int) -> Video:
        """A VideoReader or Excerpt of the file. Raises VideoError."""
        record = self._records[index]
        path = os.fspath(record.path)
        with self._lock:
            known = self._indices.get(path)
        shown, actual = known if known is not None else (None, None)
        reader = _Remembering(self, path, index=shown, actual=actual, max_pixels=self._max_pixels)
        return excerpt(reader, record.span)


class _Remembering(VideoReader):
    """Tells its source, on closing, what it found out about the file."""

    def __init__(self, source: VideoSource, path: str, **known):
        self._source: VideoSource | None = source
        super().__init__(path, **known)

    def close(self) -> None:
        if self._source is not None:
            self._source.remember(self.path, self.index, self.actual)
            self._source = None
        super().close()


@dataclasses.dataclass(frozen=True)
class Clip:
    """Sampled frames. frames: uint8 [T, H, W, 3], or features [T, ...]. mask: bool [T], False where the last frame
    stands in. times: float64 [T] seconds. record: of the video they come from. substitute: True where that is not the
    one that was asked for."""

    frames: np.ndarray
    mask: np.ndarray
    times: np.ndarray
    record: VideoRecord
    substitute: bool


def read_clip(
    handle: VideoHandle, sampler: Sampler, rng: np.random.Generator | None = None, *, attempts: int = ATTEMPTS
) -> Clip:
    """Samples and decodes; where the video is bad, another one that `rng` names (the next one without rng).

    One number is drawn from rng whatever happens, so that augmentation drawn from it afterwards does not change.

    Raises:
      VtjaxError: `attempts` videos in a row cannot be read; its message has their reasons.
    """
    source, index = handle.source, handle.index
    draws = None if rng is None else np.random.default_rng(int(rng.integers(2**63)))
    failed = Problems()
    for attempt in range(min(attempts, max(2 * len(source), 2))):
        try:
            with source.open(index) as video:
                picks, mask = sampler(video, draws)
                frames = video.frames(picks)
                if video.damage:
                    source.report(VideoError(video.path, "used, but damaged", video.damage))
                return Clip(frames, mask, video.times[picks], source.record(index), attempt > 0)
        except VideoError as error:
            source.report(error)
            failed.add(error.where, error.reason)
        index = (index + 1) % len(source) if draws is None else int(draws.integers(len(source)))
    raise VtjaxError(f"{len(failed)} videos in a row cannot be read; is the data complete?\n{failed.report()}")
