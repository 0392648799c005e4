"""Which frames a video file has and when they are shown, found from its packets where those tell, else by decoding.

Reading packets costs about 2 % of decoding them. They tell the frames only where one packet is one shown frame; where
that is in doubt (missing or repeated time stamps, packed B-frames of AVI, a damaged packet, unknown codecs) every
frame is decoded once, so that the index always is that of a straight sequential decode.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import av
import numpy as np

from vtjax.data.video.container import VideoError, reasons

_ONE_PACKET_ONE_FRAME = frozenset((
    "h264", "hevc", "vp9", "libvpx-vp9", "av1", "libdav1d", "mjpeg", "ffv1", "png", "prores", "dnxhd", "mpeg4",
    "msmpeg4v3", "msmpeg4v2", "h263", "flv", "mpeg1video", "mpeg2video", "rawvideo", "huffyuv", "ffvhuff",
))  # fmt: skip
_MPEG4 = ("mpeg4", "msmpeg4v3", "msmpeg4v2", "h263", "flv")
_NO_PICTURE = 16  # bytes: smaller packets of MPEG-4 stand for "nothing new" and give no frame
_HAS_DURATION = ("matroska", "mov", "avi", "flv")  # containers that say their duration


@dataclasses.dataclass(frozen=True)
class FrameIndex:
    """The N frames of a video, in the order in which a decoder yields them.

    pts: int64 [N], the frames' own time stamps in units of time_base = (a, b), a / b seconds. times: float64 [N],
    seconds after the file's start as a player counts them, rising. keys: int64 [K], the frames at which decoding can
    begin, 0 included. origin: seconds at which the file's clock starts. rate: nominal frames per second. expected:
    the frames that the file promises, N or more. seekable: False where frames can only be counted from the start.
    exact: True when it comes from decoding every frame. bad_packets, corrupt: what was seen to be damaged.
    """

    pts: np.ndarray
    times: np.ndarray
    keys: np.ndarray
    time_base: tuple[int, int]
    origin: float
    rate: float
    expected: int
    seekable: bool = True
    exact: bool = False
    bad_packets: int = 0
    corrupt: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def frame_seconds(self) -> float:
        """How long the last frame is shown: the median step, 1 / rate for a single frame."""
        if len(self.times) > 1:
            return float(np.median(np.diff(self.times)))
        return 1 / self.rate if self.rate else 0.0

    @property
    def duration(self) -> float:
        """Seconds from the file's start to the end of the last frame."""
        return float(self.times[-1]) + self.frame_seconds

    def at(self, times: np.ndarray) -> np.ndarray:
        """int64, the frames that are shown at these seconds; the first one before it, the last one after it.

        Time stamps are whole ticks of the container (1 ms in Matroska): a frame counts from half a tick before its own.
        """
        tolerance = min(self.time_base[0] / self.time_base[1] / 2, 1e-3) + 1e-9
        places = np.searchsorted(self.times, np.asarray(times, np.float64) + tolerance, side="right") - 1
        return np.clip(places, 0, len(self) - 1).astype(np.int64)


def scan_index(container, stream) -> tuple[FrameIndex | None, int, int]:
    """(index, expected, missing) from the packets of a freshly opened file, whose position it moves.

    index: None where only decoding can tell; the numbers are then for `decode_index`.
    """
    pts, keys, hidden, sure = _scan(container, stream)
    claimed = max((stream.frames or 0) - hidden, 0)
    missing = _missing_at_end(container, stream, pts) if len(pts) else 0
    promised = max(claimed, len(pts)) if _one_to_one(container, stream) else 0
    if not sure:
        return None, promised, missing
    return _make(container, stream, pts, keys, max(claimed, len(pts) + missing)), promised, missing


def decode_index(path, container, stream, expected: int = 0, missing: int = 0) -> FrameIndex:
    """The index by decoding every frame of a freshly opened file.

    expected: frames that the file promises in all, missing: after its end.

    Raises VideoError where no frame can be decoded.
    """
    pts: list[int | None] = []
    keys, corrupt, bad = [], [], [0]
    with reasons(path, "no frame of it can be decoded"):
        for frame in decode_all(container, stream, bad):
            if frame.key_frame:
                keys.append(len(pts))
            if frame.is_corrupt:
                corrupt.append(len(pts))
            pts.append(frame.pts)
    if not pts:
        raise VideoError(path, "no frame of it can be decoded")
    known = all(p is not None for p in pts) and len(set(pts)) == len(pts)
    times = np.array(pts if known else _filled(pts, stream), np.int64)
    starts = np.array(sorted({0, *keys}), np.int64)
    index = _make(container, stream, times, starts, max(expected, len(pts) + missing))
    rising = bool(np.all(np.diff(index.pts[index.keys]) > 0))
    seekable = known and rising
    return dataclasses.replace(index, seekable=seekable, exact=True, bad_packets=bad[0], corrupt=tuple(corrupt))


