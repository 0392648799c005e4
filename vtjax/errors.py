"""What a user can get wrong, said so that they can put it right."""

from __future__ import annotations

import collections
import dataclasses
import difflib
from collections.abc import Iterable


class VtjaxError(ValueError):
    """An error of the user's input; the mains print its message without a traceback and exit with status 2."""


class ArgumentError(VtjaxError, TypeError):
    """A function was called with arguments that it does not have."""


class MissingSplit(VtjaxError):
    """The data have no split of the name that was asked for."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """One item that was left out: `where` names file, line or key; `reason` says why."""

    where: str
    reason: str


class Problems:
    """Collects what was left out of a data set, so that it is counted and reported and never lost.

    `reason` groups the report: keep it free of item-specific numbers and put those in `where`.
    """

    def __init__(self) -> None:
        self.items: list[Problem] = []

    def add(self, where: object, reason: str) -> None:
        self.items.append(Problem(str(where), reason))

    def __len__(self) -> int:
        return len(self.items)

    def counts(self) -> dict[str, int]:
        """Number of items left out, by reason, most frequent first."""
        return dict(collections.Counter(p.reason for p in self.items).most_common())

    def report(self, examples: int = 3) -> str:
        """One line per reason with its count and the first `examples` places; empty when nothing was left out."""
        lines = []
        for reason, count in self.counts().items():
            places = [p.where for p in self.items if p.reason == reason]
            more = f", and {count - examples} more" if count > examples else ""
            lines.append(f"left out {count}: {reason} ({', '.join(places[:examples])}{more})")
        return "\n".join(lines)


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause naming the known name closest to `name`, or the known names where none is close."""
    known = list(known)
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if match:
        return f"did you mean {match[0]!r}?"
    return "known: " + ", ".join(sorted(known)) if known else "none are known"
