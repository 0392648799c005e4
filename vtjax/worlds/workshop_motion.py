"""How the programs move things: poses of objects, hands and tools as functions of a phase from 0 to 1.

Every movement is symmetric in time: the hand's way in at phase u is distributed as its way out at 1 - u, and every
easing e has e(1 - u) = 1 - e(u). Running a program backwards is therefore the phase turned round and nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from vtjax.worlds import workshop_verbs as vocabulary
from vtjax.worlds.workshop_plan import Place, Shot, Thing

# Half height and half width of each kind in units of its scale.
HEIGHT = {
    "block": 0.9, "ball": 1.0, "cone": 1.0, "star": 0.95, "box": 0.8, "pot": 0.75, "bowl": 0.6, "cup": 0.95,
    "jug": 1.15, "bottle": 1.3,
}  # fmt: skip
WIDTH = {
    "block": 0.9, "ball": 1.0, "cone": 1.0, "star": 1.0, "box": 1.3, "pot": 1.25, "bowl": 1.15, "cup": 0.8,
    "jug": 0.95, "bottle": 0.65,
}  # fmt: skip
LID_ANGLE = 1.9  # radians that a lid turns about its left hinge
IN_FRONT = 2.0  # drawing order of what is held up, above every y on the bench


@dataclasses.dataclass
class Pose:
    """An object in n frames: x, y of its middle, turn in radians (clockwise), lid 0 to 1, level 0 to 1; all f32 [n].

    `order` is its place in the painter's queue; `holder` the object inside which it is drawn, None for none.
    """

    x: np.ndarray
    y: np.ndarray
    turn: np.ndarray
    lid: np.ndarray
    level: np.ndarray
    shown: bool
    order: float
    holder: int | None


@dataclasses.dataclass
class Tool:
    """A tool in n frames: x, y of the hand on it and turn, f32 [n]; drawn at `order`, inside object `holder` if any."""

    kind: str
    x: np.ndarray
    y: np.ndarray
    turn: np.ndarray
    order: float
    holder: int | None


@dataclasses.dataclass
class Scene:
    """All that moves in one shot: poses by object, paths of the hands f32 [n] pairs, a tool, and water between vessels.

    `water` is (x0, y0, x1, y1, flowing), each f32 [n], or None.
    """

    poses: list[Pose]
    hands: list[tuple[np.ndarray, np.ndarray]]
    tool: Tool | None = None
    water: tuple[np.ndarray, ...] | None = None


def ease(u: np.ndarray, begin: float, end: float) -> np.ndarray:
    """Smooth step from 0 at `begin` to 1 at `end`."""
    w = np.clip((u - begin) / (end - begin), 0.0, 1.0)
    return w * w * (3.0 - 2.0 * w)


def phase(shot: Shot) -> np.ndarray:
    """f32 [end - begin] forward phase of the shot's frames, with the shot's own unevenness."""
    u = np.linspace(0.0, 1.0, shot.end - shot.begin)
    u = u + (shot.style[0] - 0.5) * 0.6 * np.sin(2 * np.pi * u) / (2 * np.pi)
    return (1.0 - u if shot.backwards else u).astype(np.float32)


def middle(thing: Thing, place: Place) -> Place:
    """Middle of an object whose base stands at `place`."""
    return place[0], place[1] - HEIGHT[thing.kind] * thing.scale


def _resting(things: tuple[Thing, ...], shot: Shot) -> list[Pose]:
    """Everything where the shot's first state has it."""
    n = shot.end - shot.begin
    poses: list[Pose | None] = [None] * len(things)

    def rest(number: int) -> Pose:
        if poses[number] is None:
            thing, state = things[number], shot.world[number]
            x, y, order, holder = 0.5, -1.0, 0.0, None
            if state.where == "bench":
                (x, y), order = middle(thing, state.place), state.place[1]
            elif isinstance(state.where, tuple):
                how, parent = state.where
                under = rest(parent)
                x, y = held_at(thing, things[parent], how, float(under.x[0]), float(under.y[0]))
                order, holder = under.order + 1e-3, parent if how == "in" else None
            xs, ys, turns, lids, levels = (np.full(n, v, np.float32) for v in (x, y, 0.0, state.lid, state.level))
            poses[number] = Pose(xs, ys, turns, lids, levels, state.where != "away", order, holder)
        return poses[number]

    return [rest(number) for number in range(len(things))]


def held_at(thing: Thing, parent: Thing, how: str, x: float, y: float) -> Place:
    """Middle of `thing` when it is "in" or "on" a parent whose middle is (x, y)."""
    if how == "on":
        return x, y - HEIGHT[parent.kind] * parent.scale - HEIGHT[thing.kind] * thing.scale
    floor = y + (HEIGHT[parent.kind] - 0.12) * parent.scale
    return x, floor - HEIGHT[thing.kind] * thing.scale


