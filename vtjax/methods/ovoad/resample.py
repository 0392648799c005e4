"""From a source of any rate to the model's grid of times, as frames arrive.

Step i stands at (i + 1/2) / rate seconds after the source's beginning and takes the frame nearest to it, the earlier of
two, which is what `vtjax.data.video.sampling.rate_grid` takes of a whole file. A step is ready once a frame at or after
its time has come, so that nothing later can change it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from vtjax.errors import VtjaxError

MAX_GAP = 8.0  # seconds without a frame after which a stream begins anew: the window holds nothing from before


@dataclasses.dataclass(frozen=True)
class Tick:
    """One step of the model: its time in seconds, the item it takes and that item's own time. fresh: the first after
    a beginning, so that the state is to be cleared."""

    time: float
    item: Any
    taken: float
    fresh: bool


class Resampler:
    """rate: steps per second. fps: of the source, where its items come without times; None where they have them.

    A source whose fps is the rate itself, without times, is not resampled: every item is a step, at the step's time.
    start: time of the source's beginning; None is the first item's own.
    """

    def __init__(self, rate: float, fps: float | None = None, start: float | None = None, max_gap: float = MAX_GAP):
        if fps is not None and not (math.isfinite(fps) and fps > 0):
            raise VtjaxError(f"fps={fps}: frames per second of the source, a positive number, are expected")
        self.rate, self.fps, self.max_gap = rate, fps, max_gap
        self._start = start
        self.reset()

    def reset(self) -> None:
        """Forgets what has come; the next item begins the stream anew."""
        self._origin = self._start
        self._last: tuple[float, Any] | None = None
        self._step = self._count = 0
        self._first = self._last_gap = 0.0
        self._fresh = True

    @property
    def _passes(self) -> bool:
        return self.fps is not None and abs(self.fps - self.rate) < 1e-9

    def check(self, time: float | None) -> None:
        """Whether the next item can have this time.

        Raises VtjaxError: no time and no fps, a time that is not finite or that goes back.
        """
        if time is None:
            if self.fps is None:
                raise VtjaxError(
                    "the frame rate is unknown: give the source's fps once, or with every frame its time in seconds"
                )
            return
        if not math.isfinite(time):
            raise VtjaxError(f"frame {self._count}: its time is {time}, a number of seconds is expected")
        if self._last is not None and time < self._last[0]:
            raise VtjaxError(
                f"frame {self._count} is at {time:.3f} s, after one at {self._last[0]:.3f} s: times must not go back; "
                "reset the stream where a source begins again"
            )

    def push(self, item: Any, time: float | None = None) -> list[Tick]:
        """The steps that this item makes ready, in order; often none, several where the source is slower than the rate.

        Raises VtjaxError as `check`; nothing has changed then.
        """
        self.check(time)
        if time is None and self._passes:
            return [self._tick(self._time(self._advance()), item, None)]
        time = (self._start or 0.0) + self._count / self.fps if time is None else float(time)
        self._count += 1
        if self._origin is None:
            self._origin = time
        if self._last is None:
            self._last = (time, item)
            return self._ready(time, item)
        before = self._last[0]
        if time - before > self.max_gap:
            ticks = self._rest(before + min(self._last_gap, 1 / self.rate) / 2)
            self._origin, self._step, self._fresh = time, 0, True
            self._last, self._last_gap = (time, item), 0.0
            return ticks + self._ready(time, item)
        ticks = self._ready(time, item)
        self._last_gap = time - before or self._last_gap
        self._last = (time, item)
        return ticks

    def finish(self, end: float | None = None) -> list[Tick]:
        """The steps that are left before `end` seconds; default half a frame after the last item."""
        if self._last is None:
            return []
        last = self._last[0]
        ticks = self._rest(last + self._last_gap / 2 if end is None else float(end))
        if not self._step and not ticks:
            ticks = [self._tick(self._time(self._advance()), self._last[1], last)]  # as rate_grid: at least one
        self._last = None
        return ticks

    def _time(self, step: int) -> float:
        return (self._origin or 0.0) + (step + 0.5) / self.rate

    def _advance(self) -> int:
        self._step += 1
        return self._step - 1

    def _tick(self, time: float, item: Any, taken: float | None) -> Tick:
        tick = Tick(time, item, time if taken is None else taken, self._fresh)
        self._fresh = False
        return tick

    def _ready(self, time: float, item: Any) -> list[Tick]:
        """Steps at or before `time`: each takes the nearer of the last item and this one."""
        ticks = []
        while self._time(self._step) <= time:
            at = self._time(self._advance())
            before, last = self._last
            later = last is item or time - at < at - before
            ticks.append(self._tick(at, item if later else last, time if later else before))
        return ticks

    def _rest(self, end: float) -> list[Tick]:
        """Steps before `end`, which is itself left out but for rounding; all take the last item."""
        ticks = []
        time, item = self._last
        while (self._step + 0.5) / self.rate < end - self._origin - 1e-6 / self.rate:
            ticks.append(self._tick(self._time(self._advance()), item, time))
        return ticks
