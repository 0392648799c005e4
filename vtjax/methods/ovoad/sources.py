"""Where a stream's frames come from: a file, a camera, standard input, or precomputed features.

Every source iterates over (seconds, frame uint8 [H, W, 3] or features float [D]); seconds is None where only `fps` is
known. `end`, known when the source is through, is where its last frame ends, None where nothing tells.
"""

from __future__ import annotations

import os
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from vtjax.data.video.container import MAX_PIXELS, VideoError, reasons
from vtjax.data.video.decode import VideoReader
from vtjax.data.video.sampling import rate_grid
from vtjax.errors import VtjaxError

_FORMATS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}


class Source:
    """Gives (seconds or None, frame or features) one after another; the base of all sources."""

    name = ""
    fps: float | None = None
    end: float | None = None
    live = False  # ends when it is stopped
    paced = False  # goes on while it is not read
    damage = ""  # what was wrong with it, known when it is through

    def __iter__(self) -> Iterator[tuple[float | None, np.ndarray]]:
        """Once through the source."""
        raise VtjaxError(f"{type(self).__name__} gives no frames")

    def close(self) -> None:
        """Lets go of the device or file."""


class FileSource(Source):
    """A video file. Only the frames that the model's rate asks for are decoded: those `rate_grid` names.

    Raises VideoError: it cannot be read; damage that decoding meets is in `damage` afterwards.
    """

    def __init__(self, path: str | os.PathLike, rate: float = 4.0):
        self.name, self._reader = os.fspath(path), VideoReader(path)
        self.fps = None
        times, self._picks = rate_grid(self._reader, rate)
        # One step after the last of the grid is not asked for, however long the last frame lasts.
        self.end = float(times[-1] + 0.5 / rate)
        self.start = float(self._reader.start)

    def __iter__(self) -> Iterator[tuple[float | None, np.ndarray]]:
        for index, frame in self._reader.iterate(np.unique(self._picks)):
            yield float(self._reader.times[index]), frame

    @property
    def damage(self) -> str:  # type: ignore[override]
        """What was wrong with the file, "" for nothing."""
        return self._reader.damage

    def close(self) -> None:
        self._reader.close()


class _Decoded(Source):
    """Frames of an open container in the order they come, at their own times."""

    def __init__(self, container: Any, name: str):
        import av.error

        self.name, self._container = name, container
        if not container.streams.video:
            container.close()
            raise VideoError(name, "no video in it")
        self._av, self._stream = av, container.streams.video[0]
        codec = self._stream.codec_context
        if codec.width * codec.height > MAX_PIXELS:
            container.close()
            raise VideoError(name, "its frames are larger than the limit", f"{codec.width}x{codec.height}")

    def __iter__(self) -> Iterator[tuple[float | None, np.ndarray]]:
        origin = None
        with reasons(self.name, "its frames cannot be decoded"):
            for frame in self._container.decode(self._stream):
                if frame.time is None:
                    raise VideoError(self.name, "its frames have no times, and so no known rate")
                origin = frame.time if origin is None else origin
                yield float(frame.time - origin), frame.to_ndarray(format="rgb24")

    def close(self) -> None:
        self._container.close()


class CameraSource(_Decoded):
    """A camera. number: /dev/video<number> on Linux, the system's own counting elsewhere. size: (height, width) asked
    for. Raises VideoError: there is none, or it is in use."""

    live = paced = True

    def __init__(self, number: int = 0, size: tuple[int, int] | None = None):
        import av

        kind = _FORMATS.get(sys.platform, "v4l2")
        device = {"v4l2": f"/dev/video{number}", "avfoundation": str(number)}.get(kind, f"video={number}")
        options = {} if size is None else {"video_size": f"{size[1]}x{size[0]}"}
        with reasons(f"camera {number} ({device})", "cannot be opened as a camera"):
            container = av.open(device, format=kind, options=options)
        super().__init__(container, f"camera {number}")


