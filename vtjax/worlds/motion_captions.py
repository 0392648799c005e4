"""What the motion world says about a clip: a grammar with paraphrase, and the events that the words stand for.

Every event of a caption is told with one and the same subject, without "again", "back" or a pronoun that stands for
the person, so that no event tells by its words where it was in the order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from vtjax.data.motion.clip import Caption
from vtjax.text.inflect import gerund, third_person

# Verb in its base form, then the rest; {their} is his, her or their. The first form is the plain one.
_FORMS: dict[str, tuple[str, ...]] = {
    "raise_{side}_arm": (
        "raise the {side} arm", "raise {their} {side} arm", "lift the {side} arm up", "put {their} {side} arm up",
        "stretch {their} {side} hand upwards",
    ),
    "raise_both_arms": (
        "raise both arms", "raise both arms above {their} head", "lift both arms up", "put both hands in the air",
        "stretch both arms upwards",
    ),
    "wave_{side}": (
        "wave with the {side} hand", "wave {their} {side} hand", "give a wave with {their} {side} hand",
        "wave hello with the {side} arm",
    ),
    "clap": ("clap", "clap {their} hands", "applaud", "clap with both hands"),
    "punch_{side}": (
        "punch with the {side} hand", "throw a punch with {their} {side} hand", "box with the {side} fist",
        "jab forward with {their} {side} arm",
    ),
    "kick_{side}": (
        "kick with the {side} leg", "kick forward with {their} {side} foot", "give a kick with the {side} foot",
        "swing {their} {side} leg in a kick",
    ),
    "walk_forward": ("walk forward", "walk ahead", "take a few steps forward", "move forward at a walk"),
    "walk_backward": ("walk backward", "walk backwards", "take a few steps backwards", "move in reverse"),
    "walk_slowly": ("walk slowly forward", "walk forward at a slow pace", "stroll forward", "take slow steps forward"),
    "run_forward": ("run forward", "run ahead", "jog forward", "sprint ahead quickly"),
    "sidestep_{side}": (
        "step sideways to the {side}", "sidestep to the {side}", "step to the {side}", "shuffle to {their} {side}",
    ),
    "squat": ("squat down", "do a squat", "drop into a deep squat", "crouch down low"),
    "sit": ("sit down and stand up", "take a seat and get up", "sit down for a moment", "sit on a chair briefly"),
    "kneel": ("kneel down on one knee", "drop to one knee", "go down on one knee", "kneel on the ground"),
    "bow": ("bow", "bow down", "take a bow", "bend forward in a bow"),
    "jump": ("jump up", "jump in the air", "leap up", "do a jump on the spot"),
    "hop_{side}": (
        "hop on the {side} leg", "hop on {their} {side} foot", "bounce on the {side} foot", "do hops on the {side} leg",
    ),
    "turn_{side}": ("turn left", "turn to the left", "rotate to {their} left", "make a left turn"),
    "turn_around": ("turn around", "turn to face the other way", "make a half turn", "spin around"),
}  # fmt: skip


def _expand() -> dict[str, tuple[str, ...]]:
    forms = {}
    for name, phrases in _FORMS.items():
        for side in ("left", "right") if "{side}" in name else ("",):
            sided = (phrase.replace("{side}", side) for phrase in phrases)
            if name.startswith("turn_{") and side == "right":
                sided = (phrase.replace("left", "right") for phrase in phrases)
            forms[name.replace("{side}", side)] = tuple(sided)
    return forms


FORMS = _expand()
# As it is named first, as it is named with "the", and what is theirs.
_SUBJECTS = (
    ("a person", "the person", "their"), ("a person", "the person", "their"), ("a man", "the man", "his"),
    ("a woman", "the woman", "her"), ("someone", "the person", "their"), ("a human", "the human", "their"),
    ("the figure", "the figure", "their"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Phrase:
    finite: str  # "waves with the left hand"
    ing: str  # "waving with the left hand"


def _phrase(form: str, their: str) -> _Phrase:
    # Only the verb at the beginning and one after "and" are conjugated: "sits down and stands up".
    words = form.replace("{their}", their).split(" ")
    verbs = [0, *(i + 1 for i, word in enumerate(words) if word == "and")]
    forms = [[inflect(word) if i in verbs else word for i, word in enumerate(words)] for inflect in
             (third_person, gerund)]  # fmt: skip
    return _Phrase(*map(" ".join, forms))


# How a sequence may be put, and how often.
PATTERNS = {
    "then": 3, "and then": 3, "comma then": 2, "semicolon": 0.5, "followed by": 2, "first, finally": 1, "first then": 1,
    "sentences": 2, "before": 1.5, "after, ": 1.5, "after": 2, "before, ": 1.5,
}  # fmt: skip
OUT_OF_ORDER = ("after", "before, ")  # patterns whose text tells the events in another order than they happen in
_PATTERN_NAMES = tuple(PATTERNS)
_WEIGHTS = np.array(list(PATTERNS.values())) / sum(PATTERNS.values())


def _told(pattern: str, s: str, phrases: Sequence[_Phrase]) -> str:
    """Two or more phrases of the subject `s` in the words of a pattern."""
    finite, first, last = [phrase.finite for phrase in phrases], phrases[0].ing, phrases[-1].ing
    told = lambda some: f"{s} " + ", then ".join(some)
    match pattern:
        case "then":
            return f"{s} " + " then ".join(finite)
        case "and then":
            return f"{told(finite[:-1])} and then {finite[-1]}"
        case "comma then":
            return told(finite)
        case "semicolon":
            return f"{s} " + "; then ".join(finite)
        case "followed by":
            return f"{told(finite[:-1])}, followed by {last}"
        case "first, finally":
            middle = "".join(f", then {x}" for x in finite[1:-1])
            return f"first, {s} {finite[0]}{middle} and finally {finite[-1]}"
        case "first then":
            return f"{s} first " + " and then ".join(finite)
        case "sentences":
            middle = "".join(f" Then {s} {x}." for x in finite[1:-1])
            return f"{s} {finite[0]}.{middle} {'Then' if len(finite) == 2 else 'Finally,'} {s} {finite[-1]}"
        case "before":
            return f"{told(finite[:-1])} before {last}"
        case "after, ":
            return f"after {first}, {told(finite[1:])}"
        case "after":
            then = "".join(f" Then {s} {x}." for x in finite[2:])
            return f"{s} {finite[1]} after {first}" + (f".{then}" if then else "")
        case _:
            return f"before {last}, {told(finite[:-1])}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def sequence_key(names: Sequence[str]) -> str:
    """Key of a sequence of actions, equal for equal actions in the same order: "bow>clap"."""
    return ">".join(names)


def make_caption(
    names: Sequence[str], rng: np.random.Generator, *, paraphrase: bool = True, pattern: str | None = None
) -> Caption:
    """A caption of actions that happen in the order of `names`, with its gold events in that order.

    paraphrase: draw subject, words and pattern; off, every caption reads "A person ... then ...". pattern: a name in
    PATTERNS that overrides the draw. All numbers are drawn in either case, so that `rng` goes on in the same state.
    """
    who = int(rng.integers(len(_SUBJECTS)))
    picks = rng.random(len(names))
    drawn = _PATTERN_NAMES[int(np.searchsorted(np.cumsum(_WEIGHTS)[:-1], rng.random(), side="right"))]
    if not paraphrase:
        who, picks, drawn = 0, np.zeros(len(names)), "then"
    pattern = pattern or drawn
    # An action that occurs twice is told in the same words, or exchanging the two would look like another order.
    told = [picks[list(names).index(name)] for name in names]
    subject, definite, their = _SUBJECTS[who]
    if pattern in ("sentences", "after"):
        subject = definite  # the subject is said in each sentence
    phrases = [
        _phrase(FORMS[name][int(pick * len(FORMS[name]))], their) for name, pick in zip(names, told, strict=True)
    ]
    text = f"{subject} {phrases[0].finite}" if len(phrases) == 1 else _told(pattern, subject, phrases)
    events = tuple(_sentence(f"{subject} {phrase.finite}") for phrase in phrases)
    return Caption(text=_sentence(text), events=events, sequence=sequence_key(names))
