"""What frames are scored against: classes with their prompts, the background first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vtjax.errors import VtjaxError
from vtjax.methods.ovoad.captions import FILLER, NOTHING
from vtjax.methods.ovoad.config import OvoadConfig
from vtjax.text import class_prompts
from vtjax.text.class_prompts import ClassSet, checked_names, filled
from vtjax.worlds.workshop_classes import verb_classes


def named_classes(names: Sequence[str], config: OvoadConfig) -> ClassSet:
    """Makes classes of names alone, put into text.test_templates, and adds a background.

    Raises:
      VtjaxError: no class, an empty name, or one that is given twice.
    """
    text = config.text
    actions = [name for name in checked_names(names) if name.replace("_", " ").lower() != text.background.lower()]
    if not actions:
        raise VtjaxError(f"the class list holds {text.background!r} alone; name at least one action")
    nothing = filled(text.test_templates, text.background) if config.data.captions == "labels" else (NOTHING, FILLER)
    return _with_background(class_prompts.named_classes(actions, text.test_templates), text.background, nothing)


def world_classes(config: OvoadConfig) -> ClassSet:
    """The background and the verbs of the workshop; novel verbs are held out of streams for training."""
    return _with_background(verb_classes(), config.text.background, (NOTHING, FILLER))


def _with_background(classes: ClassSet, name: str, prompts: tuple[str, ...]) -> ClassSet:
    """The classes with the background as class 0."""
    held_out = np.array([False, *classes.held_out])
    return ClassSet((name, *classes.names), (prompts, *classes.prompts), held_out)
