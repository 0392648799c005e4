"""How each kind of object, the hand and the tools look: shapes and their order from back to front."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vtjax.worlds import workshop_canvas as c
from vtjax.worlds.workshop_canvas import Canvas
from vtjax.worlds.workshop_motion import HEIGHT, LID_ANGLE, WIDTH, Pose, Tool
from vtjax.worlds.workshop_plan import Thing
from vtjax.worlds.workshop_verbs import COLOURS, HOLLOW, LIDDED, VESSELS

WATER = (70, 190, 235)
GLASS = (226, 236, 240)
STEEL = (150, 156, 166)
TOOL_SCALE = 0.1

_BODY = {
    "block": c.rectangle(0.9, 0.9),
    "ball": c.disc(1.0),
    "cone": c.polygon((0, -1), (1, 1), (-1, 1)),
    "star": c.shifted(c.star(1.1), 0, 0.05),
    "box": c.rectangle(1.3, 0.8),
    "pot": c.union(
        c.polygon((-1.02, -0.75), (1.02, -0.75), (0.85, 0.75), (-0.85, 0.75)),
        c.shifted(c.rectangle(1.25, 0.12), 0, -0.3),
    ),
    "bowl": c.bowl(1.15, 1.2),
    "cup": c.polygon((-0.8, -0.95), (0.8, -0.95), (0.62, 0.95), (-0.62, 0.95)),
    "jug": c.union(
        c.polygon((-0.55, -1.15), (0.65, -1.15), (0.7, 1.15), (-0.6, 1.15)),
        c.shifted(c.rectangle(0.25, 0.55), -0.7, -0.1),
    ),
    "bottle": c.union(c.shifted(c.rectangle(0.65, 0.8), 0, 0.5), c.rectangle(0.34, 1.3)),
}  # fmt: skip
# Window of a vessel through which the water shows: half width, top and bottom.
_WINDOW = {"cup": (0.42, -0.75, 0.72), "jug": (0.38, -0.85, 0.9), "bottle": (0.4, -0.15, 1.05)}
_LID = {"box": c.shifted(c.rectangle(1.32, 0.17), 1.32, -0.1), "pot": c.shifted(c.dome(1.08, 0.5), 1.08, 0.0)}
_MOUTH = {"box": (1.1, 0.34), "pot": (0.86, 0.3), "bowl": (1.0, 0.16)}


def shadow(canvas: Canvas, thing: Thing, begin: int, x: np.ndarray, y: np.ndarray, only: np.ndarray | None) -> None:
    """A soft dark patch on the bench under an object whose base is at (x, y)."""
    shape = c.dome(1.0, 0.3)
    wide = 1.25 * WIDTH[thing.kind] * thing.scale
    flat = lambda u, v: shape(u, -np.abs(v))
    canvas.paint(flat, (1.0, 0.3), begin, x, y, wide, (20, 18, 16), opacity=0.3, outline=1.0, only=only)


def shaded(colour: Sequence[float], factor: float, add: float = 0.0) -> tuple[float, float, float]:
    """A colour made darker or paler: each channel times `factor`, plus `add`."""
    red, green, blue = (factor * v + add for v in colour)
    return red, green, blue


def back(canvas: Canvas, thing: Thing, pose: Pose, begin: int, entity: int) -> None:
    """What lies behind the contents of a container: its dark mouth, seen where the lid is open."""
    if thing.kind not in _MOUTH:
        return
    half, tall = _MOUTH[thing.kind]
    rim_y = pose.y - (HEIGHT[thing.kind] - 0.02) * thing.scale
    only = pose.lid > 0.05 if thing.kind in LIDDED else None
    dark = shaded(COLOURS[thing.colour], 0.3)
    shape = c.dome(half, tall)
    canvas.paint(shape, (half, tall), begin, pose.x, rim_y, thing.scale, dark, entity=entity, outline=1.0, only=only)


def front(canvas: Canvas, thing: Thing, pose: Pose, begin: int, entity: int) -> None:
    """The object itself, with its lid or its water."""
    kind, s = thing.kind, thing.scale
    extent = (WIDTH[kind] * 1.12, HEIGHT[kind] * 1.12)
    colour = COLOURS[thing.colour]
    canvas.paint(_BODY[kind], extent, begin, pose.x, pose.y, s, colour, turn=pose.turn, entity=entity)
    if kind in VESSELS:
        half, top, bottom = _WINDOW[kind]
        _inner(canvas, pose, begin, s, half, top, bottom, GLASS, entity, None)
        for level in np.unique(pose.level):  # few values: water only moves while it is poured
            if level > 0.02:
                surface = bottom - float(level) * (bottom - top - 0.1)
                _inner(canvas, pose, begin, s, half, surface, bottom, WATER, entity, pose.level == level)
    if kind in LIDDED:
        hinge_x, hinge_y = pose.x - WIDTH[kind] * s * (1.0 if kind == "box" else 0.86), pose.y - HEIGHT[kind] * s
        lid = shaded(colour, 0.72, 40)
        turn = (-LID_ANGLE * pose.lid).astype(np.float32)
        canvas.paint(_LID[kind], (2.65, 0.55), begin, hinge_x, hinge_y, s, lid, turn=turn, entity=entity)


def _inner(canvas, pose, begin, s, half, top, bottom, colour, entity, only) -> None:
    shape = c.shifted(c.rectangle(half, 0.5 * (bottom - top)), 0, 0.5 * (bottom + top))
    extent = (half, max(abs(top), abs(bottom)))
    canvas.paint(
        shape, extent, begin, pose.x, pose.y, s, colour, turn=pose.turn, entity=entity, outline=1.0, only=only
    )


def tool(canvas: Canvas, held: Tool, begin: int, entity: int) -> None:
    """A tool; its origin is where the hand holds it."""
    s, place = TOOL_SCALE, (begin, held.x, held.y, TOOL_SCALE)
    if held.kind == "spoon":
        shape = c.union(c.shifted(c.rectangle(0.14, 0.95), 0, 0.6), c.shifted(c.disc(0.34), 0, 1.7))
        canvas.paint(shape, (0.4, 2.1), *place, STEEL, turn=held.turn, entity=entity)
    elif held.kind == "sponge":
        half = (0.95, 0.5)
        canvas.paint(c.rectangle(*half), half, begin, held.x, held.y - 0.35 * s, s, (96, 208, 190), entity=entity)
    else:
        handle = c.shifted(c.rectangle(0.85, 0.12), -0.85, 0)
        canvas.paint(handle, (1.8, 0.2), *place, (150, 100, 56), turn=held.turn, entity=entity)
        head = c.shifted(c.rectangle(0.27, 0.62), -1.7, 0.0)
        canvas.paint(head, (2.0, 0.7), *place, STEEL, turn=held.turn, entity=entity)


def hand(canvas: Canvas, path: tuple[np.ndarray, np.ndarray], begin: int, slant: float, skin, sleeve) -> None:
    """A hand, entity 0, on an arm that comes from below the frame; `slant` leans the arm, in frames per frame."""
    x, y = path
    s = 0.05
    thumb, finger = c.shifted(c.rectangle(0.2, 0.5), -0.55, -0.55), c.shifted(c.rectangle(0.2, 0.6), 0.45, -0.6)
    fist = c.union(c.disc(0.82), thumb, finger)
    _bar(canvas, begin, x, y, s, slant, 0.5, 0.0, 2.8, skin)
    length = 2.6 + 2.0 * max(1.0, float(np.ceil((1.15 - y.min()) / (2.0 * s))))
    _bar(canvas, begin, x, y, s, slant, 0.75, 2.6, length, sleeve)
    canvas.paint(fist, (0.95, 1.25), begin, x, y, s, skin, entity=0)


def _bar(canvas: Canvas, begin: int, x, y, s, slant, half, start, end, colour) -> None:
    """Part of the arm from `start` to `end` below the hand, its own middle as origin to keep the patch small."""
    reach, mid = 0.5 * (end - start), 0.5 * (start + end)
    shape = lambda u, v: np.maximum(np.abs(u - slant * v) - half, np.abs(v) - reach)
    extent = (half + reach * abs(slant), reach)
    canvas.paint(shape, extent, begin, x + s * slant * mid, y + s * mid, s, colour, entity=0)


def water(canvas: Canvas, stream: tuple[np.ndarray, ...], begin: int) -> None:
    """The water between two mouths, where it flows; it belongs to no entity."""
    x0, y0, x1, y1, flowing = stream
    mid_x, mid_y = 0.5 * (x0 + x1), 0.5 * (y0 + y1)
    half = 0.5 * float(np.hypot(x1 - x0, y1 - y0)[flowing].mean()) if flowing.any() else 0.0
    turn = np.arctan2(y1 - y0, x1 - x0).astype(np.float32)
    shape = c.rectangle(half + 0.012, 0.014)
    canvas.paint(shape, (half + 0.02, 0.02), begin, mid_x, mid_y, 1.0, WATER, turn=turn, outline=1.0, only=flowing)


assert set(_BODY) == set(HEIGHT) and set(_WINDOW) == set(VESSELS) and set(VESSELS) < set(HOLLOW)
