"""Vocabulary of the workshop: kinds, colours, verbs with their preconditions, and which of them each split shows.

Every verb is a program run forwards or backwards. The two verbs of a reversal pair ("push right" and "push left") are
the same program, so the videos of one, played backwards, have exactly the distribution of the other's. What a program
needs is written as values of object variables before and after:

  where   "bench", "away" (out of the frame), or ("in", b) / ("on", b) with b the role that holds it
  top     role of the object standing on it, None for nothing
  inside  role of the object in it, None for nothing
  lid     1 open, 0 closed; kinds without a lid count as open where they are hollow and closed where they are solid
  level   1 full, 0 empty
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from vtjax.errors import VtjaxError, nearest

COLOURS = {
    "red": (214, 44, 48),
    "yellow": (240, 208, 44),
    "green": (56, 160, 70),
    "blue": (46, 92, 206),
    "purple": (136, 62, 168),
    "pink": (244, 140, 184),
    "white": (242, 242, 236),
    "black": (44, 44, 50),
}

# Names of a kind: the canonical one, then what paraphrases may call it.
KINDS = {
    "block": ("block", "cube", "brick"),
    "ball": ("ball", "sphere", "round toy"),
    "cone": ("cone", "pyramid", "pointed toy"),
    "star": ("star", "star shape", "toy star"),
    "box": ("box", "crate", "chest"),
    "pot": ("pot", "cooking pot", "saucepan"),
    "bowl": ("bowl", "basin", "dish"),
    "cup": ("cup", "mug", "beaker"),
    "jug": ("jug", "pitcher", "ewer"),
    "bottle": ("bottle", "flask", "phial"),
}
TOOLS = {
    "spoon": ("spoon", "ladle", "stirrer"),
    "sponge": ("sponge", "cloth", "scourer"),
    "hammer": ("hammer", "mallet", "gavel"),
}
LIDDED = ("box", "pot")
VESSELS = ("cup", "jug", "bottle")
HOLLOW = ("bowl", *VESSELS)
SMALL = ("block", "ball", "cone", "star")

State = dict[tuple[int, str], Any]


@dataclasses.dataclass(frozen=True)
class Program:
    """A movement: kinds its roles accept, and object variables before and after as {(role, variable): value}."""

    roles: tuple[tuple[str, ...], ...]
    before: State
    after: State
    tool: str = ""


def _program(roles, common, before=(), after=(), tool="") -> Program:
    return Program(roles, {**common, **dict(before)}, {**common, **dict(after)}, tool)


_B0, _B1 = {(0, "where"): "bench"}, {(1, "where"): "bench"}
_CLEAR0 = {(0, "top"): None, (0, "inside"): None}

PROGRAMS = {
    "push": _program((("block", "ball", "cone", "star", "cup", "box"),), {**_B0, **_CLEAR0}),
    "open": _program((("box", "pot"),), {**_B0, (0, "top"): None}, {(0, "lid"): 0}, {(0, "lid"): 1}),
    "lift": _program(
        (("block", "ball", "cone", "star", "cup", "jug"),), _CLEAR0, {(0, "where"): "bench"}, {(0, "where"): "away"}
    ),
    "insert": _program(
        (SMALL, ("box", "bowl", "pot")),
        {**_CLEAR0, **_B1, (1, "lid"): 1, (1, "top"): None},
        {(0, "where"): "bench", (1, "inside"): None},
        {(0, "where"): ("in", 1), (1, "inside"): 0},
    ),
    "pour": _program(
        (VESSELS, VESSELS), {**_B0, **_B1}, {(0, "level"): 1, (1, "level"): 0}, {(0, "level"): 0, (1, "level"): 1}
    ),
    "stir": _program((("bowl", "cup", "pot"),), {**_B0, (0, "lid"): 1, (0, "top"): None}, tool="spoon"),
    "shake": _program((("ball", "star", "jug", "bottle"),), {**_B0, **_CLEAR0}),
    "stack": _program(
        (SMALL, ("block", "box")),
        {**_CLEAR0, **_B1, (1, "lid"): 0},
        {(0, "where"): "bench", (1, "top"): None},
        {(0, "where"): ("on", 1), (1, "top"): 0},
    ),
    "wipe": _program((("block", "ball", "bowl", "jug"),), {**_B0, **_CLEAR0}, tool="sponge"),
    "hammer": _program((("block", "cone", "star", "box"),), {**_B0, **_CLEAR0, (0, "lid"): 0}, tool="hammer"),
}


@dataclasses.dataclass(frozen=True)
class Verb:
    """A class. `reverse` is the verb that its video played backwards shows; itself with the roles exchanged for pour,
    itself as it is for a verb that is its own reversal. `phrases[i]` and the reverse's `phrases[i]` correspond;
    {0} and {1} stand for the roles, {t} for the tool.
    """

    name: str
    program: str
    backwards: bool
    reverse: str
    novel: bool
    phrases: tuple[str, str, str]

    @property
    def roles(self) -> tuple[tuple[str, ...], ...]:
        return PROGRAMS[self.program].roles

    @property
    def tool(self) -> str:
        return PROGRAMS[self.program].tool

    @property
    def before(self) -> State:
        program = PROGRAMS[self.program]
        return program.after if self.backwards else program.before

    @property
    def after(self) -> State:
        program = PROGRAMS[self.program]
        return program.before if self.backwards else program.after

    @property
    def order_sensitive(self) -> bool:
        """True where the same frames in the opposite order are another action."""
        return self.reverse != self.name or self.name == "pour"


def _pair(program, novel, forwards, backwards):
    (a, a_phrases), (b, b_phrases) = forwards, backwards
    return (Verb(a, program, False, b, novel, a_phrases), Verb(b, program, True, a, novel, b_phrases))


def _alone(name, novel, phrases):
    return (Verb(name, name, False, name, novel, phrases),)


VERBS: tuple[Verb, ...] = (
    *_pair(
        "push", False,
        ("push right", ("push {0} to the right", "slide {0} rightwards", "move {0} over to the right")),
        ("push left", ("push {0} to the left", "slide {0} leftwards", "move {0} over to the left")),
    ),
    *_pair(
        "open", False,
        ("open", ("open {0}", "lift the lid of {0}", "uncover {0}")),
        ("close", ("close {0}", "lower the lid of {0}", "cover {0}")),
    ),
    *_pair(
        "lift", False,
        ("pick up", ("pick up {0}", "lift {0} off the bench", "carry {0} away")),
        ("put down", ("put down {0}", "set {0} on the bench", "bring {0} back")),
    ),
    *_pair(
        "insert", False,
        ("put in", ("put {0} into {1}", "drop {0} inside {1}", "place {0} in {1}")),
        ("take out", ("take {0} out of {1}", "remove {0} from {1}", "get {0} from inside {1}")),
    ),
    *_alone("pour", False, ("pour {0} into {1}", "empty {0} into {1}", "tip the water of {0} into {1}")),
    *_alone("stir", False, ("stir {0} with {t}", "mix what is in {0}", "swirl {t} around in {0}")),
    *_alone("shake", False, ("shake {0}", "rattle {0}", "jiggle {0} from side to side")),
    *_pair(
        "stack", True,
        ("put on", ("put {0} on top of {1}", "stack {0} onto {1}", "set {0} upon {1}")),
        ("take off", ("take {0} off the top of {1}", "unstack {0} from {1}", "clear {0} off {1}")),
    ),
    *_alone("wipe", True, ("wipe {0} with {t}", "clean {0}", "rub {0} down with {t}")),
    *_alone("hammer", True, ("hit {0} with {t}", "hammer {0}", "pound {0} with {t}")),
)  # fmt: skip
VERB = {verb.name: verb for verb in VERBS}
LABEL = {verb.name: number for number, verb in enumerate(VERBS)}
VERB_NAMES = tuple(LABEL)
# By program, so that both verbs of a reversal pair lack the same objects and an object never gives the direction away.
# The kind is that of role 0; for pour, of either role.
HELD_OUT = {
    "push": "cone", "open": "pot", "lift": "star", "insert": "ball", "pour": "bottle",
    "stir": "pot", "shake": "star", "stack": "star", "wipe": "bowl", "hammer": "cone",
}  # fmt: skip


def held_out(verb: str, kinds: Sequence[str]) -> bool:
    """True where `verb` on objects of these kinds (one for each role) is a pair that training splits never show."""
    program = VERB[verb].program
    return HELD_OUT[program] in (kinds if program == "pour" else kinds[:1])


@dataclasses.dataclass(frozen=True)
class Split:
    """What a split shows: which verbs ("base", "novel", "all"), which verb-object pairs ("seen", "held_out", "all"),
    and which task scripts ("seen", "unseen", "all").

    pretrain    what an encoder trained beforehand may know: every verb, no held-out pair
    train, val, test   base verbs on seen pairs, in different scenes
    zero_shot   base verbs on held-out pairs only; every task has at least one step with such a pair
    novel       novel verbs in clips and streams; task scripts that need them
    everything  all of it, for evaluation over base and novel classes together
    """

    name: str
    verbs: str
    pairs: str
    tasks: str


SPLITS = {
    s.name: s
    for s in (
        Split("pretrain", "all", "seen", "seen"),
        Split("train", "base", "seen", "seen"),
        Split("val", "base", "seen", "seen"),
        Split("test", "base", "seen", "seen"),
        Split("zero_shot", "base", "held_out", "seen"),
        Split("novel", "novel", "all", "unseen"),
        Split("everything", "all", "all", "all"),
    )
}


def split_named(name: str) -> Split:
    if name not in SPLITS:
        raise VtjaxError(f"workshop split {name!r} is unknown; {nearest(name, SPLITS)}")
    return SPLITS[name]


def allowed(split: Split, verb: str, kinds: Sequence[str]) -> bool:
    """True where the split may show `verb` on objects of these kinds."""
    if split.verbs != "all" and VERB[verb].novel != (split.verbs == "novel"):
        return False
    return split.pairs == "all" or held_out(verb, kinds) == (split.pairs == "held_out")


def combinations(split: Split, verb: str) -> tuple[tuple[str, ...], ...]:
    """Every tuple of kinds, one for each role, on which the split may show `verb`; empty where it may not at all."""
    return tuple(kinds for kinds in itertools.product(*VERB[verb].roles) if allowed(split, verb, kinds))
