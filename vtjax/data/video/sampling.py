"""Which frames of a video a model sees: the papers' rules, each with its own rounding. Indices int64, times seconds.

    uniform             PiTe                       int32 of linspace: rounded toward zero, first and last frame included
    segments            ALT, X-CLIP                TSN: training rounds the segment down, testing rounds its centre down
    dense_window        contiguous frames          one every `stride`, from the middle or from a drawn start
    rate_grid           the same by time           for video of any rate; offset 0 for MPTVA's frames

With an odd number of frames in a segment, or a rate that does not divide, these rules pick different frames.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from vtjax.data.video.timed import Video
from vtjax.errors import VtjaxError, nearest


def uniform(count: int, frames: int) -> np.ndarray:
    """[frames] indices of a video of `count` frames, first and last included; repeats where it is shorter (PiTe)."""
    _check(count, frames)
    return np.linspace(0, count - 1, frames).astype(np.int32).astype(np.int64)


def segments(count: int, frames: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """[frames] indices, one of each of `frames` equal segments (TSN, as ALT samples).

    With rng (training): i * floor(n / T) + a draw below floor(n / T), or round(i * n / T) where n < T. Without
    (testing): floor(i * n / T + n / (2 T)), the centres. Taken modulo n. The frames that floor(n / T) leaves over at
    the end are never drawn in training, as in X-CLIP.
    """
    _check(count, frames)
    steps = np.arange(frames)
    if rng is None:
        picks = np.floor(steps * (count / frames) + count / frames / 2)
    elif count >= frames:
        size = count // frames
        picks = steps * size + rng.integers(size, size=frames)
    else:
        picks = np.rint(steps * (count / frames))
    return picks.astype(np.int64) % count


def dense_window(count: int, frames: int, stride: int = 1, rng: np.random.Generator | None = None) -> np.ndarray:
    """[frames] indices `stride` apart from one start: drawn with rng, else so that the window lies in the middle
    (rounded down). Frames after the end of a shorter video repeat its last one; see `inside` for their mask."""
    _check(count, frames)
    if stride < 1:
        raise VtjaxError(f"stride {stride}: at least 1 is expected")
    room = max(count - ((frames - 1) * stride + 1), 0)
    start = room // 2 if rng is None else int(rng.integers(room + 1))
    return np.minimum(start + stride * np.arange(frames), count - 1)


def fixed_rate_times(duration: float, rate: float, offset: float = 0.5) -> np.ndarray:
    """float64 times (i + offset) / rate below `duration` seconds; at least one. offset 0.5 is the middle of each of
    the steps (OV-OAD), 0 their beginning (features that were cut by ffmpeg's fps filter)."""
    if not duration > 0 or not rate > 0 or not 0 <= offset < 1:
        raise VtjaxError(f"{duration} s at {rate}/s, offset {offset}: positive numbers, offset in [0, 1) are expected")
    # A time at the very end, but for rounding, is not below it.
    count = max(1, int(np.ceil(duration * rate - offset - 1e-6)))
    return (np.arange(count) + offset) / rate


def rate_grid(video: Video, rate: float, offset: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """(times float64 [n], indices int64 [n]): the frames nearest to (i + offset) / rate after the video's start.

    At constant rates these are OV-OAD's round((i + 0.5) / rate * fps), but for ties. At least one.
    """
    last = float(video.times[-1])
    step = float(np.median(np.diff(video.times))) if len(video) > 1 else 0.0
    length = min(video.end, last + step / 2) - video.start
    times = video.start + fixed_rate_times(max(length, 1e-3), rate, offset)
    return times, video.index_near(times)


def inside(count: int, frames: int, stride: int = 1) -> np.ndarray:
    """bool [frames], which frames of a dense window a video of `count` frames really has."""
    return np.arange(frames) * stride < count


RULES = ("uniform", "segments", "dense", "rate")


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A fixed number of frames by one rule: `sampler(video, rng)` -> (indices int64 [frames], mask bool [frames]).

    rule: uniform, segments, dense (every `stride` frames) or rate (a window at `rate` frames per second, by time).
    The mask is False where the video is too short and its last frame stands in. With rng, segments, dense and rate
    draw; without, they take the middle.
    """

    rule: str = "segments"
    frames: int = 8
    stride: int = 1
    rate: float = 4.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise VtjaxError(f"sampling rule {self.rule!r}: {nearest(self.rule, RULES)}")
        if self.frames < 1 or self.stride < 1 or not self.rate > 0:
            raise VtjaxError(f"{self}: frames, stride and rate must be positive")

    def __call__(self, video: Video, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
        count = len(video)
        mask = np.ones(self.frames, bool)
        if self.rule == "uniform":
            return uniform(count, self.frames), mask
        if self.rule == "segments":
            return segments(count, self.frames, rng), mask
        if self.rule == "dense":
            return dense_window(count, self.frames, self.stride, rng), inside(count, self.frames, self.stride)
        _, picks = rate_grid(video, self.rate)
        return picks[dense_window(len(picks), self.frames, 1, rng)], inside(len(picks), self.frames)


def _check(count: int, frames: int) -> None:
    if count < 1 or frames < 1:
        raise VtjaxError(f"{frames} of {count} frames: at least one of each is expected")
