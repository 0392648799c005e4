"""What frames are scored against: classes with their prompts, the background first."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np

from vtjax.errors import VtjaxError
from vtjax.methods.ovoad.captions import FILLER, NOTHING
from vtjax.methods.ovoad.config import OvoadConfig
from vtjax.worlds import workshop_verbs as vocabulary
from vtjax.worlds.workshop_captions import CAPTION_FRAMES, Wording, describe
from vtjax.worlds.workshop_types import Entity
from vtjax.worlds.workshop_verbs import VERB, VERBS


@dataclasses.dataclass(frozen=True)
class ClassSet:
    """C classes; class 0 is the background. prompts: texts of each, whose mean embedding stands for it.

    held_out: bool [C], never shown nor named in training.
    """

    names: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    held_out: np.ndarray

    def __len__(self) -> int:
        return len(self.names)


def named_classes(names: Sequence[str], config: OvoadConfig) -> ClassSet:
    """Classes known by name alone, put into text.test_templates; underscores become blanks, a background is added.

    Raises:
      VtjaxError: no class, an empty name, or one that is given twice.
    """
    names = [str(name).strip() for name in names]
    if not names:
        raise VtjaxError("the class list is empty; name at least one action")
    for i, name in enumerate(names):
        if not name:
            raise VtjaxError(f"class {i + 1} of {len(names)} has an empty name")
    plain = [name.replace("_", " ").lower() for name in names]
    twice = next((name for i, name in enumerate(plain) if name in plain[:i]), None)
    if twice is not None:
        raise VtjaxError(f"the class {twice!r} is listed twice; every class needs a name of its own")
    text = config.text
    if text.background.lower() in plain:
        i = plain.index(text.background.lower())
        names.pop(i)
        if not names:
            raise VtjaxError(f"the class list holds {text.background!r} alone; name at least one action")
    filled = lambda name: tuple(t.replace("{}", name.replace("_", " ")) for t in text.test_templates)  # noqa: E731
    nothing = filled(text.background) if config.data.captions == "labels" else (NOTHING, FILLER)
    prompts = (nothing, *map(filled, names))
    return ClassSet((text.background, *names), prompts, np.zeros(1 + len(names), bool))


@functools.cache
def _verb_prompts(verb: str) -> tuple[str, ...]:
    """Captions of a verb with every kind of object that training may show with it, colours and wordings in turn."""
    colours = list(vocabulary.COLOURS)
    tool = VERB[verb].tool
    prompts = []
    for i, kinds in enumerate(itertools.product(*VERB[verb].roles)):
        if vocabulary.held_out(verb, kinds):
            continue
        for turn in range(3):
            names = [(colours[(3 * i + turn + role) % len(colours)], kind) for role, kind in enumerate(kinds)]
            things = [Entity(f"{colour} {kind}", kind, colour, "object") for colour, kind in names]
            hand = Entity("hand", "hand", "", "hand")
            entities = (hand, *things, *([Entity(tool, tool, "", "tool")] if tool else []))
            wording = Wording(CAPTION_FRAMES[(i + 2 * turn) % len(CAPTION_FRAMES)], turn)
            prompts.append(describe(verb, range(1, 1 + len(kinds)), entities, wording).text)
    return tuple(dict.fromkeys(prompts))


def world_classes(config: OvoadConfig) -> ClassSet:
    """The background and the verbs of the workshop; novel verbs are held out of streams for training."""
    names = (config.text.background, *(v.name for v in VERBS))
    prompts = ((NOTHING, FILLER), *(_verb_prompts(v.name) for v in VERBS))
    return ClassSet(names, prompts, np.array([False, *(v.novel for v in VERBS)]))
