"""Splits a caption into its events in the order in which they happen, by rules: no language model, no network.

Stands in for the language model that CAR asks (arXiv 2407.15408; docs/methods/car.md). Split at: then, and then,
followed by, finally, afterwards, ". " and ";". Turned round where the text is: "B after A", "After A, B", "Before B,
A". Kept in one piece: while, as, at the same time. Every event is a sentence of its own with one and the same subject,
taken from the first clause that names one: "A person ... the person ..." or "he" would tell a text-only model which
event came first.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from vtjax.errors import Problems, VtjaxError
from vtjax.text import inflect
from vtjax.text.shuffle import is_degenerate

_PERSON = (
    r"(?:persons?|man|woman|human|humans|human being|figure|figurine|guy|someone|somebody|some one|character|"
    r"individual|subject|boy|girl|actor|dancer|player|skeleton|mannequin|people|men|women|he|she|they|it)"
)
_PLURAL = re.compile(r"\b(people|men|women|humans|they)$", re.I)
_SUBJECT = re.compile(rf"(?:(?:an?|the|this|one|two)\s+(?:[\w-]+\s+){{0,2}}?)?{_PERSON}\b(?!['’-])", re.I)
_SENTENCE_END = re.compile(r"\s*(?:;|[.!?](?=\s|$))\s*")
_NEXT = re.compile(
    r"(?:\s*,)?\s*\b(?:(?:and|but)\s+)?"
    r"(?:then|finally|lastly|afterwards?|after that|after which|followed by)\b\s*,?\s*",
    re.I,
)
_OPENING = re.compile(
    r"^(?:,|(?:and|but|first(?:ly)?|at first|next|then|finally|lastly|afterwards?|after that)\b)\s*,?\s*", re.I
)
_TRAILING = re.compile(r"[\s,]*(?:\b(?:and|but|first)\b)?[\s,]*$", re.I)
_FIRST_DOING = re.compile(r"^(is|are)\s+first\s+", re.I)
_PIVOT = re.compile(r"(?:\s*,)?\s+\b(?:shortly |just )?(before|after)\s+", re.I)
# "right before" means "just before", unless the word is the side: "to the right before", "turns right after".
_RIGHT_AT = re.compile(r"(?<!\bthe)(?<!\bhis)(?<!\bher)(?<!\btheir)(?<!\bits)\s+right$", re.I)
_TURNS = re.compile(r"\b(?:turn|rotat|fac|look|step|pivot|spin|swivel|mov|lean)\w*\s+right$", re.I)
_LEADING = re.compile(r"^(before|after)\s+", re.I)
_PHRASE = re.compile(
    r"^(?:an?|the|some|one|two|three|four|five|several|another|his|her|their|its|both|\d+)\s", re.I
)
_DIRECTION = re.compile(
    r"^(?:forwards?|backwards?|back|left|right|sideways|up|down|to|in|on|into|onto|with|again|around|towards?|"
    r"faster|slower)\b", re.I
)
# "and goes on afterwards" and "and is then pushed" say "and then" with the word in another place.
_LATE_AFTERWARDS = re.compile(r"\sand\s+(?!afterwards?\b)((?:(?!\sand\s)[^,])*?)\s+afterwards?\b", re.I)
_LATE_THEN = re.compile(r"\b(?:and\s+)?(is|are|he|she|they|it)\s+then\b", re.I)
_WORD = re.compile(r"[a-z0-9]+(?:[-'’][a-z0-9]+)*")
_EMPTY_WORDS = frozenset(
    "a an the and then but first firstly finally lastly next after before afterwards afterward followed by that which "
    "is are be being he she they it his her their its performs".split()
)
_OVERLAP = 0.6


def split_events(text: str) -> list[str]:
    """Splits `text` into its events in chronological order, one sentence each ("A person waves."), at least one.

    Raises:
      VtjaxError: `text` is not a string or has no words.
    """
    if not isinstance(text, str) or not _WORD.search(text.lower()):
        raise VtjaxError(f"caption {text!r} is empty: expected a sentence that describes what happens")
    text = " ".join(text.split())
    text = _LATE_THEN.sub(r"then \1", _LATE_AFTERWARDS.sub(r" and then \1", text))
    clauses: list[str] = []
    for sentence in _SENTENCE_END.split(text):
        clauses += _clauses(sentence)
    return _sentences([clause for clause in clauses if _WORD.search(clause.lower())] or [text], text)


def _clauses(text: str) -> list[str]:
    """Clauses of one sentence in chronological order, as written, without their connectives."""
    text = _strip(text)
    leading = _LEADING.match(text)
    if leading and _starts_clause(text[leading.end() :]):
        parts = _leading_parts(text[leading.end() :])
        if parts:
            inner, main = (_clauses(part) for part in parts)
            return inner + main if leading.group(1).lower() == "after" else main + inner
    pieces = [piece for piece in _NEXT.split(text) if _strip(piece)]
    if len(pieces) > 1:
        return [clause for piece in pieces for clause in _clauses(piece)]
    trailing = re.search(r"\s+after$", text, re.I)
    if trailing and " and " in text:
        first, second = text[: trailing.start()].rsplit(" and ", 1)
        return [*_clauses(first), *_clauses(second)]
    for pivot in _PIVOT.finditer(text):
        first, second = text[: pivot.start()], text[pivot.end() :]
        if not _TURNS.search(first):
            first = _RIGHT_AT.sub("", first)
        if _WORD.search(first.lower()) and _starts_clause(second):
            earlier, later = (first, second) if pivot.group(1).lower() == "before" else (second, first)
            return [*_clauses(earlier), *_clauses(later)]
    cleaned = _strip(pieces[0]) if pieces else ""
    return [cleaned] if cleaned else []


def _strip(text: str) -> str:
    """`text` without connectives at its beginning and commas, "and" at its end."""
    while match := _OPENING.match(text.strip()):
        text = text.strip()[match.end() :]
    return _TRAILING.sub("", text.strip(" .,"))


def _leading_parts(text: str) -> tuple[str, str] | None:
    """("waving", "a person sits") of "waving, a person sits", also where the comma is missing; None if neither."""
    commas = [match.start() for match in re.finditer(",", text)]
    for comma in commas:
        if _subject(text[comma + 1 :].strip()):
            return text[:comma], text[comma + 1 :]
    if commas:
        return text[: commas[0]], text[commas[0] + 1 :]
    for space in re.finditer(r"\s+(?=(?:an?|the|someone|somebody|he|she|they|it)\b)", text):
        if _subject(text[space.end() :]):
            return text[: space.start()], text[space.end() :]
    return None


def _subject(text: str) -> str:
    """The person that `text` begins with ("A man", "he"), "" when it begins with something else."""
    match = _SUBJECT.match(text)
    return match.group() if match else ""


def _verb_at(words: list[str]) -> int:
    """Position of the first word that is not an adverb."""
    return next((i for i, word in enumerate(words) if not word.endswith("ly") or inflect.is_base(word)), 0)


def _starts_clause(text: str) -> bool:
    """Whether `text` goes on with an action ("waving ...", "he waves ..."), not with a time or place ("5 steps")."""
    subject = _subject(text)
    words = _WORD.findall(text[len(subject) :].lower())
    if not words:
        return False
    return bool(subject) or inflect.base_of_gerund(words[_verb_at(words)]) is not None


@dataclasses.dataclass
class _Style:
    """How the first clause with a subject puts it: the subject, and "is"/"" before an -ing form, None for "waves"."""

    subject: str
    auxiliary: str | None


def _style(clauses: list[str], text: str) -> _Style:
    named = [clause for clause in clauses if _subject(clause)]
    if not named:
        words = _WORD.findall(clauses[0].lower())
        verb = words[_verb_at(words)]
        acts = inflect.base_of_third(verb) or inflect.base_of_gerund(verb) or inflect.is_base(verb)
        return _Style("A person" if acts else "", None)
    # The clause that comes first in the text names the person; those after it may only refer back.
    places = [text.lower().find(clause.lower()) for clause in named]
    first = named[min(range(len(named)), key=lambda i: places[i] if places[i] >= 0 else len(text))]
    subject = _subject(first)
    words = _WORD.findall(first[len(subject) :].lower())
    if len(words) > 1 and words[0] in ("is", "are") and inflect.base_of_gerund(words[1 + _verb_at(words[1:])]):
        return _Style(subject, words[0])
    if words and inflect.base_of_gerund(words[_verb_at(words)]):
        return _Style(subject, "")
    return _Style(subject, None)


def _sentences(clauses: list[str], text: str) -> list[str]:
    style = _style(clauses, text)
    sentences, verb = [], ""
    for clause in clauses:
        predicate, complete = _predicate(clause, style, verb)
        verb = _leading_verb(predicate) or verb
        sentence = predicate if complete or not style.subject else f"{style.subject} {predicate}"
        sentences.append(sentence[:1].upper() + sentence[1:] + ".")
    return sentences


def _leading_verb(predicate: str) -> str:
    """"walks" of "walks forward", "is walking" of "is slowly walking"; "" when the predicate starts otherwise."""
    words = _WORD.findall(predicate.lower())
    auxiliary = words[0] + " " if words and words[0] in ("is", "are") else ""
    rest = words[1:] if auxiliary else words
    if not rest:
        return ""
    verb = rest[_verb_at(rest)]
    known = inflect.base_of_gerund(verb) if auxiliary else inflect.base_of_third(verb)
    return auxiliary + verb if known else ""


def _predicate(clause: str, style: _Style, verb: str) -> tuple[str, bool]:
    """What follows the subject in the event of `clause`, and whether it has a subject that is not the person."""
    subject = _subject(clause)
    rest = _FIRST_DOING.sub(r"\1 ", _strip(clause[len(subject) :])) if subject else clause
    if not style.subject or not rest or re.match(r"(?:some|any|no)thing\b", rest, re.I):
        return clause, True
    singular = not _PLURAL.search(style.subject)
    if subject:
        return _agree(rest, singular), False
    if _PHRASE.match(rest):
        words = _WORD.findall(rest.lower())
        if words[0] in ("the", "his", "her", "both") and any(map(inflect.base_of_third, words[2:4])):
            return rest, True  # "his left arm drops"
        return ("performs " if singular else "perform ") + rest, False
    if _DIRECTION.match(rest) and verb:
        return f"{verb} {rest}", False
    return _agree(rest, singular, style.auxiliary, carried=True), False


def _agree(rest: str, singular: bool, auxiliary: str | None = None, carried: bool = False) -> str:
    """`rest` with its verb in the form that the subject asks for; carried: the subject is another clause's."""
    words = rest.split(" ")
    at = _verb_at([word.lower().strip(",") for word in words])
    verb = words[at].lower().strip(",")
    tail = "," if words[at].endswith(",") else ""
    base = inflect.base_of_gerund(verb)
    if base and carried:
        if auxiliary is not None:
            return f"{auxiliary} {rest}".strip()
        words[at] = (inflect.third_person(base) if singular else base) + tail
        for i in range(at + 2, len(words)):  # "sitting down and standing up" are one event's two verbs
            second = inflect.base_of_gerund(words[i].lower()) if words[i - 1] == "and" else None
            if second and inflect.is_base(second):
                words[i] = inflect.third_person(second) if singular else second
    elif verb in ("is", "are"):
        words[at] = ("is" if singular else "are") + tail
    elif singular and inflect.is_base(verb):
        words[at] = inflect.third_person(verb) + tail
    return " ".join(words)


