"""Pictures of a report as PNG: frames side by side, and a table of numbers in shades."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np


def strip_png(frames: np.ndarray, height: int = 96, gap: int = 3) -> bytes:
    """Draws frames uint8 [T, H, W, 3] side by side on white, `height` pixels high."""
    from PIL import Image

    wide = []
    for frame in frames:
        width = max(1, round(height * frame.shape[1] / frame.shape[0]))
        resized = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS))
        wide += [resized, np.full((height, gap, 3), 255, np.uint8)]
    out = io.BytesIO()
    Image.fromarray(np.concatenate(wide[:-1], axis=1)).save(out, "png", optimize=True)
    return out.getvalue()


def matrix_png(
    table: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    groups: tuple[Sequence[str], Sequence[str]] | None = None,
    marked: Callable[[str], bool] = lambda name: False,
) -> bytes:
    """Draws float [R, C] in shades, each row from its lowest to its highest value.

    Args:
      rows, columns: names along both sides.
      groups: group of each row and of each column; lines are drawn between groups.
      marked: whether a name is written in red.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    span = np.ptp(table, axis=1, keepdims=True)
    shade = (table - table.min(axis=1, keepdims=True)) / np.where(span > 0, span, 1)
    side = float(np.clip(0.13 * len(rows) + 2.5, 5, 16))
    figure = Figure(figsize=(side + 1.5, side), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(shade, cmap="magma", aspect="auto", interpolation="nearest")
    for names, line in zip(groups or (), (axes.axhline, axes.axvline), strict=False):
        for place in (i for i in range(1, len(names)) if names[i] != names[i - 1]):
            line(place - 0.5, color="white", linewidth=0.6)
    size = float(np.clip(500 / max(len(rows), 1), 4.5, 9))
    for axis, names in ((axes.yaxis, rows), (axes.xaxis, columns)):
        axis.set_ticks(range(len(names)), names, fontsize=size)
        for label, name in zip(axis.get_ticklabels(), names, strict=True):
            label.set_color("#b4443c" if marked(name) else "#4a5260")
    axes.tick_params(axis="x", rotation=90, length=0)
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor="white")
    return out.getvalue()
