"""Scores of a live source or a file with the user's own class list: `python -m vtjax.predict`, and from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np

from vtjax.arguments import LinesOf, PictureSize
from vtjax.errors import VtjaxError
from vtjax.methods.ovoad.recording import Recording, record, recording_page
from vtjax.methods.ovoad.sources import open_source
from vtjax.methods.ovoad.stream import FrameScore, open_stream
from vtjax.report.answer import Answer


def predict(
    run: Any,
    *,
    video: str,
    classes: Annotated[Sequence[str], LinesOf("class name", distinct=True)] | None = None,
    fps: float | None = None,
    raw_size: Annotated[tuple[int, int], PictureSize()] | None = None,
    seconds: float = 0.0,
    dtype: Literal["", "float32", "bfloat16"] = "",
    each: Callable[[FrameScore], None] | None = None,
) -> Recording:
    """Scores a source frame by frame as it comes.

    Args:
      video: Video file, camera:0, - for standard input, or a .npy of frame features.
      classes: What to look for; default the classes of the run's data. From Python also a ClassSet, with prompts.
      fps: Rows per second of features, or frames per second of raw frames on - .
      raw_size: Size of raw RGB frames on standard input.
      seconds: Stop after so many seconds; 0 is never.
      dtype: Of matmul inputs; default that of the run.
      each: Is given every score as it comes.

    Raises:
      VtjaxError: nothing to read, a class list that cannot be used, features of another width, an unknown frame rate.
    """
    if seconds < 0:
        raise VtjaxError(f"seconds={seconds}: 0 or more is expected")
    source = open_source(video, rate=run.experiment.method.data.fps, fps=fps, raw_size=raw_size)
    try:
        live = open_stream(run, classes, dtype=dtype, keep_items=True)
        return record(live, source, seconds=seconds, notes=weight_notes(run), each=each)
    finally:
        source.close()


def weight_notes(run: Any) -> list[str]:
    """Says why the scores of this run's weights may mean nothing for a real video."""
    config = run.experiment.method
    if config.data.source == "world":
        return [
            "The weights were learnt in the embedded workshop world, from drawn videos of a hand and a few objects. "
            "For any other video these scores mean nothing; they show that everything runs."
        ]
    if not config.encoder.weights:
        return ["The run names no image encoder: the features must come from the one that it was trained with."]
    return []


def watch(write: Callable[[str], None]) -> Callable[[FrameScore], None]:
    """Makes a value of `each` that writes a line every second."""
    written: list[float] = []

    def each(score: FrameScore) -> None:
        if not written or score.time - written[-1] >= 1.0 - 1e-6:
            written.append(score.time)
            write(line(score))

    return each


def line(score: FrameScore, best: int = 3) -> str:
    """One line for a terminal: the time, the best classes and the mask."""
    order = np.argsort(-score.scores, kind="stable")[:best]
    words = "  ".join(f"{score.names[i]} {score.scores[i]:.3f}" for i in order)
    return f"{score.time:8.2f} s  {words}  (action {score.actionness:.2f})"


def answer(run: Any, given: Mapping[str, Any], recording: Recording) -> Answer:
    """The recording for a terminal, JSON, CSV (its segments) and a page with its timeline."""
    lines = [*(f"note: {note}" for note in recording.notes), f"{len(recording.steps)} steps of {recording.source}"]
    rows = [(s.name, s.start, s.end, s.score) for s in recording.segments]
    page = recording_page(recording, str(run.work))
    return Answer(lines, recording.to_json(), ("class", "start", "end", "mean score"), rows, page, indent=None)
