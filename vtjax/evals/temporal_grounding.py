"""Temporal grounding: when in a video a described step or event happens, by points and by spans.

Points, as Multi-Pathway Text-Video Alignment (Chen et al., ECCV 2024, section 4.1) reports them: one second per query,
right inside any true segment. HT-Step and HTM-Align pool all queries; CrossTask averages tasks.
Spans, as VTimeLLM (Huang et al., CVPR 2024) and PiTe (Liu et al., ECCV 2024) report them: recall at three overlaps.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Num

from vtjax.arrays import Array
from vtjax.errors import VtjaxError, nearest
from vtjax.evals import statistics
from vtjax.evals.protocol import Result

OVERLAPS = (0.3, 0.5, 0.7)
WHOLE_VIDEO = (0.0, 0.99)  # "from 00 to 99"
_INSIDE: Mapping[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "inclusive": lambda t, start, end: (np.floor(start) <= t) & (t <= np.ceil(end)),
    "half open": lambda t, start, end: (np.floor(start) <= t) & (t < np.ceil(end)),
    "exact": lambda t, start, end: (start <= t) & (t <= end),
}
RULES = tuple(_INSIDE)
_CELLS = 1 << 22  # overlaps computed at a time


@dataclasses.dataclass(frozen=True)
class Query:
    """A step or sentence that happens in a video.

    video: id of the video. segments: float [K, 2], its true (start, end) in seconds, at least one.
    seconds: length of the video, the number of whole seconds that a prediction chooses from.
    task: id of the task that the step belongs to, where tasks are averaged.
    """

    video: str
    segments: np.ndarray
    seconds: int
    task: str = ""

    def __post_init__(self) -> None:
        segments = np.asarray(self.segments, np.float64)
        if segments.ndim != 2 or segments.shape[1:] != (2,) or not len(segments) or self.seconds < 1:
            raise VtjaxError(f"{self.video}: a query needs segments [K, 2] and 1 second or more, got {segments.shape}")
        if not (segments[:, 0] <= segments[:, 1]).all():
            raise VtjaxError(f"{self.video}: a segment ends before it starts")
        object.__setattr__(self, "segments", segments)

    def hit(self, times: Num[Array, "times"], rule: str = "inclusive") -> Bool[Array, "times"]:
        """bool [T]: which times, in seconds [T], lie in any true segment by one of `RULES`."""
        if rule not in _INSIDE:
            raise VtjaxError(f"rule for the ends of segments {rule!r}: {nearest(rule, RULES)}")
        return np.any(_INSIDE[rule](np.asarray(times)[:, None], *self.segments.T), axis=1)


def _hits_and_chance(
    times: Sequence[float] | np.ndarray, queries: Sequence[Query], rule: str
) -> tuple[np.ndarray, np.ndarray]:
    """float [N]: whether each query's time is right, and the share of its video's whole seconds that would be."""
    times = np.asarray(times, np.float64)
    if times.shape != (len(queries),) or not len(queries):
        raise VtjaxError(f"one time for each of 1 or more queries is expected, got {times.shape} for {len(queries)}")
    hits = np.array([query.hit(time[None], rule)[0] for time, query in zip(times, queries, strict=True)], float)
    return hits, np.array([query.hit(np.arange(query.seconds), rule).mean() for query in queries])


def _rule_note(rule: str) -> str:
    ends = {"inclusive": "rounded outwards, both ends included", "half open": "rounded outwards, the end left out"}
    return f"segments {ends.get(rule, 'as annotated, both ends included')}"


def pooled_recall(
    times: Num[Array, "..."] | Sequence[float], queries: Sequence[Query], protocol: str, rule: str = "inclusive"
) -> Result:
    """R@1 of HT-Step's occurring steps and HTM-Align's alignable sentences: hits over all queries of all videos.

    Args:
      times: the second predicted for each query, [N].
      queries: the N queries; what does not happen in its video is not among them.
      protocol: name of the result.
      rule: what of a segment counts, one of `RULES`.

    Returns:
      R@1 in percent; chance is that of a second drawn at random; the interval resamples videos.
    """
    hits, chance = _hits_and_chance(times, queries, rule)
    videos = np.array([query.video for query in queries])
    return Result(
        protocol=protocol,
        metrics={"R@1": 100 * float(hits.mean())},
        items=len(hits),
        chance={"R@1": 100 * float(chance.mean())},
        interval={"R@1": statistics.rate_interval(hits, videos)},
        notes=(f"{len(np.unique(videos))} videos", _rule_note(rule)),
    )


def task_recall(
    times: Num[Array, "..."] | Sequence[float],
    queries: Sequence[Query],
    protocol: str,
    rule: str = "inclusive",
    sets: int = 20,
    size: int = 1850,
) -> Result:
    """Average R@1 of CrossTask: recall pooled in each task, averaged over tasks, then over random sets of videos.

    Set s is `random.Random(s).sample(videos, size)`, with the videos in order of first appearance; of `size` videos or
    fewer all are one set. Arguments as `pooled_recall`; sets, size: number of sets, and of videos in each.
    """
    hits, chance = _hits_and_chance(times, queries, rule)
    names = list(dict.fromkeys(query.video for query in queries))
    video = np.array([names.index(query.video) for query in queries])
    tasks = np.unique([query.task for query in queries], return_inverse=True)[1]
    average = statistics.mean_of_means(tasks)
    drawn = [random.Random(s).sample(range(len(names)), min(size, len(names))) for s in range(sets)]
    weights = np.stack([np.isin(video, chosen).astype(float) for chosen in drawn])
    recall = average(hits, weights)
    low, high = statistics.bootstrap_interval(hits, average, video)
    notes = [f"{tasks.max() + 1} tasks, {len(names)} videos", _rule_note(rule)]
    if len(names) > size:
        notes.append(f"mean of {sets} random sets of {size} videos, standard deviation {100 * recall.std():.2f}")
    return Result(
        protocol=protocol,
        metrics={"R@1": 100 * float(recall.mean())},
        items=len(hits),
        chance={"R@1": 100 * float(average(chance, weights).mean())},
        interval={"R@1": (100 * float(low), 100 * float(high))},
        notes=tuple(notes),
    )


def overlaps(predicted: Float[Array, "*#spans 2"], true: Float[Array, "*#spans 2"]) -> Float[Array, "..."]:
    """Intersection over hull of spans float [..., 2] and [..., 2], in [0, 1]; 0 for no answer (nan) or a reversed one.

    The hull is the union wherever the spans meet. Two equal spans without length have 0.
    """
    inner = np.minimum(predicted[..., 1], true[..., 1]) - np.maximum(predicted[..., 0], true[..., 0])
    hull = np.maximum(predicted[..., 1], true[..., 1]) - np.minimum(predicted[..., 0], true[..., 0])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((inner > 0) & (hull > 0), inner / hull, 0.0)


def _span_scores(overlap: Float[Array, "*spans"], rounded: bool) -> Float[Array, "*spans 4"]:
    """float [..., 4]: whether each overlap [...] reaches each of `OVERLAPS`, and itself."""
    overlap = np.round(overlap, 2) if rounded else overlap
    return np.stack([*(overlap >= least for least in OVERLAPS), overlap], axis=-1).astype(float)


def span_recall(
    predicted: Float[Array, "..."],
    true: Float[Array, "..."],
    videos: Sequence[str],
    protocol: str,
    rounded: bool = True,
) -> Result:
    """R@1 at overlaps of 0.3, 0.5 and 0.7 and the mean overlap (mIoU), in percent.

    Args:
      predicted: (start, end) as fractions of the video, float [N, 2]; nan where the answer names no span.
      true: the annotated spans, float [N, 2].
      videos: the video of each query, [N].
      protocol: name of the result.
      rounded: overlaps are rounded to 2 decimals before they are compared, as VTimeLLM's code does.

    Returns:
      Chance is exactly what the true span of a query drawn at random gives; a note says what the whole video gives,
      which is often more. The interval resamples videos.
    """
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if predicted.shape != true.shape or true.shape != (len(videos), 2) or not len(true):
        raise VtjaxError(f"spans [N, 2] of {len(videos)} queries are expected, got {predicted.shape} and {true.shape}")
    names = [f"R@1 IoU={least}" for least in OVERLAPS] + ["mIoU"]
    scores = _span_scores(overlaps(predicted, true), rounded)
    step = max(1, _CELLS // len(true))
    blocks = (true[start : start + step, None] for start in range(0, len(true), step))
    chance = sum(_span_scores(overlaps(true, block), rounded).sum(axis=(0, 1)) for block in blocks) / len(true) ** 2
    whole = _span_scores(overlaps(np.broadcast_to(WHOLE_VIDEO, true.shape), true), rounded).mean(axis=0)
    groups = np.asarray(videos)
    percent = lambda values: {name: 100 * float(value) for name, value in zip(names, values, strict=True)}
    unanswered = int(np.isnan(predicted).any(axis=1).sum())
    notes = [f"the whole video gives {', '.join(f'{name} {value:.2f}' for name, value in percent(whole).items())}"]
    notes += [f"{unanswered} answers name no span and count 0"] if unanswered else []
    return Result(
        protocol=protocol,
        metrics=percent(scores.mean(axis=0)),
        items=len(scores),
        chance=percent(chance),
        interval={name: statistics.rate_interval(column, groups) for name, column in zip(names, scores.T, strict=True)},
        notes=(f"{len(np.unique(groups))} videos", *notes),
    )
