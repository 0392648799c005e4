"""A stream replayed: its frames, with a bar for each class that moves as the scores did. No script: SMIL animation.

Hidden in print and where the reader's system asks for less motion, as all that moves (style.py, `.play`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vtjax.report.markup import Markup, element, escape
from vtjax.report.style import colour
from vtjax.report.timeline import Timeline, chosen_lanes, jpeg

SPEED = 2.0  # seconds of the stream in a second
MOST_STEPS = 480  # two minutes at 4 a second; what is longer is not replayed
_BARS = 8
_SIDE, _WIDTH, _ROW = 190, 720, 22


def draw_player(timeline: Timeline) -> Markup:
    """The replay of a whole timeline; "" where it has no pictures, one step, or more than MOST_STEPS."""
    t = timeline
    if not t.pictures or not 2 <= len(t.times) <= MOST_STEPS:
        return Markup("")
    start, end = float(t.times[0]), float(t.times[-1])
    places = (np.asarray(t.times) - start) / (end - start)
    seconds = (end - start) / SPEED
    lanes = chosen_lanes(t, _BARS)
    height = max(_SIDE + 14, _ROW * len(lanes) + 14)
    parts = [*_pictures(t, start, end, seconds), *_bars(t, lanes, places, seconds), *_clock(seconds, height)]
    words = f"Replay of {end - start:.0f} seconds, at {SPEED:g} times the speed"
    head = f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" style="max-width:100%" role="img" font-size="12" '
    drawing = Markup(f'{head}aria-label="{escape(words)}">' + "".join(parts) + "</svg>")
    truth = "" if t.truth is None else "; a dot marks the classes that are true at the moment"
    note = element("figcaption", f"{words}{truth}.")
    return element("div", element("figure", element("div", drawing, cls="play"), note), cls="replay")


def _loop(
    attribute: str, values: Sequence[str], times: Sequence[float] | np.ndarray, seconds: float, discrete: bool
) -> str:
    mode = ' calcMode="discrete"' if discrete else ""
    keys = ";".join(f"{t:.4f}".rstrip("0").rstrip(".") for t in times)
    return (
        f'<animate attributeName="{attribute}" values="{";".join(values)}" keyTimes="{keys}" dur="{seconds:.2f}s" '
        f'repeatCount="indefinite"{mode}/>'
    )


def _shown(spans: Sequence[tuple[float, float]], seconds: float) -> str:
    """Opacity 1 within spans of [0, 1], 0 outside."""
    values, times = ["0"], [0.0]
    for begin, end in spans:
        if begin <= times[-1] + 1e-6:
            values[-1] = "1"
        else:
            values, times = [*values, "1"], [*times, begin]
        if end < 1 - 1e-6:
            values, times = [*values, "0"], [*times, end]
    return _loop("opacity", values, times, seconds, discrete=True)


def _pictures(t: Timeline, start: float, end: float, seconds: float) -> list[str]:
    parts = []
    edges = [max((s - start) / (end - start), 0.0) for s, _ in t.pictures] + [1.0]
    for i, (_, frame) in enumerate(t.pictures):
        height = min(_SIDE, round(_SIDE * frame.shape[0] / frame.shape[1]))
        width = round(height * frame.shape[1] / frame.shape[0])
        first = 0.0 if i == 0 else edges[i]
        # The first stands still where nothing is animated.
        parts.append(
            f'<image x="0" y="0" width="{width}" height="{height}" opacity="{int(i == 0)}" href="{jpeg(frame)}">'
            f"{_shown([(first, edges[i + 1])], seconds) if first < edges[i + 1] else ''}</image>"
        )
    return parts


def _bars(t: Timeline, lanes: Sequence[int], places: np.ndarray, seconds: float) -> list[str]:
    left, room, parts = _SIDE + 180, _WIDTH - _SIDE - 190, []
    table = np.asarray(t.scores, np.float64)[:, lanes]
    low, high = min(float(table.min()), 0.0), float(table.max())
    widths = (table - low) / (high - low if high > low else 1.0) * room
    for row, c in enumerate(lanes):
        y = 4 + _ROW * row
        name = t.names[c] if len(t.names[c]) <= 26 else t.names[c][:25] + "\u2026"
        tint = colour("bad" if t.names[c] in t.held_out else "ink")
        parts.append(f'<text x="{left - 20}" y="{y + 12}" text-anchor="end" fill="{tint}">{escape(name)}</text>')
        growth = _loop("width", [f"{w:.0f}" for w in widths[:, row]], places, seconds, False)
        parts.append(
            f'<rect x="{left}" y="{y + 1}" height="14" width="{widths[0, row]:.1f}" fill="{colour("accent")}" '
            f'opacity=".75" rx="2">{growth}</rect>'
        )
        if t.truth is not None and np.asarray(t.truth)[:, c].any():
            true = np.concatenate([[0], np.asarray(t.truth)[:, c] > 0, [0]])
            begins, ends = np.flatnonzero(np.diff(true) == 1), np.flatnonzero(np.diff(true) == -1)
            pairs = zip(begins, ends, strict=True)
            spans = [(float(places[b]), float(places[e]) if e < len(places) else 1.0) for b, e in pairs]
            dot = f'<circle cx="{left - 10}" cy="{y + 8}" r="4" fill="{colour("good")}" opacity="0">'
            parts.append(f"{dot}{_shown(spans, seconds)}</circle>")
    return parts


def _clock(seconds: float, height: int) -> list[str]:
    """A bar along the foot that fills once in each round."""
    return [
        f'<rect x="0" y="{height - 5}" width="{_WIDTH}" height="3" fill="{colour("line")}"/>',
        f'<rect x="0" y="{height - 5}" width="0" height="3" fill="{colour("muted")}">'
        f"{_loop('width', ['0', str(_WIDTH)], [0.0, 1.0], seconds, False)}</rect>",
    ]