def decode_all(container, stream, bad: list[int]) -> Iterator[av.VideoFrame]:
    """Every frame from the current position on; what cannot be decoded is left out, bad[0] counts those packets."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
        except av.error.FFmpegError:
            bad[0] += 1
            return
        try:
            frames = packet.decode()
        except av.error.EOFError:
            return
        except (av.error.FFmpegError, ValueError):
            bad[0] += 1
            continue
        yield from frames


def _scan(container, stream) -> tuple[np.ndarray, np.ndarray, int, bool]:
    """(pts of the shown packets, rising; positions of the keys in it; packets that an edit list hides; whether the
    pts are sure to be the frames)."""
    pts, keys, sizes, hidden = [], [], [], 0
    sure = _one_to_one(container, stream)
    first_key = None
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:
            sure = False
            break
        if packet is None:
            break
        stamp = packet.pts
        if stamp is None:
            sure = sure and not packet.size and packet.dts is None  # the end mark
            continue
        if packet.is_discard:
            hidden += 1
            continue
        if packet.is_corrupt or not packet.size:
            sure = False
        if packet.is_keyframe:
            keys.append(stamp)
            first_key = stamp if first_key is None else first_key
        pts.append(stamp)
        sizes.append(packet.size)
    order = np.unique(np.array(pts, np.int64))
    if len(order) != len(pts) or first_key is None or (pts and (pts[0] != first_key or order[0] != first_key)):
        sure = False
    if stream.codec_context.name in _MPEG4 and sizes and min(sizes) <= _NO_PICTURE:
        sure = False
    places = np.searchsorted(order, np.array(sorted(set(keys)), np.int64))
    return order, places, hidden, sure and len(order) > 0


def _one_to_one(container, stream) -> bool:
    codec = stream.codec_context
    packed = codec.name in _MPEG4 and codec.has_b_frames and "mov" not in container.format.name
    return codec.name in _ONE_PACKET_ONE_FRAME and not packed


def _missing_at_end(container, stream, pts: np.ndarray) -> int:
    """Frames that the container's duration promises after the last packet of any stream, 0 where it promises none."""
    if not container.duration or not any(k in container.format.name for k in _HAS_DURATION):
        return 0
    tick = float(stream.time_base)
    step = float(np.median(np.diff(pts))) * tick if len(pts) > 1 else 0.0
    start = (container.start_time or 0) / av.time_base
    promised = container.duration / av.time_base
    tolerance = max(0.1, 2.5 * step)
    last = float(pts[-1]) * tick + step
    if step <= 0 or promised - (last - start) < tolerance:
        return 0
    end = max(last, _end_of_all(container))  # sound, or the last frame, may simply last longer
    return 0 if promised - (end - start) < tolerance else round((promised - (end - start)) / step)


def _end_of_all(container) -> float:
    """Seconds at which the last packet of any stream ends."""
    end = 0.0
    try:
        container.seek(0)
        for packet in container.demux():
            if packet.pts is not None and packet.time_base:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    except av.error.FFmpegError:
        return end
    return end


def _filled(pts: list[int | None], stream) -> np.ndarray:
    """Rising time stamps for frames that lack them or share them: one nominal step after the frame before."""
    rate = stream.average_rate or stream.guessed_rate or 25
    step = max(1, round(1 / float(rate) / float(stream.time_base)))
    filled: list[int] = []
    for stamp in pts:
        last = filled[-1] if filled else None
        if stamp is None or (last is not None and stamp <= last):
            stamp = 0 if last is None else last + step
        filled.append(stamp)
    return np.array(filled, np.int64)


def _make(container, stream, pts: np.ndarray, keys: np.ndarray, expected: int) -> FrameIndex:
    base = stream.time_base
    seconds = np.sort(pts) * base.numerator / base.denominator
    origin = container.start_time / av.time_base if container.start_time is not None else float(seconds[0])
    rate = stream.average_rate or stream.guessed_rate
    if not rate or not 0.01 < float(rate) < 1000:
        rate = (len(pts) - 1) / (seconds[-1] - seconds[0]) if len(pts) > 1 else 0.0
    tick = base.numerator, base.denominator
    return FrameIndex(pts, seconds - origin, keys, tick, origin, float(rate), max(int(expected), len(pts)))
