"""What zero-shot classification chooses between: classes, the prompts that stand for each, and how they are related."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np

from vtjax.worlds import workshop_verbs as vocabulary
from vtjax.worlds.workshop_captions import CAPTION_FRAMES, Wording, describe, reversed_action
from vtjax.worlds.workshop_types import Entity
from vtjax.worlds.workshop_verbs import VERB, VERBS


@dataclasses.dataclass(frozen=True)
class ClassSet:
    """C classes. prompts: texts of each, whose mean embedding stands for it (CLIP, section 3.1.4).

    groups: coarser class of each (the verb), "" where there are none. backwards: the class that a clip of each shows
    when played backwards, -1 where that is the same one or unknown. held_out: bool [C], never shown in training.
    """

    names: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    groups: tuple[str, ...]
    backwards: np.ndarray
    held_out: np.ndarray

    def __len__(self) -> int:
        return len(self.names)


def named_classes(names: Sequence[str], templates: Sequence[str]) -> ClassSet:
    """Classes known by name alone; underscores in a name become blanks in its prompts."""
    prompts = tuple(tuple(t.replace("{}", name.replace("_", " ")) for t in templates) for name in names)
    count = len(names)
    return ClassSet(tuple(names), prompts, ("",) * count, np.full(count, -1), np.zeros(count, bool))


@functools.cache
def workshop_pairs() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Every (verb, kinds of its objects in role order) of the workshop, held-out pairs included."""
    return tuple((v.name, kinds) for v in VERBS for kinds in itertools.product(*v.roles))


@functools.cache
def workshop_classes() -> ClassSet:
    """Verb-object pairs of the workshop; prompts vary sentence, verb phrase and colour, as a class has none."""
    pairs = workshop_pairs()
    place = {pair: i for i, pair in enumerate(pairs)}
    backwards = np.full(len(pairs), -1)
    for i, (verb, kinds) in enumerate(pairs):
        turned = reversed_action(verb, range(len(kinds)))
        other = i if turned is None else place[turned[0], tuple(kinds[o] for o in turned[1])]
        backwards[i] = -1 if other == i else other
    return ClassSet(
        names=tuple(f"{verb}: {' and '.join(kinds)}" for verb, kinds in pairs),
        prompts=tuple(_prompts(verb, kinds) for verb, kinds in pairs),
        groups=tuple(verb for verb, _ in pairs),
        backwards=backwards,
        held_out=np.array([vocabulary.held_out(verb, kinds) for verb, kinds in pairs]),
    )


def _prompts(verb: str, kinds: Sequence[str]) -> tuple[str, ...]:
    """One prompt per colour of the first object; another object has the next colour."""
    colours = list(vocabulary.COLOURS)
    tool = VERB[verb].tool
    prompts = []
    for i in range(len(colours)):
        things = [
            Entity(f"{colours[(i + role) % len(colours)]} {kind}", kind, colours[(i + role) % len(colours)], "object")
            for role, kind in enumerate(kinds)
        ]
        entities = (Entity("hand", "hand", "", "hand"), *things, *([Entity(tool, tool, "", "tool")] if tool else []))
        wording = Wording(CAPTION_FRAMES[i % len(CAPTION_FRAMES)], i % 3)
        prompts.append(describe(verb, range(1, 1 + len(kinds)), entities, wording).text)
    return tuple(prompts)
