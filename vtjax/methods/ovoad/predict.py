"""Scores of a live source or a file with the user's own class list: `python -m vtjax.predict`, and from Python."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vtjax.errors import VtjaxError
from vtjax.files import write_atomically
from vtjax.methods.ovoad.classes import ClassSet, named_classes, world_classes
from vtjax.methods.ovoad.resample import MAX_GAP
from vtjax.methods.ovoad.sources import Source, open_source
from vtjax.methods.ovoad.stream import FrameScore, LiveScorer, open_stream
from vtjax.report.timeline import small_picture

LAG = 5.0  # seconds behind a camera that are told
EVERY = 1.0  # seconds between pictures that are kept for the report


@dataclasses.dataclass
class Recording:
    """What a stream said of a source. steps: every FrameScore, without its frame. pictures: (seconds, small frame).
    notes: what a reader must know before believing any of it."""

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

    def to_json(self) -> dict[str, Any]:
        """Plain dict for json.dump."""
        return {
            "source": self.source,
            "notes": self.notes,
            "classes": list(self.classes),
            "segments": [dataclasses.asdict(s) for s in segments(self.classes, self.times, self.scores)],
            "steps": [s.to_json() for s in self.steps],
        }


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch in which one class scored highest. start, end: seconds. score: its mean."""

    name: str
    start: float
    end: float
    score: float


def segments(names: Sequence[str], times: np.ndarray, scores: np.ndarray) -> list[Segment]:
    """Stretches of steps with the same best class, in order; a gap in the times ends one. scores: [n, C]."""
    if not len(times):
        return []
    step = float(np.median(np.diff(times))) if len(times) > 1 else 0.25
    best = scores.argmax(axis=1)
    cut = (best[1:] != best[:-1]) | (np.diff(times) > 1.5 * step)
    edges = [0, *(np.flatnonzero(cut) + 1), len(best)]
    found = []
    for a, b in zip(edges, edges[1:]):
        mean = float(scores[a:b, best[a]].mean())
        found.append(Segment(names[best[a]], float(times[a] - step / 2), float(times[b - 1] + step / 2), mean))
    return found


def weight_notes(run: Any) -> list[str]:
    """Why the scores of this run's weights may mean nothing for a real video."""
    config = run.experiment.method
    if config.data.source == "world":
        return [
            "The weights were learnt in the embedded workshop world, from drawn videos of a hand and a few objects. "
            "For any other video these scores mean nothing; they show that everything runs."
        ]
    if not config.encoder.weights:
        return ["The run names no image encoder: the features must come from the one that it was trained with."]
    return []


def own_classes(run: Any) -> ClassSet:
    """The classes of a run's own data. Raises VtjaxError where it has none."""
    config = run.experiment.method
    if config.data.source == "world":
        return world_classes(config)
    from vtjax.data.video.store import VideoStore

    names = [n for n in VideoStore(config.data.source).classes if n]
    if not names:
        raise VtjaxError(f"{config.data.source}: the run's data has no class names; name the classes to look for")
    return named_classes(names, config)


def read_classes(path: str) -> list[str]:
    """Class names, one a line. Raises VtjaxError: no file, no line, an empty line between, or a name given twice."""
    file = pathlib.Path(path)
    if not file.is_file():
        raise VtjaxError(f"--classes={path}: no such file; one class name a line is expected")
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise VtjaxError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from None
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise VtjaxError(f"{path}: the class list is empty; one name a line is expected")
    places: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            raise VtjaxError(f"{path}:{number}: empty line; one class name a line is expected")
        if line.lower() in places:
            raise VtjaxError(f"{path}:{number}: {line!r} is listed twice, first in line {places[line.lower()]}")
        places[line.lower()] = number
    return lines


def record(
    live: LiveScorer, source: Source, *, seconds: float = 0.0, notes: Sequence[str] = (),
    each: Callable[[FrameScore], None] | None = None,
) -> Recording:
    """Plays a source through a stream, and keeps scores and a picture every second.

    seconds: stop after so many, 0 for never. each: is given every score as it comes. An interrupt from the keyboard
    ends a live source; what was recorded stays.

    Raises VtjaxError: a frame at fault, or a source that ends before the first step.
    """  # fmt: skip
    found = Recording(source.name, live.classes, [], [], list(notes))
    steps, began, lag = live.run(source), time.monotonic(), 0.0
    try:
        for score in steps:
            _keep(found, score)
            lag = time.monotonic() - began - (score.time - found.steps[0].time)
            if each is not None:
                each(found.steps[-1])
            if seconds and score.time - found.steps[0].time >= seconds:
                break
    except KeyboardInterrupt:
        if not source.live:
            raise
        found.notes.append("Stopped from the keyboard.")
    finally:
        steps.close()
    if not found.steps:
        raise VtjaxError(f"{source.name}: ends before a single frame was scored")
    if source.paced and lag > LAG:
        found.notes.append(f"Scoring was slower than the source, and {lag:.0f} s behind it at the end.")
    gaps = int((np.diff(found.times) > MAX_GAP).sum())
    if gaps:
        found.notes.append(f"{gaps} gaps of more than {MAX_GAP:g} s; the stream began anew after each.")
    damage = getattr(source, "damage", "")
    if damage:
        found.notes.append(f"The file is damaged: {damage}.")
    return found


