"""What fits between a parameter tree and the tensors of a checkpoint, and what does not."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vtjax.errors import VtjaxError, nearest
from vtjax.trees import flatten

SHOWN = 20  # names listed of each kind before the rest is only counted


@dataclasses.dataclass(frozen=True)
class MatchReport:
    """Lists names ("a/b/c") by how they fitted.

    Attributes:
      matched: in both with the same shape.
      unused: in the checkpoint only.
      missing: in the tree only.
      mis_shaped: (name, shape expected by the tree, shape in the checkpoint).
      dropped: (name in the checkpoint, why it is known to be no parameter).
    """

    matched: tuple[str, ...]
    unused: tuple[str, ...]
    missing: tuple[str, ...]
    mis_shaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    dropped: tuple[tuple[str, str], ...] = ()

    def summary(self) -> str:
        """One line of counts, then a line for every leaf that did not fit (the first `SHOWN` of each kind)."""
        lines = [
            f"{len(self.matched)} tensors matched, {len(self.missing)} missing, {len(self.unused)} unused, "
            f"{len(self.mis_shaped)} mis-shaped"
        ]
        close = [f"{name} ({nearest(name, self.unused)})" if self.unused else name for name in self.missing[:SHOWN]]
        lines += _listed("missing: ", close, len(self.missing))
        lines += _listed("unused: ", self.unused, len(self.unused))
        shapes = [f"{name}: expected {expected}, found {found}" for name, expected, found in self.mis_shaped]
        lines += _listed("mis-shaped: ", shapes, len(self.mis_shaped))
        reasons: dict[str, list[str]] = {}
        for name, why in self.dropped:
            reasons.setdefault(why, []).append(name)
        for why, names in reasons.items():
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            lines.append(f"  left out, {why}: {', '.join(names[:SHOWN])}{more}")
        return "\n".join(lines)

    def raise_if_incomplete(
        self, allow_missing: Sequence[str] = (), allow_unused: Sequence[str] = (), source: str = "checkpoint"
    ) -> MatchReport:
        """This report, if all fits but the names that a regular expression of the `allow_*` lists matches whole.

        Raises:
          VtjaxError: anything else is missing, unused or mis-shaped; the message names every leaf.
        """
        rest = dataclasses.replace(
            self, missing=_without(self.missing, allow_missing), unused=_without(self.unused, allow_unused)
        )
        if rest.missing or rest.unused or rest.mis_shaped:
            raise VtjaxError(f"{source} does not fit the model: {rest.summary()}")
        return self


def match(tree_shapes: Any, mapped: Mapping[str, Any]) -> MatchReport:
    """Compares a tree (nested dicts of anything with `.shape`) with tensors already named "a/b/c" like its leaves."""
    expected = {name: tuple(leaf.shape) for name, leaf in flatten(tree_shapes).items()}
    shapes = {name: tuple(value.shape) for name, value in mapped.items()}
    both = [name for name in expected if name in shapes]
    return MatchReport(
        matched=tuple(name for name in both if expected[name] == shapes[name]),
        unused=tuple(name for name in shapes if name not in expected),
        missing=tuple(name for name in expected if name not in shapes),
        mis_shaped=tuple((name, expected[name], shapes[name]) for name in both if expected[name] != shapes[name]),
    )


def _without(names: Sequence[str], patterns: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if not any(re.fullmatch(pattern, name) for pattern in patterns))


def _listed(title: str, lines: Sequence[str], count: int) -> list[str]:
    more = [f"  {title}and {count - SHOWN} more"] if count > SHOWN else []
    return [f"  {title}{line}" for line in lines[:SHOWN]] + more
