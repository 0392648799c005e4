"""What readers of published video data sets yield: one record type with the annotations that the data set has.

Times are float seconds from the start of the video. Class indices are 0-based; -1 stands for "none".
"""

from __future__ import annotations

import base64
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vtjax.errors import VtjaxError
from vtjax.evals.frame_targets import FrameTargets


@dataclasses.dataclass(frozen=True)
class Segment:
    """An action or step of the video. label: class or step index, noun: index of EPIC-KITCHENS' object class.

    text: the class name, or the sentence. tag: a word of the data set about the segment ("Partial Match").
    """

    start: float
    end: float
    text: str
    label: int = -1
    noun: int = -1
    tag: str = ""


@dataclasses.dataclass(frozen=True)
class Narration:
    """A sentence of speech. alignable: whether the video shows it, None where that is not annotated."""

    start: float
    end: float
    text: str
    alignable: bool | None = None


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of a procedure. id: the index that Segment.label refers to. detail: further sentences."""

    id: int
    text: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class StepScript:
    """A task and its steps in their canonical order, those that the video leaves out included."""

    task: str
    title: str
    steps: tuple[Step, ...]
    url: str = ""

    def index(self, step_id: int) -> int:
        """Position of the step with this id, -1 when the task does not have it."""
        return next((i for i, step in enumerate(self.steps) if step.id == step_id), -1)


@dataclasses.dataclass(frozen=True)
class Caption:
    """A sentence about the whole video (start and end None) or a part of it. score: its similarity, where given."""

    text: str
    start: float | None = None
    end: float | None = None
    score: float | None = None


@dataclasses.dataclass(frozen=True)
class Utterance:
    """A spoken word or phrase. span: its characters [begin, end) in the narrative's caption, None when not given."""

    text: str
    start: float
    end: float
    span: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Narrative:
    """A spoken description with the pointer that followed it.

    traces: one float64 array [n, 4] a stroke, columns t (seconds of the recording, not of the video), x, y (relative
    to the picture's width and height, may leave [0, 1]) and the index of the key frame (-1 for a still picture).
    noun_spans: characters [begin, end) of the nouns. keyframes: names of all key frames, `selected` those used.
    """

    caption: str
    words: tuple[Utterance, ...]
    traces: tuple[np.ndarray, ...]
    actor: str = ""
    noun_spans: tuple[tuple[int, int], ...] = ()
    keyframes: tuple[str, ...] = ()
    selected: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Turn:
    """One turn of a conversation; speaker is "human" or "gpt"."""

    speaker: str
    text: str


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A conversation that starts with the human and alternates. times: seconds of the time tokens in the text."""

    turns: tuple[Turn, ...]
    times: tuple[tuple[str, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Question:
    """A question about the video with its short answer; kind is the data set's question type."""

    id: str
    question: str
    answer: str
    kind: str = ""


@dataclasses.dataclass(frozen=True)
class VideoRecord:
    """One annotated video, or one annotated part of it.

    id: unique within what was read. video: id of the source video, which several records may share.
    where: file and line (or key) of the annotation. path: the file on disk, None when not found or not looked for.
    duration: seconds, None when not annotated. span: the part of the source video that the record is about.
    fps: frames per second as annotated. label, class_name: of a video with one class.
    """

    id: str
    video: str
    where: str
    split: str = ""
    path: pathlib.Path | None = None
    media: str = "video"
    duration: float | None = None
    span: tuple[float, float] | None = None
    fps: float | None = None
    label: int = -1
    class_name: str = ""
    script: StepScript | None = None
    segments: tuple[Segment, ...] = ()
    narrations: tuple[Narration, ...] = ()
    captions: tuple[Caption, ...] = ()
    narratives: tuple[Narrative, ...] = ()
    questions: tuple[Question, ...] = ()
    instruction: Instruction | None = None
    targets: FrameTargets | None = None


def record_to_json(record: VideoRecord) -> dict[str, Any]:
    """A VideoRecord as JSON values; what has its default is left out, arrays become base64 of float64 or uint8."""
    return _encode(record)


def record_from_json(data: Mapping[str, Any]) -> VideoRecord:
    """The inverse of `record_to_json`. Raises VtjaxError where it is no record."""
    try:
        return _decode(data, "VideoRecord")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise VtjaxError(f"not a stored video record: {error}") from None


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = {}
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            default = field.default
            if not isinstance(item, np.ndarray) and default is not dataclasses.MISSING and item == default:
                continue
            fields[field.name] = _encode(item)
        return {"type": type(value).__name__, **fields}
    if isinstance(value, np.ndarray):
        kind = "uint8" if value.dtype.kind in "bu" or (value.size and _is_mask(value)) else "float64"
        data = base64.b64encode(np.ascontiguousarray(value, kind).tobytes()).decode()
        return {"type": "array", "dtype": value.dtype.str, "stored": kind, "shape": list(value.shape), "data": data}
    if isinstance(value, tuple | list):
        return [_encode(item) for item in value]
    if isinstance(value, pathlib.PurePath):
        return {"type": "path", "path": str(value)}
    if isinstance(value, np.generic):
        return value.item()
    return value


def _is_mask(value: np.ndarray) -> bool:
    return bool(np.isin(value, (0, 1)).all())


def _decode(value: Any, expected: str = "") -> Any:
    if isinstance(value, list):
        return tuple(_decode(item) for item in value)
    if not isinstance(value, Mapping):
        return value
    value = dict(value)
    kind = value.pop("type")
    if expected and kind != expected:
        raise ValueError(f"{kind!r} instead of {expected!r}")
    if kind == "array":
        raw = np.frombuffer(base64.b64decode(value["data"]), value["stored"])
        return raw.reshape(value["shape"]).astype(np.dtype(value["dtype"]))
    if kind == "path":
        return pathlib.Path(value["path"])
    cls: Any = globals().get(kind)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ValueError(f"unknown kind {kind!r}")
    return cls(**{name: _decode(item) for name, item in value.items()})
