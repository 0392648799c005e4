"""Exact frames of a video file by index or by time: seek to the last key before a frame and decode forward from there.

Frames that lie close together are decoded in one pass, and B-frames that nobody asked for and nothing refers to are
not decoded at all: what random access costs is the length of the group of pictures.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Sequence

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from vtjax.data.video.container import MAX_PIXELS, VideoError, open_video, reasons
from vtjax.data.video.index import FrameIndex, decode_index, scan_index
from vtjax.data.video.timed import Times, Video
from vtjax.errors import VtjaxError

_SKIPS_UNREFERENCED = ("h264", "hevc")
_SEEK_SAVES = 4  # a seek costs about as much as decoding this many frames
_EARLIER_KEYS = 2  # tried before the file is read from its start
_LOCAL = threading.local()  # one colour converter per thread, which keeps its tables from frame to frame


class VideoReader(Video):
    """Random access to the frames of one video file, as RGB uint8 with the file's rotation applied.

    index: what an earlier reader of the file found, to save looking for it again. exact: decode every frame once to
    find the index, also where the packets tell. threads: of the decoder; 1 within data workers. Frames whose size
    differs from the file's are brought to it; pixels are taken as square. Not for use from two threads at once.

    `index` is what the file promises and never changes, so that what is sampled by it does not depend on what was read
    before. `actual` is `index` until frames turn out to be missing, then the index of those that are there; an earlier
    reader's saves finding that out again.

    times: seconds after the file's start. end: of the last frame. fps: the mean where the rate varies.

    Raises:
      VideoError: on opening, where the file has no video that can be decoded; its `reason` says why.
    """

    start = 0.0

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        index: FrameIndex | None = None,
        actual: FrameIndex | None = None,
        exact: bool = False,
        max_pixels: int = MAX_PIXELS,
        threads: int = 1,
    ):
        self.path = os.fspath(path)
        self._limits = {"max_pixels": max_pixels, "threads": threads}
        self._container, self._stream = open_video(path, **self._limits)
        try:
            self.index = self._build(exact) if index is None else index
        except BaseException:
            self._container.close()
            raise
        self.times, self.end, self.fps = self.index.times, self.index.duration, self.index.rate
        codec = self._stream.codec_context
        self._size = codec.width, codec.height
        self._skips = threads == 1 and codec.name in _SKIPS_UNREFERENCED
        self._corrupt: set[int] = set()
        self._rotation: int | None = None
        self._ordinals: dict[int, int] = {}
        self._wanted: frozenset[int] = frozenset()
        self._packets: Iterator[av.Packet] | None = None
        self._queue: collections.deque[av.VideoFrame] = collections.deque()
        self._position = 0  # the next frame, where it is known
        self._placed = False
        self._adopt(self.index if actual is None else actual)

    def close(self) -> None:
        self._queue.clear()
        self._packets = None
        self._container.close()

    @property
    def codec(self) -> str:
        """FFmpeg's name of the decoder."""
        return self._stream.codec_context.name

    @property
    def rotation(self) -> int:
        """Degrees counter-clockwise by which the pictures are turned for display: 0, 90, 180 or 270."""
        if self._rotation is None:
            next(self.iterate([0]), None)
        return self._rotation or 0

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames as they are returned."""
        width, height = self._size
        return (width, height) if self.rotation in (90, 270) else (height, width)

    @property
    def damage(self) -> str:
        """What is known to be wrong with the file, "" for nothing. Grows as damage is met in decoding."""
        index, parts = self.actual, []
        if len(index) < index.expected:
            parts.append(f"{len(index)} of {index.expected} frames are there")
        if index.bad_packets:
            parts.append(f"{index.bad_packets} packets cannot be decoded")
        if self._corrupt:
            parts.append(f"{self._spoilt()} frames are spoilt")
        return ", ".join(parts)

    @property
    def intact(self) -> float:
        """Share in [0, 1] of the promised frames that are there and not known to be spoilt."""
        return (len(self.actual) - self._spoilt()) / max(self.actual.expected, 1)

    def index_at(self, times: Times) -> np.ndarray:
        """int64, the frames shown at these seconds (see FrameIndex.at)."""
        return self.index.at(np.asarray(times, np.float64))

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, 3], frames by index, in the order asked for; repeats are decoded once.

        A frame that cannot be decoded is given as the one shown before it; `damage` tells. Raises VtjaxError where an
        index is out of range, VideoError where nothing can be decoded.
        """
        indices = np.asarray(indices, np.int64).reshape(-1)
        if not len(indices):
            return np.zeros((0, *self.size, 3), np.uint8)
        unique, places = np.unique(indices, return_inverse=True)
        out = None
        for position, (_, frame) in enumerate(self.iterate(unique)):
            if out is None:
                out = np.empty((len(indices), *frame.shape), np.uint8)
            out[places == position] = frame
        return out

    def iterate(self, indices: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index, uint8 [H, W, 3]) for rising indices, decoding as it goes; memory is that of a few frames.

        Raises VtjaxError where the indices do not rise or the video does not have them, VideoError as `frames` does.
        """
        targets = [int(i) for i in indices]
        rising = all(a < b for a, b in itertools.pairwise(targets))
        if targets and not (rising and targets[0] >= 0 and targets[-1] < len(self)):
            what = f"frames {targets[:5]}... were asked for"
            raise VtjaxError(f"{self.path}: {what}; rising indices below {len(self)} are expected")
        self._wanted = frozenset(int(self.index.pts[t]) for t in targets)
        for target in targets:
            place = target if self.actual is self.index else int(self.actual.at(self.index.times[target]))
            yield target, self._picture(self._fetch(place))

    def _fetch(self, target: int) -> av.VideoFrame:
        """The frame, by the cheapest way that gives it."""
        keys = self.actual.keys
        at = int(np.searchsorted(keys, target, side="right")) - 1
        if self.actual.seekable:
            behind = not self._placed or target < self._position or keys[at] > self._position + _SEEK_SAVES
            if (not behind or self._seek(int(keys[at]))) and (frame := self._forward(target)) is not None:
                return frame
            for earlier in range(at - 1, max(at - 1 - _EARLIER_KEYS, -1), -1):
                if self._seek(int(keys[earlier])) and (frame := self._forward(target, skip=False)) is not None:
                    return frame
        if self.actual.seekable or not self._placed or target < self._position:
            self._restart()
        if (frame := self._forward(target, skip=False)) is not None:
            return frame
        return self._recover(target)

    def _recover(self, target: int) -> av.VideoFrame:
        """Reading did not go as the index says: finds the true one, then counts frames from the start."""
        old = self.actual
        self._reopen()
        index = decode_index(self.path, self._container, self._stream, old.expected)
        self._adopt(dataclasses.replace(index, seekable=False))
        self._restart()
        frame = self._forward(int(index.at(old.times[target])), skip=False)
        if frame is None:
            raise VideoError(self.path, "its frames change from one reading to the next")
        return frame

    def _build(self, exact: bool) -> FrameIndex:
        with reasons(self.path, "its packets cannot be read"):
            index, expected, missing = scan_index(self._container, self._stream)
        if index is not None and not exact:
            return index
        self._reopen()
        return decode_index(self.path, self._container, self._stream, expected, missing)

    def _reopen(self) -> None:
        self._container.close()
        self._container, self._stream = open_video(self.path, **self._limits)

    def _adopt(self, index: FrameIndex) -> None:
        self.actual = index
        self._corrupt |= set(index.corrupt)
        self._ordinals = {int(p): i for i, p in enumerate(index.pts)}

    def _seek(self, key: int) -> bool:
        """To a key; False where the container refuses."""
        self._queue.clear()
        try:
            self._container.seek(int(self.actual.pts[key]), stream=self._stream, backward=True)
        except av.error.FFmpegError:
            return False
        self._packets, self._placed, self._position = self._container.demux(self._stream), True, -1
        return True

    def _restart(self) -> None:
        """To the very first packet, by opening the file anew: that works in every container."""
        self._queue.clear()
        self._reopen()
        self._packets, self._placed, self._position = self._container.demux(self._stream), True, 0

    def _forward(self, target: int, skip: bool = True) -> av.VideoFrame | None:
        """Decodes on to the frame `target`; None where it does not come up in its place."""
        skip = skip and self._skips and not self.actual.exact
        while (frame := self._next(skip)) is not None:
            if self.actual.seekable:
                ordinal = self._ordinals.get(frame.pts, -1) if frame.pts is not None else -1
                if ordinal < 0:
                    continue  # decoded before what the index begins with
                if self.actual.exact and self._position >= 0 and ordinal != self._position:
                    return None
            else:
                ordinal = self._position
            self._position = ordinal + 1
            if frame.is_corrupt:
                self._corrupt.add(ordinal)
            if ordinal >= target:
                return frame if ordinal == target else None
        return None

    def _next(self, skip: bool) -> av.VideoFrame | None:
        codec = self._stream.codec_context
        while not self._queue:
            try:
                packet = next(self._packets, None)
                if packet is None:
                    self._placed = False
                    return None
                if self._skips:
                    codec.skip_frame = "NONREF" if skip and packet.pts not in self._wanted else "DEFAULT"
                self._queue.extend(packet.decode())
            except (av.error.FFmpegError, ValueError):
                continue  # a missing frame shows in the order of those that come
        return self._queue.popleft()

    def _picture(self, frame: av.VideoFrame) -> np.ndarray:
        with reasons(self.path, "a frame of it has no picture"):
            if self._rotation is None:
                turns = frame.rotation % 360
                self._rotation = turns if turns % 90 == 0 else 0
            width, height = self._size
            small = self._converter().reformat(frame, width, height, "rgb24", threads=self._limits["threads"])
            picture: np.ndarray = small.to_ndarray()
        return np.ascontiguousarray(np.rot90(picture, self._rotation // 90)) if self._rotation else picture

    def _converter(self) -> VideoReformatter:
        # A frame's own to_ndarray converts in threads of its own, which costs more than the conversion.
        if not hasattr(_LOCAL, "converter"):
            _LOCAL.converter = VideoReformatter()
        return _LOCAL.converter

    def _spoilt(self) -> int:
        """Frames from each damaged one to the next key."""
        if not self._corrupt:
            return 0
        ends = np.append(self.actual.keys, len(self.actual))
        spoilt: set[int] = set()
        for frame in self._corrupt:
            spoilt.update(range(frame, int(ends[np.searchsorted(ends, frame, side="right")])))
        return len(spoilt)
