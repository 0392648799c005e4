"""Training curves from metrics.jsonl: one JSON object per line with "step", "split" and metrics by name."""

from __future__ import annotations

import collections
import io
import json
import math
import os
import pathlib
from typing import Any

import numpy as np

from vtjax.errors import Problems, VtjaxError

Curves = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]  # split -> metric -> (steps int [N], values float [N])
_IGNORED = {"step", "split", "time", "epoch", "wall_time"}
_REDUNDANT = {"R@2", "R@3", "R@5", "first"}
_INK = "#7d8591"  # readable on light and on dark paper
_SERIES = ("#1f8a8f", "#dd7a3a", "#8a6fbf", "#c0607f", "#6b8e3d", "#4c7fb0")
MOST_PANELS = 12


def read_metrics(path: os.PathLike | str, problems: Problems | None = None) -> Curves:
    """Reads a metrics file: split -> metric -> (steps, values), by rising step, the last line of a step counting.

    Lines without a split are "train"; nested objects are joined with "/"; null becomes NaN; what is not a number is
    passed over. Lines that cannot be read, such as one cut off by a kill, go to `problems`.
    Raises VtjaxError when the file cannot be read.
    """
    path = pathlib.Path(path)
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise VtjaxError(f"{path}: cannot be read: {error.strerror}") from error
    points: dict = collections.defaultdict(lambda: collections.defaultdict(dict))
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            step = int(record["step"])
        except (ValueError, KeyError, TypeError):
            if problems is not None:
                problems.add(f"{path}:{number}", "not a JSON object with a step")
            continue
        split = str(record.get("split", "train"))
        for name, value in _flat(record):
            points[split][name][step] = value
    return {
        split: {
            name: (np.array(sorted(series)), np.array([series[step] for step in sorted(series)], float))
            for name, series in metrics.items()
        }
        for split, metrics in points.items()
    }


def _flat(record: dict, prefix: str = ""):
    for name, value in record.items():
        if not prefix and name in _IGNORED:
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        elif value is None:
            yield prefix + name, math.nan
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield prefix + name, float(value)


def panels(curves: Curves) -> dict[str, list[tuple[str, np.ndarray, np.ndarray]]]:
    """What is drawn: title -> [(label, steps, values)]. Only series of two finite points or more.

    The loss, then one panel per evaluation metric, its protocols together, then the other training metrics.
    """
    training, evaluation = {}, collections.defaultdict(list)
    for split, metrics in curves.items():
        for name, (steps, values) in metrics.items():
            if np.isfinite(values).sum() < 2:
                continue
            if split == "train":
                training[name] = [("", steps, values)]
            else:
                protocol, _, metric = name.rpartition("/")
                if metric not in _REDUNDANT:
                    label = "/".join(part for part in (split.removeprefix("eval").strip("/"), protocol) if part)
                    evaluation[metric].append((label, steps, values))

    def weight(name: str) -> tuple:
        return ("loss" not in name, name in ("examples_per_second", "data_wait"))

    ordered = {"loss": training.pop("loss")} if "loss" in training else {}
    for metric, series in evaluation.items():
        ordered[f"evaluation {metric}" if metric in ordered or metric in training else metric] = series
    return ordered | {name: training[name] for name in sorted(training, key=weight)}


def draw_curves(curves: Curves) -> tuple[str, list[str]]:
    """(SVG text, names of metrics left out for want of room); an empty SVG when no metric has two points.

    Training metrics are drawn as measured, faint, with a running mean over them. Transparent, for light and dark pages.
    """
    drawn = panels(curves)
    shown = list(drawn)[:MOST_PANELS]
    if not shown:
        return "", []
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    style: Any = {"svg.hashsalt": "vtjax", "svg.fonttype": "path", "font.size": 9, "axes.edgecolor": _INK,
             "axes.labelcolor": _INK, "xtick.color": _INK, "ytick.color": _INK, "text.parse_math": False,
             "axes.formatter.limits": (-3, 5)}  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(3.75 * columns, 2.35 * rows), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        for axes, name in zip(figure.subplots(rows, columns, squeeze=False).flat, shown, strict=False):
            _panel(axes, name, drawn[name])
        for axes in figure.axes[len(shown) :]:
            axes.axis("off")
        out = io.BytesIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return out.getvalue().decode(), [name for name in drawn if name not in shown]


def _panel(axes, name: str, series: list) -> None:
    axes.set_title(name.replace("_", " "), loc="left", color=_INK, fontsize=10, fontweight="bold")
    for index, (label, steps, values) in enumerate(series):
        tint = _SERIES[index % len(_SERIES)]
        line = "-" if index < len(_SERIES) else "--"
        if label or len(values) < 12:
            axes.plot(steps, values, line, color=tint, linewidth=1.7, marker="o", markersize=3, label=label)
        else:
            axes.plot(steps, values, color=tint, linewidth=0.8, alpha=0.35)
            axes.plot(steps, running_mean(values), color=tint, linewidth=1.8)
    finite = np.concatenate([values[np.isfinite(values)] for _, _, values in series])
    if "loss" in name and finite.min() > 0 and finite.max() / finite.min() > 30:
        axes.set_yscale("log")
    elif finite.min() == finite.max() > 0:
        axes.set_ylim(0, 1.5 * finite.max())
    axes.grid(color=_INK, alpha=0.18, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=2, labelsize=8)
    axes.margins(x=0.02)
    if any(label for label, _, _ in series):
        axes.legend(frameon=False, fontsize=6.5, labelcolor=_INK, handlelength=1.2)


def running_mean(values: np.ndarray, share: float = 0.03) -> np.ndarray:
    """Gaussian mean [N] around each point, sigma `share` of the series (1 or more); only finite values have weight."""
    sigma = max(1.0, share * len(values))
    reach = min(int(4 * sigma), len(values) - 1)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    finite = np.isfinite(values)
    middle = slice(reach, reach + len(values))
    total = np.convolve(np.where(finite, values, 0.0), kernel)[middle]
    weight = np.convolve(finite.astype(float), kernel)[middle]
    return np.where(weight > 1e-12, total / np.maximum(weight, 1e-12), np.nan)
