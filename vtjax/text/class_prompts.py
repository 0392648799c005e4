"""Classes known by their names, and the prompts that stand for each (CLIP, arXiv 2103.00020, section 3.1.4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from vtjax.errors import VtjaxError


@dataclasses.dataclass(frozen=True)
class ClassSet:
    """C classes to choose between.

    names: as shown. prompts: texts of each, whose mean embedding stands for it. held_out: bool [C], never shown in
    training. groups: coarser class of each (its verb), "" where it has none. backwards: int [C], the class that a clip
    of each shows when played backwards, -1 where that is the same one or unknown.
    """

    names: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    held_out: np.ndarray
    groups: tuple[str, ...] = ()
    backwards: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)


def filled(templates: Sequence[str], name: str) -> tuple[str, ...]:
    """Puts a class name, its underscores as blanks, in the place of {} in every template."""
    return tuple(template.replace("{}", name.replace("_", " ")) for template in templates)


def named_classes(names: Sequence[str], templates: Sequence[str]) -> ClassSet:
    """Makes classes of names alone, none of them held out, in a group or the reverse of another."""
    count = len(names)
    prompts = tuple(filled(templates, name) for name in names)
    return ClassSet(tuple(names), prompts, np.zeros(count, bool), ("",) * count, np.full(count, -1))


def checked_names(names: Sequence[str]) -> list[str]:
    """Strips the names of a class list.

    Raises:
      VtjaxError: no class, an empty name, or one that is given twice, whatever its case and underscores.
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
    return names
