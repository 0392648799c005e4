"""Plays a source through a stream and keeps what was scored; and draws it."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vtjax.errors import VtjaxError
from vtjax.methods.ovoad.resample import MAX_GAP
from vtjax.methods.ovoad.sources import Source
from vtjax.methods.ovoad.stream import FrameScore, LiveScorer
from vtjax.report.page import Page
from vtjax.report.player import draw_player
from vtjax.report.timeline import Timeline, draw_timeline, small_picture

LAG = 5.0  # seconds behind a camera that are noted
EVERY = 1.0  # seconds between pictures that are kept for the page
_LISTED = 40  # segments in the table of a page


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch in which one class scored highest. start, end: seconds. score: its mean."""

    name: str
    start: float
    end: float
    score: float


@dataclasses.dataclass
class Recording:
    """The scores of a source.

    Attributes:
      source: its name.
      classes: names, the background first.
      steps: every FrameScore, without its frame.
      pictures: (seconds, small frame).
      notes: what a reader must know before believing any of it.
    """

    source: str
    classes: tuple[str, ...]
    steps: list[FrameScore]
    pictures: list[tuple[float, np.ndarray]]
    notes: list[str]

    @property
    def times(self) -> np.ndarray:
        """float64 [n] seconds."""
        return np.array([s.time for s in self.steps])

    @property
    def scores(self) -> np.ndarray:
        """float32 [n, C]."""
        return np.stack([s.scores for s in self.steps])

    @property
    def segments(self) -> list[Segment]:
        """Stretches of one best class."""
        return segments(self.classes, self.times, self.scores)

    def to_json(self) -> dict[str, Any]:
        """Gives a plain dict for json.dump."""
        return {
            "source": self.source,
            "notes": self.notes,
            "classes": list(self.classes),
            "segments": [dataclasses.asdict(s) for s in self.segments],
            "steps": [s.to_json() for s in self.steps],
        }


def segments(names: Sequence[str], times: np.ndarray, scores: np.ndarray) -> list[Segment]:
    """Finds stretches of steps with the same best class, in order; a gap in the times ends one. scores: [n, C]."""
    if not len(times):
        return []
    step = float(np.median(np.diff(times))) if len(times) > 1 else 0.25
    best = scores.argmax(axis=1)
    cut = (best[1:] != best[:-1]) | (np.diff(times) > 1.5 * step)
    edges = [0, *(np.flatnonzero(cut) + 1), len(best)]
    stretches = []
    for a, b in itertools.pairwise(edges):
        mean = float(scores[a:b, best[a]].mean())
        stretches.append(Segment(names[best[a]], float(times[a] - step / 2), float(times[b - 1] + step / 2), mean))
    return stretches


def record(
    live: LiveScorer,
    source: Source,
    *,
    seconds: float = 0.0,
    notes: Sequence[str] = (),
    each: Callable[[FrameScore], None] | None = None,
) -> Recording:
    """Plays a source through a stream, and keeps scores and a picture every second.

    An interrupt from the keyboard ends a live source; what was recorded stays.

    Args:
      live: one stream.
      source: of frames or features.
      seconds: stop after so many, 0 for never.
      notes: to begin with.
      each: is given every score as it comes.

    Raises:
      VtjaxError: a frame at fault, or a source that ends before the first step.
    """
    recording = Recording(source.name, live.classes, [], [], list(notes))
    steps, began, lag = live.run(source), time.monotonic(), 0.0
    try:
        for score in steps:
            _keep(recording, score)
            played = score.time - recording.steps[0].time
            lag = time.monotonic() - began - played
            if each is not None:
                each(recording.steps[-1])
            if seconds and played >= seconds:
                break
    except KeyboardInterrupt:
        if not source.live:
            raise
        recording.notes.append("Stopped from the keyboard.")
    finally:
        steps.close()
    if not recording.steps:
        raise VtjaxError(f"{source.name}: ends before a single frame was scored")
    if source.paced and lag > LAG:
        recording.notes.append(f"Scoring was slower than the source, and {lag:.0f} s behind it at the end.")
    gaps = int((np.diff(recording.times) > MAX_GAP).sum())
    if gaps:
        recording.notes.append(f"{gaps} gaps of more than {MAX_GAP:g} s; the stream began anew after each.")
    if source.damage:
        recording.notes.append(f"The file is damaged: {source.damage}.")
    return recording


def _keep(recording: Recording, score: FrameScore) -> None:
    due = not recording.pictures or score.time - recording.pictures[-1][0] >= EVERY - 1e-6
    if due and np.ndim(score.item) == 3:
        recording.pictures.append((score.time, small_picture(score.item)))
    recording.steps.append(dataclasses.replace(score, item=None))


def recording_page(recording: Recording, model: str = "") -> Page:
    """Draws the page of one source: its timeline, with the frames, and what scored highest. model: where it is from."""
    names, times, steps = recording.classes, recording.times, recording.steps
    facts = {
        "source": recording.source,
        "length": f"{times[-1] - times[0]:.1f} s, {len(times)} steps",
        "classes": len(names) - 1,
        **({"model": model} if model else {}),
    }
    page = Page(pathlib.Path(recording.source).name or recording.source, "Scores as the frames came", facts)
    for note in recording.notes:
        page.text(note, cls="bad")
    page.section("Timeline", "Every score was made from its frame and those before it.")
    parts = _without_gaps(times)
    for rows in parts:
        part = [steps[i] for i in rows]
        drawn = Timeline(
            times[rows], names, recording.scores[rows], None, np.array([s.binding for s in part]),
            [names[int(s.mapping[s.binding].argmax())] for s in part], np.array([s.actionness for s in part]),
            [(t, picture) for t, picture in recording.pictures if part[0].time <= t <= part[-1].time],
        )  # fmt: skip
        page.add(draw_player(drawn) if len(parts) == 1 else "", draw_timeline(drawn))
    stretches = recording.segments
    page.section("What scored highest", "Stretches in which one class had the highest score.")
    listed = [[p.name, f"{p.start:.2f}\u2013{p.end:.2f} s", round(p.score, 4)] for p in stretches[:_LISTED]]
    page.grid(["class", "when", "mean score"], listed)
    if len(stretches) > _LISTED:
        page.text(f"{len(stretches) - _LISTED} further stretches are in the .json file.", cls="legend")
    return page


def _without_gaps(times: np.ndarray) -> list[np.ndarray]:
    """Rows between gaps in the times, which are drawn apart."""
    if len(times) < 2:
        return [np.arange(len(times))]
    step = float(np.median(np.diff(times)))
    cuts = np.flatnonzero(np.diff(times) > 2.5 * step) + 1
    return [rows for rows in np.split(np.arange(len(times)), cuts) if len(rows)]
