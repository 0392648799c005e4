"""What an evaluation returns: figures that cannot be separated from protocol, item count, chance level and interval."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from vtjax.errors import VtjaxError
from vtjax.files import write_atomically


@dataclasses.dataclass(frozen=True)
class Result:
    """One protocol's figures.

    protocol: its name, e.g. "retrieval/all/t2m"; the part before the last "/" names a family of comparable rows.
    metrics: name -> value; rates are in percent, MedR is a rank that starts at 1.
    items: number of queries that were scored. chance: what guessing gives, for every metric.
    interval: 95 % confidence interval (low, high), for every metric. notes: what a reader must know about the figures.
    Raises VtjaxError when there is no item, a figure is not finite, or a metric lacks its chance level or interval.
    """

    protocol: str
    metrics: Mapping[str, float]
    items: int
    chance: Mapping[str, float]
    interval: Mapping[str, tuple[float, float]]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.items < 1:
            raise VtjaxError(f"{self.protocol}: there is no item to score")
        for name, value in self.metrics.items():
            missing = [part for part in ("chance", "interval") if name not in getattr(self, part)]
            if missing:
                raise VtjaxError(f"{self.protocol}: metric {name!r} has no {' and no '.join(missing)}")
            if not all(math.isfinite(v) for v in (value, self.chance[name], *self.interval[name])):
                raise VtjaxError(f"{self.protocol}: metric {name!r} or its chance level or interval is not finite")

    def to_json(self) -> dict:
        """Plain dict for `json.dump`; `from_json` reads it back."""
        return {
            "protocol": self.protocol,
            "items": int(self.items),
            "metrics": {k: float(v) for k, v in self.metrics.items()},
            "chance": {k: float(self.chance[k]) for k in self.metrics},
            "interval_95": {k: [float(v) for v in self.interval[k]] for k in self.metrics},
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, record: Mapping) -> Result:
        """Inverse of `to_json`. Raises VtjaxError naming the missing key."""
        try:
            return cls(
                protocol=record["protocol"],
                metrics=dict(record["metrics"]),
                items=int(record["items"]),
                chance=dict(record["chance"]),
                interval={k: (float(low), float(high)) for k, (low, high) in record["interval_95"].items()},
                notes=tuple(record.get("notes", ())),
            )
        except KeyError as error:
            raise VtjaxError(f"an evaluation result lacks the key {error}; it is written by Result.to_json") from error


def families(results: Iterable[Result]) -> list[list[Result]]:
    """Results with the same metrics side by side, in order of first appearance; one table each."""
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        groups.setdefault(tuple(result.metrics), []).append(result)
    return list(groups.values())


def format_interval(low: float, high: float) -> str:
    return f"{low:.1f}-{high:.1f}"


def format_table(results: Sequence[Result]) -> str:
    """Text for a terminal: per result the figures, their 95 % intervals and the chance levels, then the notes."""
    blocks = []
    for family in families(results):
        names = list(family[0].metrics)
        lines = [["protocol", "items", *names]]
        notes = []
        for result in family:
            lines.append([result.protocol, f"{result.items}", *(f"{result.metrics[n]:.2f}" for n in names)])
            lines.append(["  95 % CI", "", *(format_interval(*result.interval[n]) for n in names)])
            lines.append(["  chance", "", *(f"{result.chance[n]:.2f}" for n in names)])
            notes += [f"{result.protocol}: {note}" for note in result.notes]
        widths = [max(len(line[c]) for line in lines) for c in range(len(lines[0]))]
        text = []
        for index, line in enumerate(lines):
            cells = (cell.rjust(widths[c]) if c else cell.ljust(widths[c]) for c, cell in enumerate(line))
            text.append("  ".join(cells).rstrip())
            if index == 0:
                text.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
        blocks.append("\n".join(text + [f"  {note}" for note in notes]))
    return "\n\n".join(blocks)


def save_results(path: pathlib.Path | str, results: Sequence[Result]) -> None:
    """Writes the results as one JSON list, atomically."""
    write_atomically(path, json.dumps([result.to_json() for result in results], indent=1) + "\n")
