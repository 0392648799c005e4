"""Live scores: frames or features go in one at a time, a score per class comes out four times a second.

    stream = vtjax.load("runs/ovoad").stream(["cut", "pour"], fps=30)
    for frame in camera:
        for score in stream.push(frame):
            print(score.time, score.best())

The state has one fixed shape, the window of each stream and how much of it is filled, so that a step is compiled once.
Class lists are padded to a capacity and can be exchanged at any time; only one longer than the capacity compiles anew.
Nothing is kept between steps but features: positions are relative to the window, so keys and values cannot be.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Generator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtjax.errors import VtjaxError
from vtjax.methods.ovoad.classes import ClassSet, named_classes
from vtjax.methods.ovoad.embed import Scorer
from vtjax.methods.ovoad.resample import Resampler, Tick
from vtjax.methods.ovoad.sources import Source
from vtjax.nn.inference import float32_sums

_FLOAT32 = {"current_projection"}  # multiplied in float32 whatever the type of the others
CAPACITY = 32  # classes that a stream has room for at least; more where the list is longer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StreamState:
    """The windows of B streams.

    Attributes:
      features: float32 [B, T, D], oldest first, filled up on the left with a stream's first.
      filled: int32 [B], frames that a stream has had, at most T.
    """

    features: jax.Array
    filled: jax.Array

    @property
    def valid(self) -> jax.Array:
        """bool [B, T], False before a stream began."""
        window = self.features.shape[1]
        return jnp.arange(window)[None, :] >= window - self.filled[:, None]


def empty_state(streams: int, window: int, width: int) -> StreamState:
    """Makes the state of streams that have had nothing."""
    return StreamState(jnp.zeros((streams, window, width), jnp.float32), jnp.zeros((streams,), jnp.int32))


def advance(state: StreamState, new: jax.Array, active: jax.Array, fresh: jax.Array) -> StreamState:
    """Moves on by one frame.

    Args:
      new: float32 [B, D].
      active: bool [B], streams that have a new one.
      fresh: bool [B], streams that begin with it.
    """
    window = state.features.shape[1]
    begins = fresh | (state.filled == 0)
    moved = jnp.concatenate([state.features[:, 1:], new[:, None]], axis=1)
    moved = jnp.where(begins[:, None, None], new[:, None], moved)
    filled = jnp.where(begins, 1, jnp.minimum(state.filled + 1, window))
    features = jnp.where(active[:, None, None], moved, state.features)
    return StreamState(features, jnp.where(active, filled, state.filled).astype(jnp.int32))


def placed(params: dict, dtype: Any) -> dict:
    """Puts parameters on the device, once for all steps, with matrices in the type that they are multiplied in.

    The modules would convert them to the same at every step, which for one stream takes longer than the products.
    """

    def cast(path: tuple, leaf: Any) -> Any:
        names = [str(getattr(key, "key", key)) for key in path]
        matrix = names[-1] == "kernel" and not set(names) & _FLOAT32
        return jnp.asarray(leaf, dtype if matrix else None)

    return jax.tree_util.tree_map_with_path(cast, params)


@dataclasses.dataclass(frozen=True)
class _Step:
    """The compiled parts of a step."""

    advance: Callable
    score: Callable
    encode: Callable | None


@functools.lru_cache(maxsize=8)
def _compiled(scorer: Scorer) -> _Step:
    """Shared by all streams of a scorer, so that opening another compiles nothing."""
    encode = None if scorer.encoder is None else jax.jit(float32_sums(scorer.encoder.apply))
    return _Step(jax.jit(advance), jax.jit(float32_sums(scorer.score)), encode)


@dataclasses.dataclass(frozen=True)
class FrameScore:
    """The scores of one moment of one stream; arrays are numpy, C classes with the background first.

    Attributes:
      stream, step: their numbers, from 0.
      time: seconds on the stream's clock.
      names: of the classes.
      scores: float32 [C], the answer.
      group, current, clip: float32 [C], the branches; clip is None where it is off.
      actionness: in [0, 1], the predicted mask at this frame.
      binding: the group that the frame belongs to.
      mapping: float32 [k, C], cosines of all groups and classes.
      item: the frame or features, where they are kept.
    """

    stream: int
    step: int
    time: float
    names: tuple[str, ...]
    scores: np.ndarray
    group: np.ndarray
    current: np.ndarray
    clip: np.ndarray | None
    actionness: float
    binding: int
    mapping: np.ndarray
    item: Any = dataclasses.field(default=None, repr=False, compare=False)

    def best(self) -> tuple[str, float]:
        """Gives the class with the highest score, the background among them."""
        place = int(self.scores.argmax())
        return self.names[place], float(self.scores[place])

    def to_json(self) -> dict[str, Any]:
        """Gives a plain dict: stream, time, scores by class, actionness and group."""
        scores = {name: round(float(s), 6) for name, s in zip(self.names, self.scores, strict=True)}
        record = {"time": round(self.time, 3), "scores": scores, "actionness": round(self.actionness, 4)}
        return {"stream": self.stream, **record, "group": self.binding}


class LiveScorer:
    """Live streams of one model. Features of a source whose fps is the model's rate are taken as they come."""

    def __init__(
        self,
        scorer: Scorer,
        params: dict,
        classes: Sequence[str] | ClassSet,
        *,
        streams: int = 1,
        fps: float | Sequence[float] | None = None,
        start: float | None = None,
        capacity: int = 0,
        keep_items: bool = False,
    ):
        """Opens the streams of a run's scorer and its parameters; further arguments as those of `open_stream`.

        Raises:
          VtjaxError: no classes, one twice, or rates that are no rates.
        """
        if streams < 1:
            raise VtjaxError(f"streams={streams}: at least one is expected")
        rates = list(fps) if isinstance(fps, Sequence) else [fps] * streams
        if len(rates) != streams:
            raise VtjaxError(f"{len(rates)} rates for {streams} streams; one each, or one number for all")
        self.scorer, self.streams = scorer, streams
        self.params = placed(params, scorer.objective.dtype)
        self.rate, self.width = scorer.config.data.fps, scorer.config.model.width
        self._keep = keep_items
        self._resamplers = [Resampler(self.rate, rate, start) for rate in rates]
        self._steps = [0] * streams
        self._state = empty_state(streams, scorer.objective.window, self.width)
        self._step = _compiled(scorer)
        self._vision = None
        if scorer.encoder is not None:
            self._vision = placed(scorer.encoder.params["vision"], scorer.encoder.encoder.dtype)
        self._capacity = capacity
        self.set_classes(classes)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of the scores, background first."""
        return self._classes.names

    def set_classes(self, classes: Sequence[str] | ClassSet) -> None:
        """Exchanges the class list; the next step uses it. Nothing is compiled anew unless it exceeds the capacity.

        Raises:
          VtjaxError: an empty list, an empty name, or one that is given twice.
        """
        if isinstance(classes, str):
            raise VtjaxError(f"classes={classes!r}: a list of names is expected, not one text")
        new = classes if isinstance(classes, ClassSet) else named_classes(classes, self.scorer.config)
        capacity = max(self._capacity, CAPACITY)
        while capacity < len(new):
            capacity *= 2
        self._bank = self.scorer.bank(self.params, new, capacity)
        self._classes, self._capacity = new, capacity

    def push(self, item: np.ndarray, time: float | None = None, stream: int = 0) -> list[FrameScore]:
        """Takes one item of a stream and gives the scores of the steps that it makes ready.

        Args:
          item: a frame uint8 [H, W, 3] or features float [D].
          time: seconds on the source's clock; may be left out where the stream knows its fps.
          stream: its number.

        Raises:
          VtjaxError: another shape, type or width, a value that is not finite, a time that goes back, or neither time
            nor fps.
        """
        if not 0 <= stream < self.streams:
            raise VtjaxError(f"stream {stream} of {self.streams}; they count from 0")
        items: list[Any] = [None] * self.streams
        times: list[float | None] = [None] * self.streams
        items[stream], times[stream] = item, time
        return self.push_all(items, times)

    def push_all(
        self, items: Sequence[np.ndarray | None], times: Sequence[float | None] | None = None
    ) -> list[FrameScore]:
        """Takes one item of every stream, None where there is none; their steps are computed together.

        Raises:
          VtjaxError: as `push`; no stream has taken its item then.
        """
        times = [None] * self.streams if times is None else times
        if len(items) != self.streams or len(times) != self.streams:
            raise VtjaxError(f"{len(items)} items and {len(times)} times for {self.streams} streams; None for none")
        pairs = list(enumerate(zip(items, times, strict=True)))
        for number, (item, time) in pairs:
            if item is not None:
                self._check(item, number)
                self._resamplers[number].check(time)
        return self._drain([[] if item is None else self._resamplers[n].push(item, time) for n, (item, time) in pairs])

    def finish(self, end: float | None = None) -> list[FrameScore]:
        """Scores the moments that are left before `end`, default half a frame after the last.

        Streams begin anew with what is pushed next.
        """
        scores = self._drain([r.finish(end) for r in self._resamplers])
        self.reset()
        return scores

    def reset(self, stream: int | None = None) -> None:
        """Forgets what a stream (None: every stream) has had."""
        for number in range(self.streams) if stream is None else [stream]:
            self._resamplers[number].reset()
            self._steps[number] = 0

    def run(self, source: Source) -> Generator[FrameScore, None, None]:
        """Scores a whole source as it goes, for one stream; closes it at its end.

        Raises:
          VtjaxError: there are several streams, or an item is at fault.
        """
        if self.streams != 1:
            raise VtjaxError(f"a source is one stream, and these are {self.streams}; use push_all")
        self._resamplers[0] = Resampler(self.rate, source.fps, getattr(source, "start", None))
        try:
            for time, item in source:
                yield from self.push(item, time)
            yield from self.finish(source.end)
        finally:
            source.close()

    def _check(self, item: Any, stream: int) -> None:
        array = np.asarray(item)
        where = f"stream {stream}: " if self.streams > 1 else ""
        if array.ndim == 3:
            if self.scorer.encoder is None:
                raise VtjaxError(
                    f"{where}a frame {array.shape}, but this model has no image encoder: push features [{self.width}], "
                    "or name one by config.method.encoder.weights"
                )
            if array.dtype != np.uint8 or array.shape[-1] != 3 or 0 in array.shape:
                raise VtjaxError(f"{where}a frame {array.dtype} {array.shape}; uint8 [height, width, 3], RGB, expected")
            return
        if array.ndim != 1 or array.dtype.kind not in "fV":
            raise VtjaxError(
                f"{where}{array.dtype} {array.shape}; a frame uint8 [H, W, 3] or features float [{self.width}] are "
                "expected"
            )
        if len(array) != self.width:
            raise VtjaxError(
                f"{where}features of {len(array)} values, but the model takes {self.width} "
                "(config.method.model.width); they must come from the encoder that it was trained with"
            )
        if not np.isfinite(array.astype(np.float32)).all():
            raise VtjaxError(f"{where}features with a value that is not finite")

    def _features(self, picked: Sequence[tuple[int, Tick]]) -> np.ndarray:
        """float32 [streams, D]; rows of streams without an item are zero."""
        out = np.zeros((self.streams, self.width), np.float32)
        pictures = [(number, tick.item) for number, tick in picked if np.ndim(tick.item) == 3]
        if pictures:
            encoder = self.scorer.encoder
            pixels = np.zeros((self.streams, encoder.image_size, encoder.image_size, 3), np.uint8)
            for number, frame in pictures:
                pixels[number] = encoder.pixels(np.asarray(frame))
            encoded = np.asarray(self._step.encode(self._vision, pixels))
            for number, _ in pictures:
                out[number] = encoded[number]
        for number, tick in picked:
            if np.ndim(tick.item) == 1:
                out[number] = np.asarray(tick.item, np.float32)
        return out

    def _drain(self, queues: list[list[Tick]]) -> list[FrameScore]:
        answers = []
        for place in range(max(map(len, queues), default=0)):
            picked = [(number, queue[place]) for number, queue in enumerate(queues) if place < len(queue)]
            active, fresh = np.zeros(self.streams, bool), np.zeros(self.streams, bool)
            for number, tick in picked:
                active[number], fresh[number] = True, tick.fresh
            self._state = self._step.advance(self._state, self._features(picked), active, fresh)
            scores = self._step.score(self.params, self._state.features, self._state.valid, self._bank)
            answers += self._scores(picked, jax.device_get(scores))
        return answers

    def _scores(self, picked: Sequence[tuple[int, Tick]], scores: Any) -> list[FrameScore]:
        count, out = len(self._classes), []
        for number, tick in picked:
            out.append(
                FrameScore(
                    stream=number,
                    step=self._steps[number],
                    time=tick.time,
                    names=self._classes.names,
                    scores=scores.fused[number, :count],
                    group=scores.group[number, :count],
                    current=scores.current[number, :count],
                    clip=None if scores.clip is None else scores.clip[number, :count],
                    actionness=float(scores.actionness[number, -1]),
                    binding=int(scores.binding[number, -1]),
                    mapping=scores.mapping[number, :, :count],
                    item=tick.item if self._keep else None,
                )
            )
            self._steps[number] += 1
        return out


def open_stream(
    run: Any,
    classes: Sequence[str] | ClassSet | None = None,
    *,
    streams: int = 1,
    fps: float | Sequence[float] | None = None,
    start: float | None = None,
    capacity: int = 0,
    keep_items: bool = False,
    dtype: Any = "",
) -> LiveScorer:
    """Opens live streams of a trained run.

    Args:
      classes: names, or a ClassSet with prompts; default those of the run's data.
      streams: their number.
      fps: of the sources, where frames come without times; one number, or one a stream.
      start: the time in seconds at which the sources begin; None: their first frame's.
      capacity: classes that there is room for, at least.
      keep_items: whether scores carry the frame that they are of.
      dtype: of matmul inputs, "float32" or "bfloat16"; default that of the run's precision, float32 on CPUs.

    Raises:
      VtjaxError: no checkpoint, or settings that cannot work.
    """
    return LiveScorer(
        run.model.scorer_in(dtype), run.params, run.model.classes if classes is None else classes, streams=streams,
        fps=fps, start=start, capacity=capacity, keep_items=keep_items,
    )  # fmt: skip