class PipeSource(_Decoded):
    """A video that arrives on a pipe in any container that can be read without seeking (MPEG-TS, Matroska, y4m)."""

    live = True

    def __init__(self, pipe: IO[bytes] | None = None, name: str = "standard input"):
        import av

        pipe = sys.stdin.buffer if pipe is None else pipe
        with reasons(name, "not a video, or not one that can be read from a pipe; give raw frames their size and fps"):
            # Only `read` is passed on: a file object would be asked to seek.
            container = av.open(_Unseekable(pipe), metadata_errors="ignore")
        super().__init__(container, name)


class _Unseekable:
    def __init__(self, pipe: IO[bytes]):
        self.read = pipe.read


class RawSource(Source):
    """Frames as bare bytes, RGB, one after another. size: (height, width). fps: of the source, which nothing else says.

    Raises VtjaxError: no fps, a size that cannot be, or an input that ends within a frame.
    """

    live = True

    def __init__(
        self, size: tuple[int, int], fps: float | None, pipe: IO[bytes] | None = None, name: str = "standard input"
    ):
        if fps is None:
            raise VtjaxError(f"{name}: the frame rate of raw frames is unknown; give --fps")
        if len(size) != 2 or min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
            raise VtjaxError(f"{name}: frames of {size[1]}x{size[0]} pixels; a positive width and height are expected")
        self.name, self.fps, self.size = name, fps, size
        self._pipe = sys.stdin.buffer if pipe is None else pipe

    def __iter__(self) -> Iterator[tuple[float | None, np.ndarray]]:
        count = self.size[0] * self.size[1] * 3
        while content := self._read(count):
            if len(content) < count:
                part = f"{len(content)} of {count} bytes"
                raise VtjaxError(f"{self.name}: ends within a frame ({part}); is the size right?")
            yield None, np.frombuffer(content, np.uint8).reshape(*self.size, 3)

    def _read(self, count: int) -> bytes:
        parts, left = [], count
        while left and (part := self._pipe.read(left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)


class FeatureSource(Source):
    """Precomputed frame features, <video>.npy [L, D], as LSTR's folders hold them. fps: rows per second."""

    def __init__(self, path: str | os.PathLike, fps: float | None):
        self.name = os.fspath(path)
        if fps is None:
            raise VtjaxError(f"{path}: the rate of the features is unknown; give --fps")
        try:
            self.features = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise VtjaxError(f"{path}: not an array of features: {error}") from None
        if self.features.ndim != 2 or not len(self.features) or self.features.dtype.kind != "f":
            kind = f"{self.features.dtype} {list(self.features.shape)}"
            raise VtjaxError(f"{path}: features float [frames, values] are expected, not {kind}")
        self.fps = fps

    def __iter__(self) -> Iterator[tuple[float | None, np.ndarray]]:
        for row in self.features:
            yield None, row.astype(np.float32)


def open_source(
    where: str, *, rate: float, fps: float | None = None, raw_size: tuple[int, int] | None = None
) -> Source:
    """Opens the source that a command line names.

    Args:
      where: a video file, a .npy of features, "camera:0", or "-" for standard input.
      rate: of the model, per second.
      fps: of features and of raw frames.
      raw_size: (height, width) of raw frames on standard input.

    Raises:
      VtjaxError: no such file or camera, or fps given or missing where it should not be.
    """
    camera = re.fullmatch(r"camera(?::(\d+))?", where)
    raw = where == "-" and raw_size is not None
    features = where.endswith(".npy")
    if raw_size is not None and where != "-":
        raise VtjaxError(f"{where}: raw frames are read from standard input, --video=-")
    if fps is not None and not (raw or features):
        raise VtjaxError(f"{where}: fps={fps:g} is for features and raw frames; this source has times of its own")
    if camera:
        return CameraSource(int(camera[1] or 0))
    if where == "-":
        return RawSource(raw_size, fps) if raw else PipeSource()
    if not pathlib.Path(where).is_file():
        raise VtjaxError(f"--video={where}: no such file; a file, camera:0 or - is expected")
    return FeatureSource(where, fps) if features else FileSource(where, rate)
