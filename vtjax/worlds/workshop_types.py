"""Records of the workshop world: what a sample holds and what its fields mean.

Times are seconds from the first frame; frame i shows the instant i / fps. Image coordinates are fractions of the
frame, x to the right and y down. Frame ranges are half-open. Entities are numbered from 0 inside each sample.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from vtjax.errors import VtjaxError


@dataclasses.dataclass(frozen=True)
class Settings:
    """What may vary without making it another world; the defaults are what results are quoted on.

    Attributes:
      fps: frames a second of every kind of sample.
      clip_frames: length of a trimmed clip.
      stream_seconds: length of an untrimmed stream.
      distractors: largest number of objects that take no part in a trimmed clip.
      drift: camera drift, 1 for about 3 % of the frame; 0 holds the camera still.
      noise: largest grey level added to or taken from a pixel by the sensor.
      pendulum: a swinging clock on the wall, motion that is never part of an action, in half of the samples.
      omit, reorder, repeat: probability that a task video leaves out a step, swaps two, or does one again.
      unspoken: probability that a performed step is never spoken of.
      irrelevant: irrelevant sentences for each performed step, on average.
      narration_shift: standard deviation, in seconds, of how far speech is from what it speaks of.
    """

    fps: float = 8.0
    clip_frames: int = 16
    stream_seconds: float = 40.0
    distractors: int = 2
    drift: float = 1.0
    noise: int = 6
    pendulum: bool = True
    omit: float = 0.2
    reorder: float = 0.25
    repeat: float = 0.15
    unspoken: float = 0.25
    irrelevant: float = 0.6
    narration_shift: float = 1.5

    def check(self) -> None:
        """Raises VtjaxError naming the first setting that cannot work."""
        rules = (
            ("fps", self.fps > 0, "above 0"),
            ("clip_frames", self.clip_frames >= 4, "at least 4"),
            ("stream_seconds", self.stream_seconds >= 6, "at least 6"),
            ("distractors", 0 <= self.distractors <= 3, "between 0 and 3"),
            ("drift", 0 <= self.drift <= 2, "between 0 and 2"),
            ("noise", 0 <= self.noise <= 60, "between 0 and 60"),
            ("irrelevant", self.irrelevant >= 0, "0 or more"),
            ("narration_shift", self.narration_shift >= 0, "0 or more"),
        )
        rules += tuple(
            (name, 0 <= getattr(self, name) <= 1, "a probability between 0 and 1")
            for name in ("omit", "reorder", "repeat", "unspoken")
        )
        for name, good, rule in rules:
            if not good:
                raise VtjaxError(f"workshop settings: {name}={getattr(self, name)!r} must be {rule}")


@dataclasses.dataclass(frozen=True)
class Entity:
    """Something visible that has boxes, a mask and a track.

    `role` is "hand", "object" or "tool"; `colour` is empty for hands and tools. (kind, colour) is unique in a sample.
    """

    name: str
    kind: str
    colour: str
    role: str


@dataclasses.dataclass(frozen=True)
class Span:
    """`text[begin:end]` is a noun phrase that names entity `entity`."""

    begin: int
    end: int
    entity: int


@dataclasses.dataclass(frozen=True)
class Caption:
    """A sentence whose noun phrases are tied to entities; spans are in reading order and do not overlap."""

    text: str
    spans: tuple[Span, ...]


@dataclasses.dataclass(frozen=True)
class Segment:
    """One action, shown in frames [begin, end) and seconds [start, stop).

    `objects` are entity numbers in the order of the verb's roles: for "pour", first the source, then the target.
    `step` is the position in the task's script, -1 outside task videos. `captions[0]` uses the canonical wording, the
    others paraphrase it; `reversed_captions[i]` has the same wording as `captions[i]` for the same frames played
    backwards, empty where backwards is the same action.
    """

    verb: str
    label: int
    objects: tuple[int, ...]
    begin: int
    end: int
    start: float
    stop: float
    captions: tuple[Caption, ...]
    reversed_captions: tuple[Caption, ...]
    step: int = -1


@dataclasses.dataclass(frozen=True)
class Tracks:
    """Where each entity is in each frame, E entities and T frames.

    Attributes:
      boxes: f32 [E, T, 4] x0, y0, x1, y1 of all that is inside the frame, hidden parts included; zeros where none is.
      present: bool [E, T], some of it is inside the frame, hidden or not.
      visible_boxes: f32 [E, T, 4] of the pixels that can be seen; zeros where none can.
      visibility: f32 [E, T], seen pixels over pixels inside the frame; 0 where absent.
      visible: bool [E, T], at least one pixel and at least a tenth of it is seen.
      points: f32 [E, T, 3, 2] x, y of three points fixed to the entity (middle, left, right); may lie outside [0, 1].
    """

    boxes: np.ndarray
    present: np.ndarray
    visible_boxes: np.ndarray
    visibility: np.ndarray
    visible: np.ndarray
    points: np.ndarray


@dataclasses.dataclass(frozen=True)
class Video:
    """A drawn sample: frames u8 [T, H, W, 3], masks u8 [T, H, W] (0 nothing, e + 1 entity e).

    `hidden_masks` u32 [T, H, W] has bit e set where entity e is, whether or not something is in front of it.
    """

    frames: np.ndarray
    fps: float
    entities: tuple[Entity, ...]
    tracks: Tracks
    masks: np.ndarray
    hidden_masks: np.ndarray
    split: str
    index: int


@dataclasses.dataclass(frozen=True)
class Clip(Video):
    """A trimmed clip of one action."""

    action: Segment

    @property
    def label(self) -> int:
        return self.action.label

    @property
    def captions(self) -> tuple[Caption, ...]:
        return self.action.captions


@dataclasses.dataclass(frozen=True)
class Stream(Video):
    """An untrimmed video with `labels` i32 [T], 0 for background and 1 + label inside a segment."""

    labels: np.ndarray
    segments: tuple[Segment, ...]


@dataclasses.dataclass(frozen=True)
class Step:
    """One line of a task's script with its objects' entity numbers; `performed` counts its segments in the video."""

    headline: Caption
    verb: str
    objects: tuple[int, ...]
    performed: int


@dataclasses.dataclass(frozen=True)
class Narration:
    """A spoken sentence, seconds [start, stop). `step` is the script position it speaks of, -1 where it is irrelevant.

    `segment` is the position in `segments` of what it speaks of, -1 where that is not shown: irrelevant talk, and
    mentions of a step that the video leaves out. `alignable` is segment >= 0.
    """

    caption: Caption
    start: float
    stop: float
    step: int
    segment: int

    @property
    def alignable(self) -> bool:
        return self.segment >= 0


@dataclasses.dataclass(frozen=True)
class TaskVideo(Stream):
    """A stream that performs a task. `script` is the ordered list of all steps, also of those the video leaves out."""

    task: str
    script: tuple[Step, ...]
    narrations: tuple[Narration, ...]


@dataclasses.dataclass(frozen=True)
class TaskText:
    """A task video without its pictures: what a text-only model may see, with the truth; fields as in TaskVideo."""

    task: str
    script: tuple[Step, ...]
    narrations: tuple[Narration, ...]
    segments: tuple[Segment, ...]
    entities: tuple[Entity, ...]
    duration: float
    split: str
    index: int
