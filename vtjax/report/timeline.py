"""Scores over time as they came: frames, a lane for each class against the truth, groups, and the background mask.

One SVG for each stretch of time, inline, in the colours of the page.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
from collections.abc import Sequence

import numpy as np

from vtjax.errors import VtjaxError
from vtjax.report.markup import Markup, element, escape, join
from vtjax.report.style import colour, event_colour

STEPS = 160  # in one stretch: 40 seconds at 4 a second
STRETCHES = 6  # at most; what is longer is drawn coarser
LANES = 12  # classes drawn at most
_LEFT, _WIDTH, _LANE, _GAP, _PICTURE = 150, 1024, 30, 7, 54


@dataclasses.dataclass(frozen=True)
class Timeline:
    """n steps and C classes.

    times: float [n], seconds, rising. names: of the classes. scores: float [n, C]. truth: [n, C], nonzero where the
    class is shown, or None. groups: int [n], the group of each frame, and meanings: the class that group is nearest to,
    or None. mask: float [n] in [0, 1], or None. pictures: (seconds, frame uint8 [H, W, 3]) of some moments.
    background: index of the class without action, which has no lane, or None. held_out: names training never met.
    """

    times: np.ndarray
    names: Sequence[str]
    scores: np.ndarray
    truth: np.ndarray | None = None
    groups: np.ndarray | None = None
    meanings: Sequence[str] | None = None
    mask: np.ndarray | None = None
    pictures: Sequence[tuple[float, np.ndarray]] = ()
    background: int | None = 0
    held_out: Sequence[str] = ()

    def __post_init__(self) -> None:
        steps, classes = len(self.times), len(self.names)
        shapes = {"scores": (steps, classes), "truth": (steps, classes), "groups": (steps,), "mask": (steps,)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is not None and np.shape(value) != shape:
                raise VtjaxError(f"timeline: {name} has shape {np.shape(value)}, expected {shape}")
        if not steps or (np.diff(self.times) <= 0).any():
            raise VtjaxError("timeline: one step or more, with rising times, is expected")


def chosen_lanes(timeline: Timeline, most: int = LANES) -> list[int]:
    """Classes that have a lane: first those that are shown, then those with the highest peaks; in their own order."""
    rows = [c for c in range(len(timeline.names)) if c != timeline.background]
    shown = np.zeros(len(timeline.names)) if timeline.truth is None else (np.asarray(timeline.truth) > 0).sum(axis=0)
    peaks = np.asarray(timeline.scores).max(axis=0)
    ranked = sorted(rows, key=lambda c: (shown[c] == 0, -peaks[c]))
    return sorted(ranked[:most])


def draw_timeline(timeline: Timeline) -> Markup:
    """The drawing with its legend."""
    per = max(STEPS, -(-len(timeline.times) // STRETCHES))
    bins = -(-per // STEPS)
    lanes = chosen_lanes(timeline)
    table = np.asarray(timeline.scores, np.float64)[:, lanes]
    low, high = min(float(table.min()), 0.0), float(table.max())
    scale = (low, high if high > low else low + 1)
    parts = []
    for first in range(0, len(timeline.times), per):
        rows = np.arange(first, min(first + per, len(timeline.times)))
        parts.append(element("div", _stretch(timeline, rows, bins, lanes, scale), cls="timeline"))
    return join([_legend(timeline, lanes, scale, bins), *parts])


def _legend(timeline: Timeline, lanes: Sequence[int], scale: tuple[float, float], bins: int) -> Markup:
    words = [f"Lanes from {scale[0]:.2f} to {scale[1]:.2f}."]
    if timeline.truth is not None:
        words.append("The bar under a lane is the truth.")
    if timeline.groups is not None:
        words.append("Groups: which group the current frame was put into, and the class that group was nearest to.")
    if timeline.mask is not None:
        words.append("Action: the predicted background mask, 1 for action.")
    if set(timeline.held_out) & {timeline.names[c] for c in lanes}:
        words.append("Classes in red were held out of training.")
    left_out = len(timeline.names) - len(lanes) - (timeline.background is not None)
    if left_out:
        words.append(f"{left_out} classes that are not shown and never scored highest have no lane.")
    if bins > 1:
        words.append(f"Each point is the highest of {bins} steps.")
    return element("p", " ".join(words), cls="legend")


def _stretch(t: Timeline, rows: np.ndarray, bins: int, lanes: Sequence[int], scale: tuple[float, float]) -> Markup:
    step = float(np.median(np.diff(t.times))) if len(t.times) > 1 else 0.25
    start, end = float(t.times[rows[0]]) - step / 2, float(t.times[rows[-1]]) + step / 2
    # A short last stretch keeps the scale of the others.
    span = max(end - start, STEPS * bins * step if len(t.times) > STEPS else 0.0)
    x = lambda seconds: _LEFT + (np.asarray(seconds) - start) / span * (_WIDTH - _LEFT - 8)
    parts: list[str] = []
    top = 4.0
    if t.pictures:
        parts += _pictures(t, x, start, end, top)
        top += _PICTURE + 10
    for c in lanes:
        parts += _lane(t, rows, bins, c, x, step, top, scale)
        top += _LANE + _GAP
    if t.groups is not None:
        parts += _groups(t, rows, x, step, top)
        top += 20 + _GAP
    if t.mask is not None:
        parts += _mask(t, rows, bins, x, step, top)
        top += _LANE + _GAP
    parts = _axis(x, start, end, top) + parts  # the pictures cover its lines
    height = top + 18
    names = ", ".join(t.names[c] for c in lanes)
    head = f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" width="100%" role="img" font-size="11" aria-label="'
    head += escape(f"Scores from {start:.0f} to {end:.0f} seconds: {names}") + '">'
    return Markup(head + "".join(parts) + "</svg>")


def _label(text: str, y: float, tint: str = "ink") -> str:
    short = text if len(text) <= 24 else text[:23] + "\u2026"
    title = f"<title>{escape(text)}</title>" if short != text else ""
    return f'<text x="{_LEFT - 10}" y="{y:.1f}" text-anchor="end" fill="{colour(tint)}">{title}{escape(short)}</text>'


def _highest(values: np.ndarray, bins: int) -> np.ndarray:
    """Highest of every `bins` values; the last bin may be shorter."""
    return np.array([values[i : i + bins].max() for i in range(0, len(values), bins)])


def _area(points: np.ndarray, values: np.ndarray, floor: float, height: float, tint: str) -> str:
    """A filled curve; values in [0, 1]."""
    top = floor - np.clip(values, 0, 1) * height
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(points, top, strict=True))
    closed = f"{points[0]:.1f},{floor:.1f} {line} {points[-1]:.1f},{floor:.1f}"
    return (
        f'<polygon points="{closed}" fill="{tint}" opacity=".22"/>'
        f'<polyline points="{line}" fill="none" stroke="{tint}" stroke-width="1.3" stroke-linejoin="round"/>'
    )


def _runs(values: np.ndarray) -> list[tuple[int, int, object]]:
    """(first, after the last, value) of every stretch of equal values."""
    cuts = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1), len(values)]
    return [(a, b, values[a]) for a, b in itertools.pairwise(cuts)]


def _lane(t: Timeline, rows, bins: int, c: int, x, step: float, top: float, scale: tuple[float, float]) -> list[str]:
    floor = top + _LANE - 5
    values = (np.asarray(t.scores, np.float64)[rows, c] - scale[0]) / (scale[1] - scale[0])
    points = x(t.times[rows[::bins]])
    held_out = t.names[c] in t.held_out
    parts = [
        _label(t.names[c], floor - 5, "bad" if held_out else "ink"),
        f'<line x1="{_LEFT}" x2="{x(t.times[rows[-1]] + step / 2):.1f}" y1="{floor:.1f}" y2="{floor:.1f}" '
        f'stroke="{colour("line")}"/>',
        _area(points, _highest(values, bins), floor, _LANE - 5, colour("accent")),
    ]
    if t.truth is not None:
        for a, b, shown in _runs(np.asarray(t.truth)[rows, c] > 0):
            if shown:
                left, right = x(t.times[rows[a]] - step / 2), x(t.times[rows[b - 1]] + step / 2)
                parts.append(
                    f'<rect x="{left:.1f}" y="{floor + 1:.1f}" width="{right - left:.1f}" height="4" rx="1.5" '
                    f'fill="{colour("good")}"><title>{escape(t.names[c])}: {t.times[rows[a]] - step / 2:.1f} to '
                    f"{t.times[rows[b - 1]] + step / 2:.1f} s</title></rect>"
                )
    return parts


def _groups(t: Timeline, rows, x, step: float, top: float) -> list[str]:
    parts = [_label("group of the frame", top + 13, "muted")]
    names = np.asarray(t.groups)[rows].astype(int)
    meanings = np.array([""] * len(rows) if t.meanings is None else [t.meanings[r] for r in rows])
    keys = np.array([f"{g}\0{m}" for g, m in zip(names, meanings, strict=True)])
    for a, b, _ in _runs(keys):
        left, right = float(x(t.times[rows[a]] - step / 2)), float(x(t.times[rows[b - 1]] + step / 2))
        word = f"group {names[a] + 1}" + (f": {meanings[a]}" if meanings[a] else "")
        fits = len(meanings[a]) * 5.8 + 8 < right - left
        parts.append(
            f'<g><title>{escape(word)}</title><rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
            f'height="18" fill="{event_colour(int(names[a]))}" opacity=".8" stroke="{colour("paper")}" '
            f'stroke-width=".6"/>'
            + (f'<text x="{left + 4:.1f}" y="{top + 13:.1f}" fill="#fff">{escape(meanings[a])}</text>' if fits else "")
            + "</g>"
        )
    return parts


def _mask(t: Timeline, rows, bins: int, x, step: float, top: float) -> list[str]:
    floor = top + _LANE - 5
    parts = [_label("action (mask)", floor - 5, "muted")]
    values = _highest(np.asarray(t.mask, np.float64)[rows], bins)
    parts.append(_area(x(t.times[rows[::bins]]), values, floor, _LANE - 7, colour("right")))
    if t.truth is not None:
        others = [c for c in range(len(t.names)) if c != t.background]
        for a, b, shown in _runs((np.asarray(t.truth)[rows][:, others] > 0).any(axis=1)):
            if shown:
                left, right = x(t.times[rows[a]] - step / 2), x(t.times[rows[b - 1]] + step / 2)
                parts.append(
                    f'<rect x="{left:.1f}" y="{floor + 1:.1f}" width="{right - left:.1f}" height="4" rx="1.5" '
                    f'fill="{colour("good")}"/>'
                )
    return parts


def _axis(x, start: float, end: float, top: float) -> list[str]:
    space = next((s for s in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600) if (end - start) / s <= 14), 1800)
    parts = []
    for tick in np.arange(np.ceil(start / space) * space, end + 1e-9, space):
        at = float(x(tick))
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="2" y2="{top:.1f}" stroke="{colour("line")}" stroke-width=".6" '
            f'stroke-dasharray="2 3"/><text x="{at:.1f}" y="{top + 13:.1f}" '
            f'text-anchor="{"end" if at > _WIDTH - 20 else "middle"}" '
            f'fill="{colour("muted")}">{_clock(tick)}</text>'
        )
    return parts


def _clock(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 120 else f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def _pictures(t: Timeline, x, start: float, end: float, top: float) -> list[str]:
    parts, free = [], float(_LEFT)
    for seconds, frame in t.pictures:
        if not start <= seconds <= end:
            continue
        width = _PICTURE * frame.shape[1] / frame.shape[0]
        left = float(x(seconds)) - width / 2
        if left < free or left + width > _WIDTH:
            left = max(left, free)
            if left + width > _WIDTH or left > float(x(seconds)):
                continue  # it would stand beside its own moment
        free = left + width + 2
        at = float(x(seconds))
        parts.append(
            f'<image x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{_PICTURE}" href="{jpeg(frame)}">'
            f"<title>{seconds:.2f} s</title></image>"
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top + _PICTURE:.1f}" y2="{top + _PICTURE + 5:.1f}" '
            f'stroke="{colour("muted")}"/>'
        )
    return parts


def small_picture(frame: np.ndarray, height: int = 2 * _PICTURE) -> np.ndarray:
    """A frame uint8 [H, W, 3] no more than `height` pixels high."""
    from PIL import Image

    frame = np.asarray(frame)
    if frame.shape[0] <= height:
        return frame
    width = max(1, round(height * frame.shape[1] / frame.shape[0]))
    return np.asarray(Image.fromarray(frame).resize((width, height)))


def jpeg(frame: np.ndarray) -> str:
    """A frame uint8 [H, W, 3] as a data address."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(small_picture(frame)).save(out, "jpeg", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
