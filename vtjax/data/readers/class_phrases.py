"""Class names of detection sets as a prompt says them, as OV-OAD's benchmarks (docs/methods/ovoad.md).

Wording matters: on THUMOS14 the same CLIP scores 28.45 mAP with "baseball pitch" and 23.69 with "BaseballPitch".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vtjax.text.inflect import gerund


def spaced(name: str) -> str:
    """"CleanAndJerk" -> "clean and jerk", "Get in/out of car" -> "get in or out of car"; single blanks."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ").replace("/", " or ")
    return " ".join(words.lower().split())


def verb_phrase(name: str) -> str:
    """EPIC-KITCHENS' verbs in -ing form: "turn-on" -> "turning on", "unwrap" -> "unwrapping"."""
    verb, *rest = spaced(name).split("-")
    prefix = "un" if re.match(r"un(?!i|der)[a-z]{3}", verb) else ""
    return " ".join([prefix + gerund(verb[len(prefix) :]), *rest])


def noun_phrase(name: str) -> str:
    """EPIC-KITCHENS' nouns in reading order: "board:chopping" -> "chopping board"."""
    return " ".join(reversed(spaced(name).split(":")))


def phrases(names: Sequence[str], kind: str = "spaced") -> tuple[str, ...]:
    """One phrase per class. kind: "spaced", "verb" or "noun"; the first name, the background, is always spaced."""
    say = {"spaced": spaced, "verb": verb_phrase, "noun": noun_phrase}[kind]
    return tuple(say(name) if i else spaced(name) for i, name in enumerate(names))
