"""Pictures and tracks of a plan: wall, bench and camera, then every shot's shapes from back to front."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from vtjax.worlds import workshop_canvas as shapes
from vtjax.worlds import workshop_sprites as sprites
from vtjax.worlds.workshop_canvas import Canvas
from vtjax.worlds.workshop_motion import HEIGHT, IN_FRONT, WIDTH, Scene, scene
from vtjax.worlds.workshop_plan import Shot, Thing
from vtjax.worlds.workshop_types import Tracks
from vtjax.worlds.workshop_verbs import TOOLS

HORIZON = 0.44
_SKINS = np.array([(240, 200, 170), (214, 162, 124), (160, 108, 76), (104, 68, 48)], np.float32)
_SLEEVES = np.array([(70, 78, 96), (120, 112, 100), (92, 104, 88), (86, 70, 84)], np.float32)


@dataclasses.dataclass(frozen=True)
class Look:
    """What a video looks like apart from what happens in it: 28 numbers in [0, 1) and the seed of the sensor noise."""

    draws: np.ndarray
    noise_seed: int
    pendulum: bool

    @staticmethod
    def draw(rng: np.random.Generator, pendulum: bool) -> Look:
        return Look(rng.random(28), int(rng.integers(2**31)), bool(rng.random() < 0.5) and pendulum)


@dataclasses.dataclass(frozen=True)
class Rendering:
    frames: np.ndarray
    masks: np.ndarray
    hidden: np.ndarray
    tracks: Tracks


def tools_of(shots: Sequence[Shot], tool_of: dict[str, str]) -> tuple[str, ...]:
    """Tools that appear in the shots, in the order of TOOLS; they are numbered after the hand and the objects."""
    used = {tool_of.get(shot.program, "") for shot in shots}
    return tuple(name for name in TOOLS if name in used)


def render(
    things: tuple[Thing, ...], shots: Sequence[Shot], tools: tuple[str, ...], look: Look,
    *, size: int, frames: int, fps: float, drift: float, noise: int,
) -> Rendering:  # fmt: skip
    """u8 [frames, size, size, 3] with masks and tracks; the shots must cover every frame."""
    time = (np.arange(frames) - 0.5 * (frames - 1)) / fps
    camera = _camera(time, look.draws[:9], drift)
    canvas = Canvas(_background(camera, look.draws[9:18], size), camera)
    if look.pendulum:
        _pendulum(canvas, time, look.draws[18:22])
    paths = _Paths(1 + len(things) + len(tools), frames)
    skin, sleeve = (table[int(look.draws[i] * 4)] for table, i in ((_SKINS, 22), (_SLEEVES, 23)))
    slant = 0.5 * (look.draws[24] - 0.5)
    for shot in shots:
        moving = scene(things, shot)
        tool = 1 + len(things) + tools.index(moving.tool.kind) if moving.tool else -1
        _paint(canvas, things, moving, shot, tool, slant, skin, sleeve)
        paths.record(things, moving, shot, tool)
    tracks = paths.tracks(canvas)
    return Rendering(_sensor(canvas.frames, look, noise), canvas.masks, canvas.hidden, tracks)


def _camera(time: np.ndarray, draws: np.ndarray, drift: float) -> np.ndarray:
    """f32 [T, 3] shift x, shift y and zoom: slow sines of random phase, so as likely backwards as forwards."""
    rate, start = 2 * np.pi * (0.04 + 0.08 * draws[:3]), 2 * np.pi * draws[3:6]
    wave = np.sin(time[:, None] * rate + start) * np.array([0.03, 0.02, 0.03]) * drift
    return (wave + np.array([0.0, 0.0, 1.0])).astype(np.float32)


def _background(camera: np.ndarray, draws: np.ndarray, size: int) -> np.ndarray:
    """f32 [T, 3, S, S]: a papered wall above a planked bench, both of little colour."""
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    x = grid / camera[:, 2:] + camera[:, :1] + 0.5
    y = grid / camera[:, 2:] + camera[:, 1:2] + 0.5
    tint = lambda a: (a - 0.5) * 26
    light = 120 + 70 * draws[0]
    wall = np.array([light + tint(draws[1]), light, light + tint(draws[2])], np.float32)
    wood = np.array([150, 124, 100], np.float32) * (0.75 + 0.4 * draws[3]) + tint(draws[4])
    below = np.clip((y - HORIZON) * size + 0.5, 0.0, 1.0).astype(np.float32)
    plank = 9.0 * np.sin(y * (30 + 20 * draws[5]) + 6.28 * draws[6]) + 22.0 * (y - 0.75)
    column = wall + below[..., None] * (wood - wall + plank[..., None]).astype(np.float32)
    paper = (7.0 * np.sin(x * (20 + 30 * draws[7]) + 6.28 * draws[8])).astype(np.float32)
    stripes = (1.0 - below)[:, :, None] * paper[:, None, :]
    return column.transpose(0, 2, 1)[..., None] + stripes[:, None]


def _pendulum(canvas: Canvas, time: np.ndarray, draws: np.ndarray) -> None:
    x, rate = 0.15 + 0.7 * draws[0], 2 * np.pi * (0.5 + 0.5 * draws[1])
    swing = (0.7 * np.sin(rate * time + 2 * np.pi * draws[2])).astype(np.float32)
    pivot_x, pivot_y = np.full(len(time), x, np.float32), np.full(len(time), 0.1, np.float32)
    rod = shapes.union(shapes.shifted(shapes.rectangle(0.06, 0.8), 0, 0.8), shapes.shifted(shapes.disc(0.3), 0, 1.6))
    canvas.paint(rod, (0.3, 1.9), 0, pivot_x, pivot_y, 0.11, (118, 96, 60), turn=swing)
    canvas.paint(shapes.disc(0.55), (0.55, 0.55), 0, pivot_x, pivot_y, 0.11, (196, 190, 176))


def _paint(canvas, things, moving: Scene, shot: Shot, tool: int, slant: float, skin, sleeve) -> None:
    begin = shot.begin
    for thing, pose, before, after in zip(things, moving.poses, shot.world, shot.after, strict=True):
        if pose.shown and pose.holder is None:
            base = pose.y + HEIGHT[thing.kind] * thing.scale
            if pose.order >= IN_FRONT:  # held up: the shadow stays on the bench below
                place = before.place or after.place
                base = np.maximum(base, place[1]) if place is not None else base
            elif not (before.place and after.place):
                continue
            sprites.shadow(canvas, thing, begin, pose.x, base.astype(np.float32), base < 1.1)
    queue = [(p.order, 0.0, number) for number, p in enumerate(moving.poses) if p.shown and p.holder is None]
    if moving.tool and moving.tool.holder is None:
        queue.append((moving.tool.order, 1.0, -1))
    for _, _, number in sorted(queue):
        if number < 0:
            sprites.tool(canvas, moving.tool, begin, tool)
            continue
        sprites.back(canvas, things[number], moving.poses[number], begin, number + 1)
        for inner, pose in enumerate(moving.poses):
            if pose.shown and pose.holder == number:
                sprites.front(canvas, things[inner], pose, begin, inner + 1)
        if moving.tool and moving.tool.holder == number:
            sprites.tool(canvas, moving.tool, begin, tool)
        sprites.front(canvas, things[number], moving.poses[number], begin, number + 1)
    if moving.water:
        sprites.water(canvas, moving.water, begin)
    for side, path in enumerate(moving.hands):
        lean = slant if len(moving.hands) == 1 else (0.12 if side else -0.12)
        sprites.hand(canvas, path, begin, lean, skin, sleeve)


class _Paths:
    """World positions of every entity over a video, and the tracks that come of them."""

    def __init__(self, entities: int, frames: int):
        self.at = np.full((entities, frames, 2), -9.0, np.float32)
        self.turn = np.zeros((entities, frames), np.float32)
        self.half = np.full(entities, 0.04, np.float32)

    def record(self, things, moving: Scene, shot: Shot, tool: int) -> None:
        span = slice(shot.begin, shot.end)
        for number, (thing, pose) in enumerate(zip(things, moving.poses, strict=True), start=1):
            self.half[number] = 0.6 * WIDTH[thing.kind] * thing.scale
            if pose.shown:
                self.at[number, span] = np.stack([pose.x, pose.y], 1)
                self.turn[number, span] = pose.turn
        if moving.hands:
            self.at[0, span] = np.mean([np.stack(path, 1) for path in moving.hands], axis=0)
        if moving.tool:
            self.at[tool, span] = np.stack([moving.tool.x, moving.tool.y], 1)

    def tracks(self, canvas: Canvas) -> Tracks:
        bits = np.uint32(1) << np.arange(len(self.at), dtype=np.uint32)
        top = np.concatenate([np.zeros(1, np.uint32), bits])[canvas.masks]
        boxes, present, whole = _boxes(canvas.hidden, bits)
        visible_boxes, any_seen, part = _boxes(top, bits)
        visibility = (part / np.maximum(whole, 1)).astype(np.float32)
        arm = self.half[:, None, None] * np.stack([np.cos(self.turn), np.sin(self.turn)], -1)
        world = np.stack([self.at, self.at - arm, self.at + arm], axis=2)
        shift, zoom = canvas.camera[None, :, None, :2], canvas.camera[None, :, None, 2:]
        points = ((world - 0.5 - shift) * zoom + 0.5).astype(np.float32)
        return Tracks(boxes, present, visible_boxes, visibility, any_seen & (visibility >= 0.1), points)


def _boxes(mask: np.ndarray, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes f32 [E, T, 4], presence bool [E, T] and pixel counts [E, T] of bit masks u32 [T, S, S]."""
    size = mask.shape[1]
    rows, columns = (np.bitwise_or.reduce(mask, axis=axis) & bits[:, None, None] != 0 for axis in (2, 1))
    some = rows.any(axis=-1)
    sides = [columns.argmax(-1), rows.argmax(-1), *(size - side[..., ::-1].argmax(-1) for side in (columns, rows))]
    boxes = np.stack(sides, -1).astype(np.float32) / size
    flat = mask.reshape(len(mask), -1)
    counts = np.stack([np.count_nonzero(flat & bit, axis=1) for bit in bits])
    return np.where(some[..., None], boxes, np.float32(0)), some, counts


def _sensor(frames: np.ndarray, look: Look, noise: int) -> np.ndarray:
    """u8 frames with grey noise of at most `noise` levels, independent from frame to frame."""
    if noise:
        rng = np.random.default_rng(look.noise_seed)
        t, _, size, _ = frames.shape
        frames += rng.integers(-noise, noise + 1, (t, 1, size, size), dtype=np.int8)
    frames += 0.5
    np.minimum(np.maximum(frames, 0.0, out=frames), 255.0, out=frames)
    return np.ascontiguousarray(frames.astype(np.uint8).transpose(0, 2, 3, 1))
