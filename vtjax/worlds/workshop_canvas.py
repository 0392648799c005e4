"""A stack of frames that signed-distance shapes are painted on, all frames of a shape at once.

A shape is a function (u, v) -> distance, negative inside, in units of the shape's scale. It is evaluated on a patch of
pixels around it in every frame, so that the cost follows the shape's area and not the frame's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Shape = Callable[[np.ndarray, np.ndarray], np.ndarray]


def rectangle(half_u: float, half_v: float) -> Shape:
    return lambda u, v: np.maximum(np.abs(u) - half_u, np.abs(v) - half_v)


def disc(radius: float) -> Shape:
    return lambda u, v: np.sqrt(u * u + v * v) - radius


def polygon(*corners: tuple[float, float]) -> Shape:
    """Convex polygon, corners clockwise as seen on the screen (v down)."""
    points = np.asarray(corners, np.float32)
    edges = np.roll(points, -1, axis=0) - points
    normals = np.stack([edges[:, 1], -edges[:, 0]], 1)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    sides = [(float(a), float(b), float(a * x + b * y)) for (a, b), (x, y) in zip(normals, points, strict=True)]

    def distance(u, v):
        result = None
        for a, b, c in sides:
            side = a * u + (b * v - c)
            result = side if result is None else np.maximum(result, side)
        return result

    return distance


def star(radius: float, inner: float = 0.5) -> Shape:
    """Five points, one up; exact on the outline, close to it elsewhere."""
    step = np.pi / 5
    tip, notch = np.array([radius, 0.0]), inner * radius * np.array([np.cos(step), np.sin(step)])
    edge = notch - tip
    a, b = edge[1] / np.hypot(*edge), -edge[0] / np.hypot(*edge)
    c = float(a * tip[0] + b * tip[1])

    def distance(u, v):
        radial = np.sqrt(u * u + v * v)
        angle = np.abs((np.arctan2(u, -v) + step) % (2 * step) - step)
        return radial * (a * np.cos(angle) + b * np.sin(angle)) - c

    return distance


def dome(radius: float, flat: float) -> Shape:
    """Upper half of an ellipse of half width `radius` and height `flat`, its base on v = 0."""
    squash = radius / flat
    return lambda u, v: np.maximum((np.sqrt(u * u + (squash * v) ** 2) - radius) / squash, v)


def bowl(radius: float, depth: float) -> Shape:
    """Lower half of an ellipse hanging from v = -depth / 2."""
    squash = radius / depth

    def distance(u, v):
        w = v + 0.5 * depth
        return np.maximum((np.sqrt(u * u + (squash * w) ** 2) - radius) / squash, -w)

    return distance


def union(*shapes: Shape) -> Shape:
    def distance(u, v):
        result = shapes[0](u, v)
        for shape in shapes[1:]:
            result = np.minimum(result, shape(u, v))
        return result

    return distance


def shifted(shape: Shape, du: float, dv: float) -> Shape:
    return lambda u, v: shape(u - du, v - dv)


class Canvas:
    """frames f32 [T, 3, S, S], by colour plane so that pixels of a row lie together; masks u8 and hidden u32 [T, S, S];
    camera f32 [T, 3]: shift x, shift y, zoom."""

    def __init__(self, frames: np.ndarray, camera: np.ndarray):
        self.frames = frames
        self.size = frames.shape[2]
        self.camera = camera
        shape = (len(frames), self.size, self.size)
        self.masks = np.zeros(shape, np.uint8)
        self.hidden = np.zeros(shape, np.uint32)

    def paint(
        self,
        shape: Shape,
        extent: tuple[float, float],
        begin: int,
        x: np.ndarray,
        y: np.ndarray,
        scale: float,
        colour: tuple[float, float, float],
        *,
        turn: np.ndarray | None = None,
        entity: int = -1,
        opacity: float = 1.0,
        outline: float = 0.55,
        only: np.ndarray | None = None,
    ) -> None:
        """Paints one shape into frames begin .. begin + len(x).

        `extent` is the half width and half height that bound the shape, in its own units; x, y f32 [n] its origin and
        `turn` f32 [n] its turn, in the world. `outline` is the brightness at the edge; 1 for a flat shape. The shape
        belongs to `entity`; with -1 it hides what it covers but is nothing itself, unless it is translucent.
        `only` bool [n] selects frames.
        """
        size = self.size
        frame = np.arange(begin, begin + len(x))
        if only is not None:
            frame, x, y = frame[only], x[only], y[only]
            turn = None if turn is None else turn[only]
        if turn is not None and not turn.any():
            turn = None
        shift_x, shift_y, zoom = self.camera[frame].T
        half_u, half_v = (np.hypot(*extent),) * 2 if turn is not None else extent
        centre_x, centre_y = (x - 0.5 - shift_x) * zoom + 0.5, (y - 0.5 - shift_y) * zoom + 0.5
        reach_x, reach_y = half_u * scale * 1.05 + 1.0 / size, half_v * scale * 1.05 + 1.0 / size
        inside = (np.abs(centre_x - 0.5) < 0.5 + reach_x) & (np.abs(centre_y - 0.5) < 0.5 + reach_y)
        if not inside.all():
            if not inside.any():
                return
            frame, zoom = frame[inside], zoom[inside]
            centre_x, centre_y = centre_x[inside], centre_y[inside]
            turn = None if turn is None else turn[inside]
        wide, high = (min(size, int(2 * reach * size) + 2) for reach in (reach_x, reach_y))
        left = np.clip((centre_x * size - 0.5 * wide).astype(np.int64), 0, size - wide)
        top = np.clip((centre_y * size - 0.5 * high).astype(np.int64), 0, size - high)
        unit = (scale * zoom).astype(np.float32)
        inverse = 1.0 / (unit * size)
        u = (left[:, None] + np.arange(0.5, wide, dtype=np.float32) - (centre_x * size)[:, None]) * inverse[:, None]
        v = (top[:, None] + np.arange(0.5, high, dtype=np.float32) - (centre_y * size)[:, None]) * inverse[:, None]
        u, v = u[:, None, :].astype(np.float32), v[:, :, None].astype(np.float32)
        if turn is not None:
            cos, sin = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
            u, v = cos * u + sin * v, cos * v - sin * u
        depth = shape(u, v) * (-size * unit)[:, None, None]  # pixels inside the outline
        self._blend(frame, top, left, depth, np.asarray(colour, np.float32)[:, None, None], entity, opacity, outline)

    def _blend(self, frame, top, left, depth, colour, entity, opacity, outline) -> None:
        high, wide = depth.shape[1:]
        pixels = _windows(self.frames, high, wide)
        cover = depth + np.float32(0.5)
        np.minimum(np.maximum(cover, 0.0, out=cover), 1.0, out=cover)
        if opacity < 1.0:
            cover *= opacity
        old = pixels[frame, top, left]
        if outline < 1.0:
            rim = max(1.0, self.size / 56)
            shade = depth * np.float32((1.0 - outline) / rim)
            shade += np.float32(outline)
            np.minimum(np.maximum(shade, outline, out=shade), 1.0, out=shade)
            new = shade[:, None] * colour
            new -= old
        else:
            new = colour - old
        new *= cover[:, None]
        new += old
        pixels[frame, top, left] = new
        if opacity < 1.0:
            return
        inside = depth > 0
        masks = _windows(self.masks, high, wide)
        masks[frame, top, left] = np.where(inside, np.uint8(entity + 1), masks[frame, top, left])
        if entity >= 0:
            hidden = _windows(self.hidden, high, wide)
            hidden[frame, top, left] |= inside * np.uint32(1 << entity)


def _windows(array: np.ndarray, high: int, wide: int) -> np.ndarray:
    """View [T, S - high + 1, S - wide + 1, ..., high, wide] of every window of [T, ..., S, S], writeable."""
    t, size, step = array.shape[0], array.shape[-1], array.strides
    shape = (t, size - high + 1, size - wide + 1, *array.shape[1:-2], high, wide)
    return np.lib.stride_tricks.as_strided(array, shape, (step[0], *step[-2:], *step[1:]))