def _content(text: str) -> set[str]:
    """Words that carry the meaning, reduced to base forms."""
    words = (word for word in _WORD.findall(text.lower()) if word not in _EMPTY_WORDS)
    return {inflect.base_of_gerund(word) or inflect.base_of_third(word) or word.rstrip("s") for word in words}


def token_overlap(text: str, events: list[str] | tuple[str, ...]) -> float:
    """Agreement in content words between a caption and its events, 0 to 1: the smaller of precision and recall."""
    source, told = _content(text), _content(" ".join(events))
    if not source or not told:
        return float(source == told)
    return len(source & told) / max(len(source), len(told))


def invalid_reason(text: str, events: object) -> str:
    """Why `events` cannot stand for `text`: not a non-empty list of non-empty strings, or other words; "" if it can."""
    if not isinstance(events, list | tuple) or not events:
        return "events are not a non-empty list"
    if not all(isinstance(event, str) and event.strip() for event in events):
        return "events are not all non-empty strings"
    if token_overlap(text, events) < _OVERLAP:
        return f"events share less than {_OVERLAP:g} of their words with the caption"
    return ""


def checked_events(text: str, events: Any, problems: Problems, where: object) -> list[str]:
    """`events` when they are valid for `text`, else [text]; what was replaced, or cannot be shuffled, is reported.

    Problems name `where`. Several events that all read the same are kept, and reported: no order of them is wrong.
    """
    reason = invalid_reason(text, events)
    if reason:
        problems.add(where, f"{reason}: the whole caption is kept as one event")
        return [text]
    events = [" ".join(event.split()) for event in events]
    if is_degenerate(events):
        problems.add(where, "all events are identical: they have no wrong order")
    return events
