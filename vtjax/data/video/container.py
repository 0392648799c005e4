"""Opening a video file through PyAV so that a broken or hostile one is an error with a reason and never more."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

import av

from vtjax.errors import VtjaxError

MAX_PIXELS = 36_000_000  # of a frame; 8K video has 33 million
_PICTURES = ("image2", "_pipe", "apng")
_PLAYLISTS = ("hls", "concat", "dash", "lavfi", "tty")
_BOXES = 1000  # of an mp4's outermost level that are looked at
_TEXTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD")


class VideoError(VtjaxError):
    """A video that cannot be used. `reason` groups a report (no numbers in it), `detail` is about this file."""

    def __init__(self, where: object, reason: str, detail: str = ""):
        super().__init__(f"{where}: {reason}" + (f" ({detail})" if detail else ""))
        self.where, self.reason, self.detail = str(where), reason, detail

    def __reduce__(self):
        return VideoError, (self.where, self.reason, self.detail)


def open_video(
    path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS, threads: int = 1
) -> tuple[av.container.InputContainer, av.VideoStream]:
    """An open container and its first video stream that is no cover picture, ready to decode.

    Only the file itself is opened: play lists, which name further files or addresses, are refused. Names and texts in
    the file that are not UTF-8 do not matter. A frame of more than `max_pixels` is never allocated.

    Raises:
      VideoError: no such file, empty, unreadable, no media file, no video in it, a picture, or too large a frame.
    """
    path = pathlib.Path(path)
    _check_file(path)
    # find_stream_info decodes too, with the options of the container.
    limits = {"max_pixels": str(max_pixels)}
    options = limits | {"protocol_whitelist": "file"}
    try:
        with reasons(path, "not a media file, or its header is damaged"):
            # The prefix keeps a colon in a name from being read as a protocol.
            container = av.open(f"file:{path}", metadata_errors="ignore", options=options)
    except VideoError as error:
        if _ends_before_its_index(path):
            raise VideoError(path, "an mp4 cut off before its index, as by an unfinished download") from error
        raise
    try:
        with reasons(path, "its header is damaged"):
            return container, _stream(path, container, max_pixels, limits, threads)
    except BaseException:
        container.close()
        raise


def _check_file(path: pathlib.Path) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise VideoError(path, "no such file") from None
    except OSError as error:
        raise VideoError(path, "cannot be read", error.strerror or str(error)) from None
    if path.is_dir():
        raise VideoError(path, "a folder, not a video")
    if not os.access(path, os.R_OK):
        raise VideoError(path, "cannot be read", "permission denied")
    if not size:
        raise VideoError(path, "empty file (0 bytes)")
    with open(path, "rb") as file:
        if file.read(16).lstrip(b"\xef\xbb\xbf").startswith(_TEXTS):
            raise VideoError(path, "a play list or text, not a video")


def _ends_before_its_index(path: pathlib.Path) -> bool:
    """Whether a file that begins as an mp4 or mov has no whole moov box, without which nothing in it can be found."""
    size, at = path.stat().st_size, 0
    with open(path, "rb") as file:
        for _ in range(_BOXES):
            file.seek(at)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if at == 0 and kind != b"ftyp":
                return False
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if kind == b"moov":
                return at + length > size
            if length < 8 or at + length >= size:
                return True
            at += length
    return False


def _stream(path, container, max_pixels: int, limits: dict[str, str], threads: int) -> av.VideoStream:
    kind = container.format.name
    if any(part in kind.split(",") for part in _PLAYLISTS):
        raise VideoError(path, "a play list or text, not a video", kind)
    if any(kind.endswith(part) for part in _PICTURES):
        raise VideoError(path, "a picture, not a video", kind)
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        sound = bool(container.streams.audio)
        raise VideoError(path, "no video in it, only sound" if sound else "no video in it", kind)
    stream = streams[0]
    codec = stream.codec_context
    if codec is None:
        raise VideoError(path, "no decoder for its video")
    if codec.width * codec.height > max_pixels:
        detail = f"{codec.width}x{codec.height}, the limit is {max_pixels} pixels"
        raise VideoError(path, "its frames are larger than the limit", detail)
    codec.options = limits
    codec.thread_count = threads
    if threads != 1:
        codec.thread_type = "AUTO"
    return stream


@contextlib.contextmanager
def reasons(path: object, reason: str) -> Iterator[None]:
    """Turns what FFmpeg and the system raise into VideoError; `reason` stands for invalid data."""
    try:
        yield
    except VtjaxError:
        raise
    except MemoryError as error:
        raise VideoError(path, "needs more memory than is allowed") from error
    except (av.error.InvalidDataError, av.error.EOFError) as error:
        raise VideoError(path, reason) from error
    except av.error.FFmpegError as error:
        raise VideoError(path, reason, error.strerror or str(error)) from error
    except (OSError, ValueError, UnicodeError) as error:
        raise VideoError(path, "cannot be read", str(error)) from error
