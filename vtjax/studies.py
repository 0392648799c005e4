"""A study: named rows of overrides and seeds, each an ordinary run; what `python -m vtjax.study` carries out."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from vtjax.errors import VtjaxError, nearest


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table: overrides {"train.steps": 500, ...} of the variant, run once per seed."""

    name: str
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)


@dataclasses.dataclass(frozen=True)
class Study:
    """columns: (heading, "protocol/metric") of the evaluation. variant: of the config that rows start from."""

    rows: tuple[Row, ...]
    columns: tuple[tuple[str, str], ...]
    variant: str = "demo"
    about: str = ""


def override(experiment: Any, path: str, value: Any) -> None:
    """Sets a dotted field of an Experiment.

    Raises:
      VtjaxError: no such field; the nearest is named.
    """
    *parents, last = path.split(".")
    holder = experiment
    for depth, part in enumerate([*parents, last]):
        known = [f.name for f in dataclasses.fields(holder)]
        if part not in known:
            raise VtjaxError(f"config.{path}: {type(holder).__name__} has no field {part!r}; {nearest(part, known)}")
        if depth < len(parents):
            holder = getattr(holder, part)
    setattr(holder, last, value)


def run_row(module: Any, study: Study, row: Row, seed: int, output: pathlib.Path) -> dict[str, float]:
    """Trains and evaluates one run, or reads its results where it is finished: {"protocol/metric": value}."""
    from vtjax.evals.protocol import save_results
    from vtjax.runs import fit

    work = output / f"{row.name.replace(' ', '-').replace('/', '_')}-seed{seed}"
    results = work / "results.json"
    if not results.exists():
        experiment = module.get_config(study.variant)
        experiment.seed = seed
        for path, value in row.overrides.items():
            override(experiment, path, value)
        save_results(results, fit(experiment, work).evaluate())
    return {f"{r['protocol']}/{n}": v for r in json.loads(results.read_text()) for n, v in r["metrics"].items()}


def format_markdown(study: Study, values: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """The table: mean and, of several seeds, (lowest to highest); values: {row: one dict per seed}."""
    heads = [heading for heading, _ in study.columns]
    lines = ["| | seeds | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(heads)]
    for name, runs in values.items():
        cells = []
        for _, metric in study.columns:
            figures = [run[metric] for run in runs if metric in run]
            if not figures:
                cells.append("-")
            elif len(figures) == 1:
                cells.append(f"{figures[0]:.1f}")
            else:
                cells.append(f"{statistics.mean(figures):.1f} ({min(figures):.1f} to {max(figures):.1f})")
        lines.append(f"| {name} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
