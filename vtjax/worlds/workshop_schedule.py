"""Which objects stand on the bench and what is done with them when: clips, streams and task videos on a frame clock."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from vtjax.worlds import workshop_verbs as vocabulary
from vtjax.worlds.workshop_plan import Action, Bench, Shot, State, Thing, initial_states
from vtjax.worlds.workshop_verbs import VERB, Split


def choose_things(
    rng: np.random.Generator, kinds: Sequence[str], spare: int, pool: Sequence[str] = tuple(vocabulary.KINDS)
) -> tuple[Thing, ...]:
    """Objects of the kinds given plus `spare` of any kind in `pool`; no two share kind and colour."""
    names, taken, things = list(vocabulary.COLOURS), set(), []
    for kind in (*kinds, *rng.choice(pool, spare)):
        colours = [c for c in names if (kind, c) not in taken]
        colour = colours[rng.integers(len(colours))]
        taken.add((kind, colour))
        nominal = 0.088 if kind in vocabulary.SMALL else 0.094
        things.append(Thing(str(kind), colour, float(nominal * rng.uniform(0.93, 1.05))))
    return tuple(things)


def clip_plan(
    rng: np.random.Generator, split: Split, frames: int, distractors: int, verb: str | None = None
) -> tuple[tuple[Thing, ...], tuple[Shot, ...]]:
    """Things and the one shot (with a rest on either side) of a trimmed clip; `verb` is drawn evenly when None.

    With `verb` given, the two verbs of a reversal pair give the same shot forwards and backwards, frame for frame.
   """
    verbs = [v.name for v in vocabulary.VERBS if vocabulary.combinations(split, v.name)]
    drawn = verbs[rng.integers(len(verbs))]
    verb = verb or drawn
    options = vocabulary.combinations(split, verb)
    kinds = options[rng.integers(len(options))]
    things = choose_things(rng, kinds, int(rng.integers(distractors + 1)))
    objects = tuple(range(len(kinds)))
    forward = next(v.name for v in vocabulary.VERBS if v.program == VERB[verb].program and not v.backwards)
    bench = Bench(rng, things, initial_states(things, [(forward, objects)]))
    row, column = int(rng.integers(2)), int(rng.integers(3))
    if VERB[verb].program == "push":
        bench.stand(0, (row, column))
    bench.settle(reserved=[(row, column + 1)])
    ahead, behind = (int(v) for v in rng.integers(0, frames // 8 + 1, 2))
    if VERB[verb].backwards:
        ahead, behind = behind, ahead
    shot = bench.perform((forward, objects), ahead, frames - behind)
    if VERB[verb].backwards:
        shot = dataclasses.replace(shot, verb=verb, backwards=True, world=shot.after, after=shot.world)
    return things, tuple(_with_rests([shot], frames))


def _with_rests(shots: Sequence[Shot], frames: int) -> Iterator[Shot]:
    """The shots with a resting shot in every gap between frame 0 and `frames`."""
    clock = 0
    for shot in shots:
        if shot.begin > clock:
            yield _rest(shot, shot.world, clock, shot.begin)
        yield shot
        clock = shot.end
    if clock < frames:
        yield _rest(shots[-1], shots[-1].after, clock, frames)


def _rest(like: Shot, world: tuple[State, ...], begin: int, end: int) -> Shot:
    return Shot("rest", False, "", (), begin, end, world, world, None, None, like.style)


def stream_plan(
    rng: np.random.Generator, split: Split, frames: int, fps: float
) -> tuple[tuple[Thing, ...], tuple[Shot, ...]]:
    """Things and shots of an untrimmed stream: actions that the state allows, between rests and idle hands."""
    verbs = [v.name for v in vocabulary.VERBS if vocabulary.combinations(split, v.name)]
    seeds: list[Action] = []
    kinds: list[str] = []
    for name in rng.permutation(verbs):
        options = vocabulary.combinations(split, str(name))
        option = options[rng.integers(len(options))]
        if len(kinds) + len(option) <= 5:
            seeds.append((str(name), tuple(range(len(kinds), len(kinds) + len(option)))))
            kinds += option
    things = choose_things(rng, kinds, 0)
    bench = Bench(rng, things, initial_states(things, seeds))
    bench.settle()
    table = [
        (v, o)
        for v in verbs
        for o in itertools.permutations(range(len(things)), len(VERB[v].roles))
        if tuple(things[i].kind for i in o) in set(vocabulary.combinations(split, v))
    ]
    shots, clock = [], int(rng.uniform(0.5, 3.0) * fps)
    while True:
        if rng.random() < 0.3:
            length = int(rng.uniform(1.2, 2.5) * fps)
            if clock + length < frames:
                shots.append(bench.idle("hover", clock, clock + length))
                clock += length + int(rng.uniform(0.2, 1.0) * fps)
        length = int(rng.uniform(1.75, 3.5) * fps)
        if clock + length >= frames:
            break
        ready: dict[str, list[Action]] = {}
        for action in table:
            if bench.possible(action):
                ready.setdefault(action[0], []).append(action)
        if ready:
            names = sorted(ready)
            chosen = ready[names[rng.integers(len(names))]]
            shots.append(bench.perform(chosen[rng.integers(len(chosen))], clock, clock + length))
        clock += length + int(rng.uniform(0.4, 3.5) * fps)
    if not shots:
        shots.append(bench.idle("rest", 0, frames))
    return things, tuple(_with_rests(shots, frames))


def task_plan(
    rng: np.random.Generator, things: Sequence[Thing], actions: Sequence[tuple[int, Action]], fps: float
) -> tuple[tuple[Shot, ...], int]:
    """Shots of (script position, action) in the order given, which must be possible, and the number of frames.

    An action for which there is no room on the bench is left out, so the shots may be fewer than the actions.
    """
    bench = Bench(rng, things, initial_states(things, [action for _, action in actions]))
    bench.settle()
    shots, clock = [], int(rng.uniform(2.0, 5.0) * fps)
    for step, action in actions:
        if not bench.possible(action):
            continue
        length = int(rng.uniform(2.0, 4.0) * fps)
        shots.append(bench.perform(action, clock, clock + length, step))
        clock += length + int(rng.uniform(1.0, 6.0) * fps)
        if rng.random() < 0.25:
            length = int(rng.uniform(1.2, 2.0) * fps)
            shots.append(bench.idle("hover", clock - int(fps * 0.5), clock - int(fps * 0.5) + length))
            clock += length
    frames = clock + int(rng.uniform(1.0, 4.0) * fps)
    return tuple(_with_rests(shots, frames)), frames