def _keep(found: Recording, score: FrameScore) -> None:
    item = score.item
    if item is not None and np.ndim(item) == 3:
        if not found.pictures or score.time - found.pictures[-1][0] >= EVERY - 1e-6:
            found.pictures.append((score.time, small_picture(item)))
    found.steps.append(dataclasses.replace(score, item=None))


def predict(
    run: Any,
    *,
    video: str,
    classes: Sequence[str] | ClassSet | None = None,
    fps: float | None = None,
    raw_size: tuple[int, int] | None = None,
    seconds: float = 0.0,
    dtype: str = "",
    each: Callable[[FrameScore], None] | None = None,
) -> Recording:
    """Scores of a file, a camera ("camera:0"), standard input ("-") or a .npy of features as they come.

    classes: names to look for, default those of the run's data. fps: rows per second of features, or of raw frames on
    standard input, whose (height, width) is raw_size. seconds: stop after so many, 0 for never. dtype: of matmul
    inputs, "float32" or "bfloat16", "" for that of the run.

    Raises:
      VtjaxError: nothing to read, a class list that cannot be used, features of another width, an unknown frame rate.
    """
    if seconds < 0:
        raise VtjaxError(f"seconds={seconds}: 0 or more is expected")
    rate = run.experiment.method.data.fps
    source = open_source(video, rate=rate, fps=fps, raw_size=raw_size)
    try:
        live = open_stream(run, classes, dtype=dtype or None, keep_items=True)
        return record(live, source, seconds=seconds, notes=weight_notes(run), each=each)
    finally:
        source.close()


def define_flags() -> None:
    """Flags of `python -m vtjax.predict` for this method."""
    from absl import flags

    flags.DEFINE_string("video", "", "Video file, camera:0, - for standard input, or a .npy of frame features.")
    flags.DEFINE_string("classes", "", "File with one class name a line; default the classes of the run's data.")
    flags.DEFINE_float("fps", None, "Rows per second of features, or frames per second of raw frames on - .")
    flags.DEFINE_string("raw_size", "", "WIDTHxHEIGHT of raw RGB frames on standard input.")
    flags.DEFINE_float("seconds", 0.0, "Stop after so many seconds; 0 is never.", lower_bound=0)
    flags.DEFINE_enum("dtype", "", ["", "float32", "bfloat16"], "Of matmul inputs; default that of the run.")
    flags.DEFINE_bool("live", True, "Print a line every second as scores come.")


def command(run: Any, flags: Any, output: pathlib.Path) -> int:
    """One source from the command line: prints as it goes, writes OUTPUT.json and OUTPUT.html."""
    from vtjax.methods.ovoad.report import recording_report

    if not flags.video:
        raise VtjaxError("--video is needed: a file, camera:0, - for standard input, or a .npy of features")
    classes = read_classes(flags.classes) if flags.classes else None
    size = _size(flags.raw_size) if flags.raw_size else None
    printed: list[float] = []

    def each(score: FrameScore) -> None:
        if flags.live and (not printed or score.time - printed[-1] >= 1.0 - 1e-6):
            printed.append(score.time)
            print(line(score), flush=True)

    found = predict(
        run, video=flags.video, classes=classes, fps=flags.fps, raw_size=size, seconds=flags.seconds,
        dtype=flags.dtype, each=each,
    )  # fmt: skip
    for note in found.notes:
        print(f"note: {note}")
    output.parent.mkdir(parents=True, exist_ok=True)
    path = write_atomically(output.with_suffix(".json"), json.dumps(found.to_json(), ensure_ascii=False) + "\n")
    page = recording_report(found, output.with_suffix(".html"), model=str(run.work))
    print(f"\n{len(found.steps)} steps of {found.source}\nwritten: {path}, {page}")
    return 0


def line(score: FrameScore, best: int = 3) -> str:
    """One line for a terminal: the time, the best classes and the mask."""
    order = np.argsort(-score.scores, kind="stable")[:best]
    words = "  ".join(f"{score.names[i]} {score.scores[i]:.3f}" for i in order)
    return f"{score.time:8.2f} s  {words}  (action {score.actionness:.2f})"


def _size(text: str) -> tuple[int, int]:
    """"640x360" -> (360, 640)."""
    width, x, height = text.lower().partition("x")
    if not (x and width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise VtjaxError(f"--raw_size={text}: WIDTHxHEIGHT is expected, such as 640x360")
    return int(height), int(width)
