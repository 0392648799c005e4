"""The workshop: an embedded world of small videos with complete ground truth, every one a pure function of its index.

    world = Workshop(seed=0, size=64, split="train")
    clip = world.clip(17)          # one action, trimmed, with captions
    stream = world.stream(17)      # several actions and background, with per-frame labels
    video = world.task(17)         # the steps of a task with narrations

A sample depends on (seed, split, kind of sample, index) and on the settings, never on what was made before it; `size`
changes the pixels and nothing else. Splits and the classes and verb-object pairs that they hold out are in
workshop_verbs.SPLITS; sheet and numbers: `python -m vtjax.worlds.workshop_sheet --output=FILE.png`.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vtjax.errors import VtjaxError
from vtjax.worlds import workshop_schedule as schedule
from vtjax.worlds import workshop_tasks as tasks
from vtjax.worlds import workshop_verbs as vocabulary
from vtjax.worlds.workshop_captions import Wording, captions, describe
from vtjax.worlds.workshop_narration import narrate
from vtjax.worlds.workshop_plan import Shot, Thing
from vtjax.worlds.workshop_render import Look, render, tools_of
from vtjax.worlds.workshop_types import Clip, Entity, Segment, Settings, Step, Stream, TaskText, TaskVideo
from vtjax.worlds.workshop_verbs import LABEL, PROGRAMS, VERB

WORKSHOP_VERSION = "workshop-1"
HEADLINE = "{v:base}"
_TOOL_OF = {name: program.tool for name, program in PROGRAMS.items()}


@dataclasses.dataclass(frozen=True)
class Workshop:
    """The world as one split shows it, drawn `size` pixels high and wide.

    Raises:
      VtjaxError: an unknown split, a size outside 32 to 512, a negative seed, or settings that cannot work.
    """

    seed: int = 0
    size: int = 64
    split: str = "train"
    settings: Settings = Settings()

    def __post_init__(self) -> None:
        vocabulary.split_named(self.split)
        if not 32 <= self.size <= 512:
            raise VtjaxError(f"workshop size={self.size} must be between 32 and 512 pixels")
        if self.seed < 0:
            raise VtjaxError(f"workshop seed={self.seed} must be 0 or more")
        self.settings.check()

    # -- what the split may show ---------------------------------------------------------------------------------

    @property
    def verbs(self) -> tuple[str, ...]:
        """Verbs of the split's clips and streams."""
        return tuple(v.name for v in vocabulary.VERBS if vocabulary.combinations(self._split, v.name))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the split's tasks."""
        return tasks.tasks_of(self._split)

    # -- samples -------------------------------------------------------------------------------------------------

    def clip(self, index: int, verb: str | None = None) -> Clip:
        """Trimmed clip `index`. With `verb` given, the same draws with that verb: the two verbs of a reversal pair
        then show one movement in the two directions.

        Raises:
          VtjaxError: a negative index, or a verb that the split does not show.
        """
        rng, entities, things, shots, action, tools = self._clip(index, verb)
        drawn = self._drawn(rng, things, shots, tools, self.settings.clip_frames)
        return Clip(**drawn, entities=entities, index=index, action=action)

    def clip_text(self, index: int, verb: str | None = None) -> tuple[Segment, tuple[Entity, ...]]:
        """The action and entities of clip `index` without drawing it."""
        _, entities, _, _, action, _ = self._clip(index, verb)
        return action, entities

    def stream(self, index: int) -> Stream:
        """Untrimmed stream `index`, settings.stream_seconds long."""
        rng = self._rng("stream", index)
        frames = round(self.settings.stream_seconds * self.settings.fps)
        things, shots = schedule.stream_plan(rng, self._split, frames, self.settings.fps)
        tools = tools_of(shots, _TOOL_OF)
        entities = _entities(things, tools)
        segments = self._segments(rng, shots, entities)
        drawn = self._drawn(rng, things, shots, tools, frames)
        labels = _labels(segments, frames)
        return Stream(**drawn, entities=entities, index=index, labels=labels, segments=segments)

    def task(self, index: int) -> TaskVideo:
        """Task video `index`; its length varies.

        Raises:
          VtjaxError: a negative index.
        """
        rng, text, things, shots, tools, frames = self._task(index)
        drawn = self._drawn(rng, things, shots, tools, frames)
        more = {name: getattr(text, name) for name in ("entities", "segments", "task", "script", "narrations")}
        return TaskVideo(**drawn, **more, index=index, labels=_labels(text.segments, frames))

    def task_text(self, index: int) -> TaskText:
        """All of task video `index` but its pictures, without drawing it."""
        return self._task(index)[1]

    # -- how they are made ---------------------------------------------------------------------------------------

    @property
    def _split(self) -> vocabulary.Split:
        return vocabulary.SPLITS[self.split]

    def _rng(self, kind: str, index: int) -> np.random.Generator:
        if index < 0:
            raise VtjaxError(f"workshop sample index {index} must be 0 or more")
        words = [zlib.crc32(name.encode()) for name in (WORKSHOP_VERSION, self.split, kind)]
        return np.random.default_rng([self.seed, *words, index])

    def _clip(self, index: int, verb: str | None):
        if verb is not None and verb not in self.verbs:
            raise VtjaxError(f"workshop split {self.split!r} has no verb {verb!r}; it has {', '.join(self.verbs)}")
        rng, settings = self._rng("clip", index), self.settings
        things, shots = schedule.clip_plan(rng, self._split, settings.clip_frames, settings.distractors, verb)
        tools = tools_of(shots, _TOOL_OF)
        entities = _entities(things, tools)
        (action,) = self._segments(rng, shots, entities)
        return rng, entities, things, shots, action, tools

    def _task(self, index: int):
        rng, split = self._rng("task", index), self._split
        name = self.tasks[rng.integers(len(self.tasks))]
        casts = tasks.castings(name, split.pairs)
        things = schedule.choose_things(rng, casts[rng.integers(len(casts))], 0)
        chosen = tasks.perform(rng, name, things, self.settings)
        shots, frames = schedule.task_plan(rng, things, chosen, self.settings.fps)
        steps = tasks.script(name)
        tools = tuple(t for t in vocabulary.TOOLS if t in {VERB[verb].tool for verb, _ in steps})
        entities = _entities(things, tools)
        segments = self._segments(rng, shots, entities)
        counts = [sum(s.step == i for s in segments) for i in range(len(steps))]
        script = []
        for (verb, objects), count in zip(steps, counts, strict=True):
            numbers = tuple(1 + o for o in objects)
            script.append(Step(describe(verb, numbers, entities, Wording(HEADLINE)), verb, numbers, count))
        duration = frames / self.settings.fps
        speech = narrate(rng, script, segments, entities, duration, self.settings)
        text = TaskText(name, tuple(script), speech, segments, entities, duration, self.split, index)
        return rng, text, things, shots, tools, frames

    def _segments(self, rng, shots: Sequence[Shot], entities: Sequence[Entity]) -> tuple[Segment, ...]:
        segments = []
        for shot in shots:
            if not shot.verb:
                continue
            begin, end = shot.core
            objects = tuple(1 + o for o in shot.objects)
            true, false = captions(rng, shot.verb, objects, entities)
            times = (begin / self.settings.fps, end / self.settings.fps)
            segments.append(Segment(shot.verb, LABEL[shot.verb], objects, begin, end, *times, true, false, shot.step))
        return tuple(segments)

    def _drawn(self, rng, things: tuple[Thing, ...], shots, tools, frames: int) -> dict[str, Any]:
        """The fields of workshop_types.Video that are drawn, and the split."""
        fps, drift, noise = self.settings.fps, self.settings.drift, self.settings.noise
        look = Look.draw(rng, self.settings.pendulum)
        picture = render(things, shots, tools, look, size=self.size, frames=frames, fps=fps, drift=drift, noise=noise)
        pixels = {"frames": picture.frames, "masks": picture.masks, "hidden_masks": picture.hidden}
        return pixels | {"fps": fps, "tracks": picture.tracks, "split": self.split}


def _labels(segments: Sequence[Segment], frames: int) -> np.ndarray:
    labels = np.zeros(frames, np.int32)
    for segment in segments:
        labels[segment.begin : segment.end] = 1 + segment.label
    return labels


def _entities(things: Sequence[Thing], tools: Sequence[str]) -> tuple[Entity, ...]:
    """The hand is entity 0, then the objects, then the tools."""
    objects = tuple(Entity(f"{t.colour} {t.kind}", t.kind, t.colour, "object") for t in things)
    return (Entity("hand", "hand", "", "hand"), *objects, *(Entity(t, t, "", "tool") for t in tools))