def _bezier(p: np.ndarray, a: Place, b: Place, c: Place) -> tuple[np.ndarray, np.ndarray]:
    q = 1.0 - p
    return tuple(q * q * a[i] + 2 * q * p * b[i] + p * p * c[i] for i in (0, 1))


def _visit(u: np.ndarray, x: np.ndarray, y: np.ndarray, style: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A hand's path: from below the frame to (x, y), along it, and out below again."""
    away = 1.0 - ease(u, 0.0, 0.25) + ease(u, 0.75, 1.0)
    side = np.where(u < 0.5, style[1], style[2]) - 0.5
    return x + away * 0.3 * side, y + away * (1.25 - y)


def scene(things: tuple[Thing, ...], shot: Shot) -> Scene:
    """Poses of everything in the shot's frames."""
    poses = _resting(things, shot)
    if shot.program == "rest":
        return Scene(poses, [])
    u = phase(shot)
    if shot.program == "hover":
        x = 0.2 + 0.6 * shot.style[3] + 0.15 * (shot.style[4] - 0.5) * np.sin(2 * np.pi * u)
        y = np.full_like(u, 0.55 + 0.2 * shot.style[5])
        return Scene(poses, [_visit(u, x.astype(np.float32), y, shot.style)])
    actor = things[shot.objects[0]]
    pose = poses[shot.objects[0]]
    pose.shown = True
    out = _MOVES[shot.program](things, shot, u, ease(u, 0.25, 0.75), actor, pose, poses)
    for name in ("x", "y", "turn", "lid", "level"):
        for moved in poses:
            setattr(moved, name, np.asarray(getattr(moved, name), np.float32))
    return out


def _grip(pose: Pose, actor: Thing) -> tuple[np.ndarray, np.ndarray]:
    return pose.x, pose.y + 0.55 * HEIGHT[actor.kind] * actor.scale


def _push(things, shot, u, p, actor, pose, poses) -> Scene:
    (x0, y0), (x1, y1) = middle(actor, shot.first), middle(actor, shot.last)
    pose.x, pose.y = x0 + p * (x1 - x0), y0 + p * (y1 - y0)
    pose.order = max(shot.first[1], shot.last[1])
    return Scene(poses, [_visit(u, *_grip(pose, actor), shot.style)])


def _open(things, shot, u, p, actor, pose, poses) -> Scene:
    pose.lid = p
    s, (x, y) = actor.scale, (pose.x, pose.y)
    turn, reach = -LID_ANGLE * p, 2 * WIDTH[actor.kind] * s * 0.92
    tip_x = x - WIDTH[actor.kind] * s + reach * np.cos(turn)
    tip_y = y - HEIGHT[actor.kind] * s + reach * np.sin(turn)
    return Scene(poses, [_visit(u, tip_x, tip_y + 0.01, shot.style)])


def _lift(things, shot, u, p, actor, pose, poses) -> Scene:
    x, y = middle(actor, shot.first)
    side = 0.3 * (shot.style[3] - 0.5)
    pose.x, pose.y = _bezier(ease(u, 0.25, 0.95), (x, y), (x + side, y - 0.95), (x + 2 * side, 1.35))
    pose.order, pose.holder = IN_FRONT, None
    far = ease(u, 0.0, 0.25)  # at the other end the hand leaves together with the object
    grip_x, grip_y = _grip(pose, actor)
    return Scene(poses, [(grip_x + (1 - far) * 0.3 * (shot.style[1] - 0.5), grip_y + (1 - far) * (1.25 - grip_y))])


def _carry(things, shot, u, p, actor, pose, poses, how) -> Scene:
    holder = shot.objects[1]
    parent, under = things[holder], poses[holder]
    start = middle(actor, shot.first)
    end = held_at(actor, parent, how, float(under.x[0]), float(under.y[0]))
    rim = under.y[0] - (HEIGHT[parent.kind] + 0.3) * parent.scale - HEIGHT[actor.kind] * actor.scale
    above = (end[0], float(min(rim, end[1])))
    over, down = ease(p, 0.0, 0.65), ease(p, 0.65, 1.0)
    peak = (0.5 * (start[0] + above[0]), min(start[1], above[1]) - 0.3)
    x, y = _bezier(over, start, peak, above)
    pose.x, pose.y = x, y + down * (end[1] - above[1])
    pose.order = under.order + 1e-3
    pose.holder = holder if how == "in" else None
    grip_x, grip_y = _grip(pose, actor)
    if how == "in":  # the fingers let go at the rim
        top = under.y[0] - (HEIGHT[parent.kind] + 0.25) * parent.scale
        grip_y = np.where(over >= 1.0, np.minimum(grip_y, top), grip_y)
    return Scene(poses, [_visit(u, grip_x, grip_y, shot.style)])


_insert = functools.partial(_carry, how="in")
_stack = functools.partial(_carry, how="on")


def _pour(things, shot, u, p, actor, pose, poses) -> Scene:
    source, target = shot.objects
    left, right = sorted(shot.objects, key=lambda i: float(poses[i].x[0]))
    near = ease(u, 0.2, 0.38) * (1.0 - ease(u, 0.62, 0.8))
    tip = ease(u, 0.34, 0.44) * (1.0 - ease(u, 0.56, 0.66))
    mid_x = 0.5 * float(poses[left].x[0] + poses[right].x[0])
    mid_x, mid_y = float(np.clip(mid_x, 0.25, 0.75)), 0.36 + 0.08 * shot.style[3]
    hands, mouths = [], []
    for number, side in ((left, -1.0), (right, 1.0)):
        thing, moved = things[number], poses[number]
        moved.x = moved.x + near * (mid_x + side * 0.145 - moved.x)
        moved.y = moved.y + near * (mid_y - moved.y)
        moved.turn, moved.order = -side * 1.05 * tip, IN_FRONT
        rim = HEIGHT[thing.kind] * thing.scale
        mouths += [moved.x + rim * np.sin(moved.turn), moved.y - rim * np.cos(moved.turn)]
        hands.append(_visit(u, moved.x + side * 0.03, moved.y + 0.03, shot.style))
    flow = ease(u, 0.4, 0.6)
    poses[source].level, poses[target].level = 1.0 - flow, flow
    flowing = (u > 0.4) & (u < 0.6)
    return Scene(poses, hands, water=(*mouths, flowing))


def _swing(u: np.ndarray, shot: Shot) -> np.ndarray:
    """Two to four turns to and fro inside phase 0.25 to 0.75, starting either way."""
    turns, way = 2 + int(3 * shot.style[3]), 1.0 if shot.style[4] < 0.5 else -1.0
    inside = ease(u, 0.2, 0.3) * (1.0 - ease(u, 0.7, 0.8))
    return way * inside * np.sin(4 * np.pi * turns * (u - 0.5))


def _side(pose: Pose) -> float:
    """On which side of an object the hand of a long tool is: the one with more room in the frame."""
    return 1.0 if pose.x[0] < 0.5 else -1.0


def _stir(things, shot, u, p, actor, pose, poses) -> Scene:
    top = pose.y - HEIGHT[actor.kind] * actor.scale
    x = pose.x + 0.6 * WIDTH[actor.kind] * actor.scale * _swing(u, shot)
    side = _side(pose)
    hand = _visit(u, x + 0.13 * side, top - 0.11, shot.style)
    tool = Tool("spoon", *hand, np.full_like(u, 0.85 * side), pose.order + 1e-3, shot.objects[0])
    return Scene(poses, [hand], tool)


def _shake(things, shot, u, p, actor, pose, poses) -> Scene:
    up = ease(u, 0.25, 0.35) * (1.0 - ease(u, 0.65, 0.75))
    swing = _swing(u, shot) * up
    pose.x, pose.y = pose.x + 0.09 * swing, pose.y - 0.14 * up
    pose.turn, pose.order = 0.45 * swing, IN_FRONT
    return Scene(poses, [_visit(u, *_grip(pose, actor), shot.style)])


def _wipe(things, shot, u, p, actor, pose, poses) -> Scene:
    x = pose.x + 0.8 * WIDTH[actor.kind] * actor.scale * _swing(u, shot)
    hand = _visit(u, x, pose.y + 0.01, shot.style)
    return Scene(poses, [hand], Tool("sponge", *hand, np.zeros_like(u), IN_FRONT, None))


def _hammer(things, shot, u, p, actor, pose, poses) -> Scene:
    top = pose.y - HEIGHT[actor.kind] * actor.scale
    side = _side(pose)
    hand = _visit(u, pose.x + 0.17 * side, top, shot.style)
    beats = 2 + int(3 * shot.style[3])
    swing = 0.5 + 0.5 * np.cos(4 * np.pi * beats * (u - 0.5))
    turn = 0.05 + 0.95 * swing
    tool = Tool("hammer", *hand, turn if side > 0 else np.pi - turn, IN_FRONT, None)
    return Scene(poses, [hand], tool)


_MOVES: dict[str, Callable[..., Scene]] = {
    "push": _push, "open": _open, "lift": _lift, "insert": _insert, "pour": _pour, "stir": _stir, "shake": _shake,
    "stack": _stack, "wipe": _wipe, "hammer": _hammer,
}  # fmt: skip
assert set(_MOVES) == set(vocabulary.PROGRAMS)
