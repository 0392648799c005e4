"""What happens in a workshop video, before any pixel: objects, their state, and shots on a frame clock.

A plan is drawn from one random generator and knows nothing of the picture size, so that one index is the same scene at
every size. A backward verb is planned as its forward program and then turned round, so that no random draw depends on
the direction.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from vtjax.worlds import workshop_verbs as vocabulary
from vtjax.worlds.workshop_verbs import VERB

SLOT_X = (0.14, 0.38, 0.62, 0.86)
SLOT_Y = (0.67, 0.93)
CORE = 0.12  # share of a shot, at either end, in which only the hand comes or goes

Place = tuple[float, float]
Action = tuple[str, tuple[int, ...]]  # verb, object numbers in role order


@dataclasses.dataclass(frozen=True)
class Thing:
    """An object: `scale` is half its nominal width, as a fraction of the frame."""

    kind: str
    colour: str
    scale: float


@dataclasses.dataclass
class State:
    """The variables of workshop_verbs for one object, with object numbers where a program has roles.

    `slot` (row, column) and `place` (x and y of the middle of its base) are None unless it stands on the bench.
    """

    where: object = "bench"
    top: int | None = None
    inside: int | None = None
    lid: int = 0
    level: int = 0
    slot: tuple[int, int] | None = None
    place: Place | None = None


@dataclasses.dataclass(frozen=True)
class Shot:
    """Frames [begin, end) of one movement; `world` is the state before it and `after` the state it leaves.

    `program` is one of workshop_verbs.PROGRAMS or "hover" (the hand comes, touches nothing, goes) or "rest" (no hand).
    `first` and `last` are role 0's bench places at the program's forward start and end where it has them.
    `style` are seven numbers in [0, 1) that vary the movement.
    """

    program: str
    backwards: bool
    verb: str
    objects: tuple[int, ...]
    begin: int
    end: int
    world: tuple[State, ...]
    after: tuple[State, ...]
    first: Place | None
    last: Place | None
    style: tuple[float, ...]
    step: int = -1

    @property
    def core(self) -> tuple[int, int]:
        """Frames [begin, end) in which the action shows: the same share is cut from either end."""
        cut = int(CORE * (self.end - self.begin))
        return self.begin + cut, self.end - cut


def values(action: Action, when: str) -> Iterator[tuple[int, str, object]]:
    """(object, variable, value) that the action needs ("before") or leaves ("after"), with object numbers for roles."""
    verb, objects = action
    for (role, variable), value in getattr(VERB[verb], when).items():
        if variable == "where" and isinstance(value, tuple):
            value = (value[0], objects[value[1]])
        elif variable in ("top", "inside") and value is not None:
            value = objects[value]
        yield objects[role], variable, value


def reading(kind: str, state: State, variable: str) -> object:
    """Value of a variable; kinds without a lid are open where hollow and closed where solid."""
    if variable == "lid" and kind not in vocabulary.LIDDED:
        return int(kind in vocabulary.HOLLOW)
    return getattr(state, variable)


def initial_states(things: Sequence[Thing], actions: Sequence[Action]) -> list[dict[str, object]] | None:
    """The variables that must hold at the start for the actions to be possible in this order; None if none do."""
    start: list[dict[str, object]] = [{} for _ in things]
    now: list[dict[str, object]] = [{} for _ in things]
    for action in actions:
        for thing, variable, value in values(action, "before"):
            if variable == "lid" and things[thing].kind not in vocabulary.LIDDED:
                if value != reading(things[thing].kind, State(), "lid"):
                    return None
                continue
            if now[thing].setdefault(variable, value) != value:
                return None
            start[thing].setdefault(variable, value)
        for thing, variable, value in values(action, "after"):
            now[thing][variable] = value
    for number, known in enumerate(start):  # what holds something is known from either side
        where = known.get("where")
        if isinstance(where, tuple):
            side = "inside" if where[0] == "in" else "top"
            if start[where[1]].setdefault(side, number) != number:
                return None
    return start


class Bench:
    """The world while a plan is being made: objects, their states, and which slots are free."""

    def __init__(self, rng: np.random.Generator, things: Sequence[Thing], known: Sequence[dict[str, object]]):
        self.rng = rng
        self.things = tuple(things)
        lids, levels = rng.integers(0, 2, (2, len(things)))
        self.states = [State(lid=int(a), level=int(b)) for a, b in zip(lids, levels, strict=True)]
        for state, variables in zip(self.states, known, strict=True):
            for name, value in variables.items():
                setattr(state, name, value)
        self.jitter = rng.uniform(-0.012, 0.012, (2, 4, 2))

    def place_of(self, slot: tuple[int, int]) -> Place:
        row, column = slot
        dx, dy = self.jitter[row, column]
        return (SLOT_X[column] + dx, SLOT_Y[row] + dy)

    def free(self, reserved: Sequence[tuple[int, int]] = ()) -> list[tuple[int, int]]:
        taken = {s.slot for s in self.states if s.slot} | set(reserved)
        return [slot for slot in itertools.product(range(2), range(4)) if slot not in taken]

    def stand(self, number: int, slot: tuple[int, int]) -> None:
        self.states[number].slot, self.states[number].place = slot, self.place_of(slot)

    def settle(self, reserved: Sequence[tuple[int, int]] = ()) -> None:
        """Gives every object on the bench that has no slot a free one at random."""
        for number, state in enumerate(self.states):
            if state.where == "bench" and state.slot is None:
                free = self.free(reserved)
                self.stand(number, free[self.rng.integers(len(free))])

    def possible(self, action: Action) -> bool:
        """True where every variable has the value the action needs and there is room for it."""
        for thing, variable, value in values(action, "before"):
            if reading(self.things[thing].kind, self.states[thing], variable) != value:
                return False
        verb, objects = action
        program = VERB[verb].program
        if program == "push":
            return bool(self._beside(objects[0], -1 if VERB[verb].backwards else 1))
        return not (VERB[verb].backwards and program in ("lift", "insert", "stack")) or bool(self.free())

    def _beside(self, number: int, step: int) -> list[tuple[int, int]]:
        row, column = self.states[number].slot
        return [slot for slot in self.free() if slot == (row, column + step)]

    def perform(self, action: Action, begin: int, end: int, step: int = -1) -> Shot:
        """The shot of a possible action; the bench moves on to the state after it."""
        verb, objects = action
        program, backwards = VERB[verb].program, VERB[verb].backwards
        actor = self.states[objects[0]]
        before, here, there = self.snapshot(), actor.place, None
        for thing, variable, value in values(action, "after"):
            setattr(self.states[thing], variable, value)
        if program == "push":
            self.stand(objects[0], self._beside(objects[0], -1 if backwards else 1)[0])
            there = actor.place
        elif backwards and program in ("lift", "insert", "stack"):
            free = self.free()
            self.stand(objects[0], free[self.rng.integers(len(free))])
            there = actor.place
        elif actor.where != "bench":
            actor.slot = actor.place = None
        first, last = (there, here) if backwards else (here, there)
        return self._shot(program, backwards, verb, objects, begin, end, before, first, last, step)

    def idle(self, program: str, begin: int, end: int) -> Shot:
        """A shot in which nothing is done: "rest" or "hover"."""
        return self._shot(program, False, "", (), begin, end, self.snapshot(), None, None, -1)

    def _shot(self, program, backwards, verb, objects, begin, end, before, first, last, step) -> Shot:
        style = tuple(self.rng.random(7))
        return Shot(program, backwards, verb, objects, begin, end, before, self.snapshot(), first, last, style, step)

    def snapshot(self) -> tuple[State, ...]:
        return tuple(copy.copy(state) for state in self.states)
