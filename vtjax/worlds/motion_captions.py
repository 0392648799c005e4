"""What the motion world says about a clip: a grammar with paraphrase, and the events that the words stand for.

Every event of a caption is told with one and the same subject, without "again", "back" or a pronoun that stands for
the person, so that no event tells by its words where it was in the order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

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


def _plain(s: str, p: Sequence[_Phrase]) -> str:
    return f"{s} " + " then ".join(x.finite for x in p)


def _and_then(s: str, p: Sequence[_Phrase]) -> str:
    return f"{s} " + ", then ".join(x.finite for x in p[:-1]) + f" and then {p[-1].finite}"


def _comma_then(s: str, p: Sequence[_Phrase]) -> str:
    return f"{s} " + ", then ".join(x.finite for x in p)


def _semicolon(s: str, p: Sequence[_Phrase]) -> str:
    return f"{s} " + "; then ".join(x.finite for x in p)


def _followed(s: str, p: Sequence[_Phrase]) -> str:
    return _comma_then(s, p[:-1]) + f", followed by {p[-1].ing}"


def _first_finally(s: str, p: Sequence[_Phrase]) -> str:
    middle = "".join(f", then {x.finite}" for x in p[1:-1])
    return f"first, {s} {p[0].finite}{middle} and finally {p[-1].finite}"


def _first_then(s: str, p: Sequence[_Phrase]) -> str:
    return f"{s} first " + " and then ".join(x.finite for x in p)


def _sentences(s: str, p: Sequence[_Phrase]) -> str:
    middle = "".join(f" Then {s} {x.finite}." for x in p[1:-1])
    last = "Then" if len(p) == 2 else "Finally,"
    return f"{s} {p[0].finite}.{middle} {last} {s} {p[-1].finite}"


def _a_before_b(s: str, p: Sequence[_Phrase]) -> str:
    return _comma_then(s, p[:-1]) + f" before {p[-1].ing}"


def _after_a_b(s: str, p: Sequence[_Phrase]) -> str:
    return f"after {p[0].ing}, " + _comma_then(s, p[1:])


def _b_after_a(s: str, p: Sequence[_Phrase]) -> str:
    then = "".join(f" Then {s} {x.finite}." for x in p[2:])
    return f"{s} {p[1].finite} after {p[0].ing}." + then if then else f"{s} {p[1].finite} after {p[0].ing}"


def _before_b_a(s: str, p: Sequence[_Phrase]) -> str:
    return f"before {p[-1].ing}, " + _comma_then(s, p[:-1])


# Name -> (how it is put, whether the text tells the events in another order than they happen in).
PATTERNS: dict[str, tuple[Callable[[str, Sequence[_Phrase]], str], bool]] = {
    "then": (_plain, False), "and then": (_and_then, False), "comma then": (_comma_then, False),
    "semicolon": (_semicolon, False), "followed by": (_followed, False), "first, finally": (_first_finally, False),
    "first then": (_first_then, False), "sentences": (_sentences, False), "before": (_a_before_b, False),
    "after, ": (_after_a_b, False), "after": (_b_after_a, True), "before, ": (_before_b_a, True),
}  # fmt: skip
_PATTERN_NAMES = tuple(PATTERNS)
_WEIGHTS = np.array([3, 3, 2, 0.5, 2, 1, 1, 2, 1.5, 1.5, 2, 1.5])
_WEIGHTS /= _WEIGHTS.sum()


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
    picks = [picks[list(names).index(name)] for name in names]
    subject, definite, their = _SUBJECTS[who]
    if pattern in ("sentences", "after"):
        subject = definite  # the subject is said in each sentence
    phrases = [
        _phrase(FORMS[name][int(pick * len(FORMS[name]))], their) for name, pick in zip(names, picks, strict=True)
    ]
    text = f"{subject} {phrases[0].finite}" if len(phrases) == 1 else PATTERNS[pattern][0](subject, phrases)
    events = tuple(_sentence(f"{subject} {phrase.finite}") for phrase in phrases)
    return Caption(text=_sentence(text), events=events, sequence=sequence_key(names))
