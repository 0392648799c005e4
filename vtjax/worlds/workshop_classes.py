"""What clips and streams of the workshop are classified into: pairs of a verb and its objects, or verbs."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np

from vtjax.text.class_prompts import ClassSet
from vtjax.worlds import workshop_verbs as vocabulary
from vtjax.worlds.workshop_captions import CAPTION_FRAMES, Wording, describe, reversed_action
from vtjax.worlds.workshop_types import Entity
from vtjax.worlds.workshop_verbs import VERB, VERBS


@functools.cache
def workshop_pairs() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Every (verb, kinds of its objects in role order) of the workshop, held-out pairs included."""
    return tuple((v.name, kinds) for v in VERBS for kinds in itertools.product(*v.roles))


@functools.cache
def pair_classes() -> ClassSet:
    """The verb-object pairs, grouped by verb; a class has no colour, so its prompts vary it, one for each colour."""
    pairs = workshop_pairs()
    place = {pair: i for i, pair in enumerate(pairs)}
    backwards = np.full(len(pairs), -1)
    for i, (verb, kinds) in enumerate(pairs):
        turned = reversed_action(verb, range(len(kinds)))
        other = i if turned is None else place[turned[0], tuple(kinds[o] for o in turned[1])]
        backwards[i] = -1 if other == i else other
    return ClassSet(
        names=tuple(f"{verb}: {' and '.join(kinds)}" for verb, kinds in pairs),
        prompts=tuple(
            tuple(_prompt(verb, kinds, i, i, i % 3) for i in range(len(vocabulary.COLOURS))) for verb, kinds in pairs
        ),
        held_out=np.array([vocabulary.held_out(verb, kinds) for verb, kinds in pairs]),
        groups=tuple(verb for verb, _ in pairs),
        backwards=backwards,
    )


@functools.cache
def verb_classes() -> ClassSet:
    """The verbs; novel ones are held out of streams for training. Prompts show a verb with every kind of object that
    training may show it with, colours and wordings in turn."""
    return ClassSet(
        names=tuple(v.name for v in VERBS),
        prompts=tuple(_verb_prompts(v.name) for v in VERBS),
        held_out=np.array([v.novel for v in VERBS]),
    )


def _verb_prompts(verb: str) -> tuple[str, ...]:
    prompts = [
        _prompt(verb, kinds, 3 * i + turn, i + 2 * turn, turn)
        for i, kinds in enumerate(itertools.product(*VERB[verb].roles))
        if not vocabulary.held_out(verb, kinds)
        for turn in range(3)
    ]
    return tuple(dict.fromkeys(prompts))


def _prompt(verb: str, kinds: Sequence[str], colour: int, frame: int, phrase: int) -> str:
    """A caption of `verb` on objects of these kinds.

    colour: number of the first object's, the others have the next ones. frame: number of the sentence. Both go round.
    phrase: number of the verb's wording.
    """
    colours = list(vocabulary.COLOURS)
    names = [(colours[(colour + role) % len(colours)], kind) for role, kind in enumerate(kinds)]
    tool = VERB[verb].tool
    entities = [Entity("hand", "hand", "", "hand"), *(Entity(f"{c} {kind}", kind, c, "object") for c, kind in names)]
    if tool:
        entities.append(Entity(tool, tool, "", "tool"))
    wording = Wording(CAPTION_FRAMES[frame % len(CAPTION_FRAMES)], phrase)
    return describe(verb, range(1, 1 + len(kinds)), entities, wording).text
