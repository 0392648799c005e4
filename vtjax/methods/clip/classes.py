"""What zero-shot classification chooses between: classes, the prompts that stand for each, and how they are related."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Sequence

import numpy as np

from vtjax.data.synthetic import workshop_verbs as vocabulary
from vtjax.data.synthetic.workshop_captions import CAPTION_FRAMES, Wording, describe, reversed_action
from vtjax.data.synthetic.workshop_types import Entity
from vtjax.data.synthetic.workshop_verbs import VERB, VERBS


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
    """Verb-object pairs of the workshop; prompts vary sentence and verb phrase and name no colour, as a class has none."""
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
    """Every way to say the verb, in every second sentence."""
    tool = VERB[verb].tool
    things = [Entity(kind, kind, COLOUR, "object") for kind in kinds]
    entities = (Entity("hand", "hand", "", "hand"), *things, *([Entity(tool, tool, "", "tool")] if tool else []))
    objects = range(1, 1 + len(kinds))
    wordings = [Wording(frame, phrase) for frame in CAPTION_FRAMES[::2] for phrase in range(len(VERB[verb].phrases))]
    return tuple(colourless(describe(verb, objects, entities, wording).text) for wording in wordings)


COLOUR = next(iter(vocabulary.COLOURS))
_COLOURED = re.compile(rf"(?:\b(a|an) )?\b(?:{'|'.join(vocabulary.COLOURS)}) (\w)")


def colourless(text: str) -> str:
    """A caption of the workshop without its colours: "a person lifts an orange cup" -> "a person lifts a cup"."""
    return _COLOURED.sub(lambda m: (("an " if m[2] in "aeiou" else "a ") if m[1] else "") + m[2], text)
