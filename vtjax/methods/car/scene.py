"""A flat drawing of lines, dots, boxes and words, rendered as SVG that follows the page's colours, or as PNG."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from vtjax.report.markup import Markup, escape
from vtjax.report.style import colour


@dataclasses.dataclass(frozen=True)
class Line:
    """Polyline through points [N, 2]. colour: a name of style.COLOURS, here and below."""

    points: np.ndarray
    colour: str
    width: float = 3.0
    opacity: float = 1.0


@dataclasses.dataclass(frozen=True)
class Dot:
    x: float
    y: float
    radius: float
    colour: str
    opacity: float = 1.0
    squash: float = 1.0  # height over width


@dataclasses.dataclass(frozen=True)
class Box:
    x: float
    y: float
    width: float
    height: float
    colour: str
    opacity: float = 1.0
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Word:
    x: float
    y: float
    text: str
    colour: str = "muted"
    size: float = 11.0
    anchor: str = "start"


@dataclasses.dataclass(frozen=True)
class Area:
    """Filled polygon of points [N, 2]."""

    points: np.ndarray
    colour: str
    opacity: float = 1.0


Shape = Line | Area | Dot | Box | Word


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _path(points: np.ndarray) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in points)


def to_svg(shapes: Sequence[Shape], width: float, height: float, label: str) -> Markup:
    """Inline SVG; label: what a screen reader says."""
    parts = []
    for s in shapes:
        paint = colour(s.colour)
        opacity = getattr(s, "opacity", 1.0)
        faint = f' opacity="{opacity:g}"' if opacity < 1 else ""
        match s:
            case Line():
                pen = f'stroke="{paint}" stroke-width="{s.width:.3g}"'
                parts.append(f'<polyline points="{_path(s.points)}" {pen}{faint}/>')
            case Area():
                parts.append(f'<polygon points="{_path(s.points)}" fill="{paint}"{faint}/>')
            case Dot():
                across, up = _number(s.radius), _number(s.radius * s.squash)
                place = f'cx="{_number(s.x)}" cy="{_number(s.y)}" rx="{across}" ry="{up}"'
                parts.append(f'<ellipse {place} fill="{paint}" stroke="none"{faint}/>')
            case Box():
                place = f'x="{_number(s.x)}" y="{_number(s.y)}" width="{_number(s.width)}" height="{_number(s.height)}"'
                title = f"<title>{escape(s.title)}</title>" if s.title else ""
                parts.append(f'<rect {place} rx="2" fill="{paint}" stroke="none"{faint}>{title}</rect>')
            case Word():
                place = f'x="{_number(s.x)}" y="{_number(s.y)}" font-size="{s.size:g}" text-anchor="{s.anchor}"'
                parts.append(f'<text {place} fill="{paint}" stroke="none">{escape(s.text)}</text>')
    return wrap_svg("".join(parts), width, height, label)


def wrap_svg(content: str, width: float, height: float, label: str) -> Markup:
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{escape(label)}" fill="none" stroke-linecap="round" '
        f'stroke-linejoin="round" font-family="system-ui,sans-serif">{content}</svg>'
    )
