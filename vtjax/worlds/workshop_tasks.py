"""Task scripts of the workshop, and which of their steps a video performs in what order."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np

from vtjax.worlds.workshop_plan import Action, Thing, initial_states
from vtjax.worlds.workshop_types import Settings
from vtjax.worlds.workshop_verbs import HELD_OUT, LIDDED, SMALL, VERB, VESSELS, Split, held_out


@dataclasses.dataclass(frozen=True)
class Task:
    """A script: kinds that each object may be, and steps as (verb, objects by name) in their usual order."""

    name: str
    objects: dict[str, tuple[str, ...]]
    steps: tuple[tuple[str, str], ...]

    @property
    def unseen(self) -> bool:
        """True where a step needs a novel verb; such scripts are never trained on."""
        return any(VERB[verb].novel for verb, _ in self.steps)


def _task(name: str, steps: str, **objects: tuple[str, ...]) -> Task:
    parsed = tuple((verb.strip(), names.strip()) for verb, names in (line.split(":") for line in steps.split(";")))
    return Task(name, objects, parsed)


TASKS = (
    _task(
        "store a toy", "put down: a; push left: a; open: b; put in: a b; close: b; pick up: c",
        a=SMALL, b=LIDDED, c=("block", "cup", "jug", "star"),
    ),
    _task(
        "unpack a toy", "push right: c; open: b; take out: a b; close: b; push left: a; pick up: a",
        a=SMALL, b=LIDDED, c=("block", "cup", "ball"),
    ),
    _task(
        "prepare a drink", "put down: a; pour: a b; pick up: a; stir: b; push right: b",
        a=("jug", "cup"), b=("cup",),
    ),
    _task(
        "rinse a vessel", "put down: a; pour: b a; shake: b; pour: a b; pick up: a",
        a=("jug", "bottle"), b=VESSELS,
    ),
    _task(
        "mix a salad", "put down: a; put in: a b; stir: b; take out: a b; push right: a",
        a=SMALL, b=("bowl",),
    ),
    _task(
        "clear the bench", "pick up: a; pick up: c; close: b; push left: b; stir: d",
        a=SMALL, c=("cup", "jug"), b=("box",), d=("bowl", "cup", "pot"),
    ),
    _task(
        "build a tower", "put down: a; hammer: b; wipe: d; put on: a b; push left: c; take off: a b",
        a=SMALL, b=("block", "box"), c=("cup", "ball"), d=("bowl", "jug", "ball"),
    ),
    _task(
        "mend a box", "take off: a b; hammer: b; open: b; wipe: c; put in: a b; close: b",
        a=SMALL, b=("box",), c=("block", "ball"),
    ),
    _task(
        "clean up", "take off: a b; wipe: b; hammer: a; put in: a c; stir: c; pick up: d",
        a=("block", "cone", "star"), b=("block",), c=("bowl",), d=("cup", "jug"),
    ),
)  # fmt: skip
TASK = {task.name: task for task in TASKS}


@functools.cache
def castings(task_name: str, pairs: str) -> tuple[tuple[str, ...], ...]:
    """Kinds for the task's objects, in their order, that a split with these `pairs` may show.

    "seen" admits none of the held-out verb-object pairs, "held_out" asks for at least one.
    """
    task, castings = TASK[task_name], []
    for kinds in itertools.product(*task.objects.values()):
        kind = dict(zip(task.objects, kinds, strict=True))
        cast = [(verb, tuple(kind[name] for name in names.split())) for verb, names in task.steps]
        if not all(k in role for verb, of in cast for k, role in zip(of, VERB[verb].roles, strict=True)):
            continue
        unseen = any(held_out(verb, of) for verb, of in cast)
        if pairs == "all" or unseen == (pairs == "held_out"):
            castings.append(kinds)
    return tuple(castings)


def tasks_of(split: Split) -> tuple[str, ...]:
    """Names of the tasks that the split may show."""
    wanted = [t for t in TASKS if split.tasks == "all" or t.unseen == (split.tasks == "unseen")]
    return tuple(t.name for t in wanted if castings(t.name, split.pairs))


def script(task: str) -> tuple[Action, ...]:
    """The task's steps as (verb, object numbers), objects numbered in the order of Task.objects."""
    names = list(TASK[task].objects)
    return tuple((verb, tuple(names.index(n) for n in of.split())) for verb, of in TASK[task].steps)


def perform(
    rng: np.random.Generator, task: str, things: tuple[Thing, ...], settings: Settings
) -> tuple[tuple[int, Action], ...]:
    """(script position, action) in the order performed: some left out, neighbours swapped, some done again.

    Only orders that the objects allow are returned; after twenty that are not, the whole script as it is.
    """
    steps = script(task)
    for _ in range(20):
        order = [i for i in range(len(steps)) if rng.random() >= settings.omit]
        if len(order) > 1 and rng.random() < settings.reorder:
            at = int(rng.integers(len(order) - 1))
            order[at], order[at + 1] = order[at + 1], order[at]
        again = [i for i in order if not VERB[steps[i][0]].order_sensitive]
        if again and rng.random() < settings.repeat:
            order.insert(int(rng.integers(len(order) + 1)), again[rng.integers(len(again))])
        chosen = tuple((i, steps[i]) for i in order)
        if len(order) >= 2 and initial_states(things, [action for _, action in chosen]) is not None:
            return chosen
    return tuple(enumerate(steps))


assert set(HELD_OUT) == {verb.program for verb in VERB.values()}
