"""The grammar of captions: wordings of an action, with every noun phrase tied to the entity that it names.

A wording is drawn without looking at the verb's direction, so that a caption and its reversed caption are worded alike
and neither the grammar nor the length tells which of them is true.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from vtjax.text.inflect import gerund, third_person
from vtjax.worlds.workshop_types import Caption, Entity, Span
from vtjax.worlds.workshop_verbs import KINDS, TOOLS, VERB

# {v:base}, {v:third} and {v:gerund} stand for the phrase with its first word in that form; {h} names the hand.
CAPTION_FRAMES = (
    "{h} {v:third}",
    "someone {v:third}",
    "a person {v:third}",
    "{v:gerund}",
    "a video of {h} {v:gerund}",
    "in this clip somebody {v:third}",
)
_HAND_NAMES = ("a hand", "a human hand", "the hand")


@dataclasses.dataclass(frozen=True)
class Wording:
    """Choices that make a sentence: a frame, which phrase of the verb, and which name and article for each entity."""

    frame: str
    phrase: int = 0
    names: tuple[int, ...] = (0, 0, 0)
    articles: tuple[str, ...] = ("the", "the", "a")
    hand: int = 0


def canonical() -> Wording:
    return Wording(CAPTION_FRAMES[0])


def paraphrase(rng: np.random.Generator, frames: Sequence[str] = CAPTION_FRAMES) -> Wording:
    """A wording drawn evenly from all choices."""
    names = tuple(int(i) for i in rng.integers(0, 3, 3))
    articles = tuple(("the", "a")[i] for i in rng.integers(0, 2, 3))
    return Wording(frames[int(rng.integers(len(frames)))], int(rng.integers(3)), names, articles, int(rng.integers(3)))


_FORMS = {"base": lambda word: word, "third": third_person, "gerund": gerund}


def describe(verb: str, objects: Sequence[int], entities: Sequence[Entity], wording: Wording) -> Caption:
    """The sentence that says `verb` is done to entities `objects` (in role order) in the given wording."""
    form = re.search(r"\{v:(\w+)\}", wording.frame).group(1)
    first, _, rest = VERB[verb].phrases[wording.phrase].partition(" ")
    template = wording.frame.replace(f"{{v:{form}}}", f"{_FORMS[form](first)} {rest}")
    text, spans = "", []
    for part in re.split(r"(\{\w+\})", template):
        if not part.startswith("{"):
            text += part
            continue
        name, entity = _noun_phrase(part[1:-1], verb, objects, entities, wording)
        spans.append(Span(len(text), len(text) + len(name), entity))
        text += name
    return Caption(text, tuple(spans))


def _noun_phrase(slot: str, verb: str, objects, entities, wording: Wording) -> tuple[str, int]:
    if slot == "h":
        return _HAND_NAMES[wording.hand], 0
    if slot == "t":
        number = next(i for i, e in enumerate(entities) if e.role == "tool" and e.kind == VERB[verb].tool)
        names, name = TOOLS[entities[number].kind], wording.names[2]
        noun, article = names[name % len(names)], wording.articles[2]
    else:
        number = objects[int(slot)]
        entity, role = entities[number], int(slot)
        noun, article = f"{entity.colour} {KINDS[entity.kind][wording.names[role]]}", wording.articles[role]
    return f"{_article(article, noun)} {noun}", number


def _article(article: str, noun: str) -> str:
    return "an" if article == "a" and noun[0] in "aeiou" else article


def reversed_action(verb: str, objects: Sequence[int]) -> tuple[str, tuple[int, ...]] | None:
    """What the action looks like played backwards, as (verb, objects); None where it is the same action."""
    if not VERB[verb].order_sensitive:
        return None
    return VERB[verb].reverse, tuple(objects[::-1] if verb == "pour" else objects)


def captions(
    rng: np.random.Generator, verb: str, objects: Sequence[int], entities: Sequence[Entity], count: int = 3
) -> tuple[tuple[Caption, ...], tuple[Caption, ...]]:
    """(captions, reversed captions): the canonical wording, then count - 1 paraphrases; the second may be empty."""
    wordings = [canonical()] + [paraphrase(rng) for _ in range(count - 1)]
    true = tuple(describe(verb, objects, entities, wording) for wording in wordings)
    other = reversed_action(verb, objects)
    return true, tuple(describe(*other, entities, wording) for wording in wordings) if other else ()
