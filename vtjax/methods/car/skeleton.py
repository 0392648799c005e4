"""Pictures of a motion: a filmstrip of poses along time, its events below, its path from above; and a moving figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vtjax.data.motion.clip import FEATURES, FPS
from vtjax.data.motion.features import features_to_joints
from vtjax.data.motion.skeleton import CHAINS, JOINTS, LEFT, LEFT_HIP, LEFT_SHOULDER, RIGHT, RIGHT_HIP, RIGHT_SHOULDER
from vtjax.errors import VtjaxError
from vtjax.methods.car.scene import Area, Box, Dot, Line, Shape, Word, to_svg, wrap_svg
from vtjax.report.markup import Markup
from vtjax.report.style import EVENTS, colour

WIDTH = 960
_YAW, _PITCH = np.deg2rad(-38), np.deg2rad(9)  # seen from the front, a little to one side and above
_HEAD, _NECK, _HEAD_RADIUS = 15, 12, 0.1  # metres
_TORSO = (LEFT_SHOULDER, 12, RIGHT_SHOULDER, RIGHT_HIP, 0, LEFT_HIP)
_MARGIN = 14


def as_joints(motion: np.ndarray) -> np.ndarray:
    """Joint positions float [T, 22, 3] (metres, Y up) from joints, or from features [T, 263] that are not normalised.

    Raises VtjaxError for another shape, no frame, or values that are not finite.
    """
    motion = np.asarray(motion)
    if motion.ndim == 2 and motion.shape[1] == FEATURES and len(motion):
        return features_to_joints(motion)
    if motion.ndim != 3 or motion.shape[1:] != (JOINTS, 3) or not len(motion):
        raise VtjaxError(f"a picture needs joints [T, 22, 3] or features [T, 263], got {list(motion.shape)}")
    if not np.isfinite(motion).all():
        raise VtjaxError("a picture needs finite joint positions, but some are NaN or infinite")
    return motion


def _axes(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Horizontal unit vectors (forward, left) of the body in the first frame; +Z and +X where it has no direction."""
    first = joints[0]
    across = first[LEFT_HIP] - first[RIGHT_HIP] + first[LEFT_SHOULDER] - first[RIGHT_SHOULDER]
    length = np.hypot(across[0], across[2])
    left = np.array([across[0], 0.0, across[2]]) / length if length > 1e-6 else np.array([1.0, 0.0, 0.0])
    return np.array([-left[2], 0.0, left[0]]), left


def project(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(screen [T, 22, 2], depth [T, 22]) in metres: x to the right, y up from the floor, depth towards the viewer.

    Each pose is centred on its pelvis; the camera stands still, so turns are seen, and forward in the first frame is
    to the right.
    """
    forward, left = _axes(joints)
    toward = forward * np.cos(_YAW) + left * np.sin(_YAW)
    right = left * np.cos(_YAW) - forward * np.sin(_YAW)
    local = joints - joints[:, :1] * np.array([1.0, 0.0, 1.0])
    local[..., 1] -= joints[..., 1].min()
    depth = local @ toward
    height = local[..., 1] * np.cos(_PITCH) - depth * np.sin(_PITCH)
    return np.stack([local @ right, height], axis=-1), depth


def _side(chain: Sequence[int]) -> str:
    return "left" if chain[-1] in LEFT else "right" if chain[-1] in RIGHT else "body"


def _head(screen: np.ndarray) -> np.ndarray:
    """Centre of the head [..., 2]: half a radius beyond the head joint, away from the neck."""
    up = screen[..., _HEAD, :] - screen[..., _NECK, :]
    length = np.maximum(np.linalg.norm(up, axis=-1, keepdims=True), 1e-6)
    return screen[..., _HEAD, :] + up / length * _HEAD_RADIUS * 0.5


def _pose(screen: np.ndarray, depth: np.ndarray, x: float, ground: float, scale: float) -> list[Shape]:
    """One figure at `x`; what is nearer is drawn later and stronger."""

    def place(points):
        return np.stack([x + scale * points[..., 0], ground - scale * points[..., 1]], axis=-1)

    limbs = sorted(CHAINS, key=lambda chain: depth[list(chain)].mean())
    nearest = {side: max((limbs.index(c) for c in limbs if _side(c) == side), default=0) for side in ("left", "right")}
    far = min(nearest, key=nearest.__getitem__)
    shapes: list[Shape] = [Dot(x, ground, 0.3 * scale, "muted", 0.16, squash=0.22)]
    shapes.append(Area(place(screen[list(_TORSO)]), "body", 0.22))
    for chain in limbs:
        side = _side(chain)
        width = 0.05 if side == "body" else 0.043
        shapes.append(Line(place(screen[list(chain)]), side, width * scale, 0.75 if side == far else 1.0))
    centre = place(_head(screen))
    shapes.append(Dot(float(centre[0]), float(centre[1]), _HEAD_RADIUS * scale, "body"))
    return shapes


def _fit(text: str, width: float, size: float) -> str:
    room = int(width / (0.56 * size))
    return text if len(text) <= room else (text[: max(0, room - 1)].rstrip() + "…" if room >= 4 else "")


def _events(bounds, labels, frames: int, x_of, y: float) -> list[Shape]:
    shapes: list[Shape] = []
    for index, (start, end) in enumerate(bounds):
        if not 0 <= start < end <= frames:
            raise VtjaxError(f"event {index} spans frames {start} to {end}, but the motion has {frames}")
        left, right = x_of(start), x_of(end)
        label = labels[index] if index < len(labels) else f"event {index + 1}"
        name = f"event{index % EVENTS}"
        shapes.append(Box(left + 1, y, max(2.0, right - left - 2), 5, name, title=label))
        text = _fit(label, right - left - 6, 11.5)
        if text:
            shapes.append(Word((left + right) / 2, y + 19, text, "ink", 11.5, "middle"))
    return shapes


def _path(joints: np.ndarray, bounds, x: float, y: float, size: float) -> list[Shape]:
    """The pelvis seen from above, coloured by event; a dot at its start, forward to the right. Empty when still."""
    forward, left = _axes(joints)
    track = np.stack([joints[:, 0] @ forward, -(joints[:, 0] @ left)], axis=-1)
    extent = np.ptp(track, axis=0).max()
    if extent < 0.5:
        return []
    centre = (track.max(axis=0) + track.min(axis=0)) / 2
    points = (track - centre) * (size - 22) / extent + [x + size / 2, y + size / 2 - 4]
    spans = [(0, len(track), "body")]
    spans += [(start, end, f"event{index % EVENTS}") for index, (start, end) in enumerate(bounds)]
    shapes: list[Shape] = [
        Line(points[start : end + 1], name, 2.4, 0.4 if name == "body" else 1.0) for start, end, name in spans
    ]
    start_x, start_y = map(float, points[0])
    shapes.append(Dot(start_x, start_y, 3.6, "ink"))
    return [*shapes, Word(x + size / 2, y + size + 6, f"from above, {extent:.1f} m", "muted", 10, "middle")]


def film_shapes(
    motion: np.ndarray,
    poses: int = 11,
    bounds: Sequence[tuple[int, int]] = (),
    labels: Sequence[str] = (),
    fps: float = FPS,
) -> tuple[list[Shape], float]:
    """Shapes of a filmstrip WIDTH wide, and its height."""
    joints = as_joints(motion).astype(np.float64)
    screen, depth = project(joints)
    frames = len(joints)
    tall = max(1.5, float(screen[..., 1].max()) + _HEAD_RADIUS + 0.05)
    plan = _path(joints, bounds, 0, 0, 84)
    room = WIDTH - 2 * _MARGIN - (100 if plan else 0)
    poses = max(1, min(poses, frames))
    reach = max(0.45, float(np.abs(screen[..., 0]).max()))
    scale = min(68.0, 125 / tall, 1.35 * room / poses / (2 * reach))
    ground = 8 + scale * tall
    edge = min(reach * scale, room / 4)

    def x_of(frame: float) -> float:
        return _MARGIN + edge + (room - 2 * edge) * frame / max(1, frames - 1)

    def span_of(frame: int) -> float:  # bounds are half open: event k ends where k+1 starts
        return float(np.clip(x_of(frame - 0.5), x_of(0) - edge / 2, x_of(frames - 1) + edge / 2))

    shapes: list[Shape] = [Line(np.array([[_MARGIN, ground], [_MARGIN + room, ground]]), "line", 1.2)]
    for frame in np.unique(np.linspace(0, frames - 1, poses).round().astype(int)):
        shapes += _pose(screen[frame], depth[frame], x_of(frame), ground, scale)
    below = ground + 16
    if bounds:
        shapes += _events(bounds, labels, frames, span_of, below)
        below += 34
    seconds = (frames - 1) / fps
    for second in _ticks(seconds):
        shapes.append(Word(x_of(second * fps), below + 6, f"{second:g} s", "muted", 10.5, "middle"))
    if plan:
        shapes += _path(joints, bounds, WIDTH - _MARGIN - 88, (ground - 84) / 2, 88)
    return shapes, below + 12


def _ticks(seconds: float) -> list[float]:
    step = next((s for s in (0.25, 0.5, 1, 2, 5, 10, 20, 30, 60) if seconds / s <= 8), 120)
    return [step * i for i in range(int(seconds / step + 1e-6) + 1)]


def filmstrip_svg(
    motion: np.ndarray,
    poses: int = 11,
    bounds: Sequence[tuple[int, int]] = (),
    labels: Sequence[str] = (),
    fps: float = FPS,
) -> Markup:
    """The filmstrip as inline SVG in the page's colours; about 10 kB."""
    shapes, height = film_shapes(motion, poses, bounds, labels, fps)
    return to_svg(shapes, WIDTH, height, f"{poses} poses of a motion of {len(motion) / fps:.1f} seconds")


def animation_svg(motion: np.ndarray, fps: float = FPS, keyframes: int = 24) -> Markup:
    """The moving figure as inline SVG without script, in real time, repeated; `keyframes` poses, interpolated."""
    joints = as_joints(motion).astype(np.float64)
    screen, _ = project(joints)
    tall = max(1.5, float(screen[..., 1].max()) + _HEAD_RADIUS + 0.05)
    width, height = 100.0, 140.0
    scale = min(118 / tall, 46 / max(0.46, float(np.abs(screen[..., 0]).max())))
    picks = np.linspace(0, len(joints) - 1, min(keyframes, len(joints))).round().astype(int)
    points = np.stack([width / 2 + scale * screen[picks, :, 0], 128 - scale * screen[picks, :, 1]], axis=-1)
    head = _head(screen[picks])
    heads = np.stack([width / 2 + scale * head[:, 0], 128 - scale * head[:, 1]], axis=-1)
    timing = f'dur="{max(0.2, len(joints) / fps):.2f}s" repeatCount="indefinite"'

    def animate(name: str, values: list[str]) -> str:
        return f'<animate attributeName="{name}" values="{";".join(values)}" {timing}/>' if len(values) > 1 else ""

    parts = [f'<line x1="6" x2="94" y1="128" y2="128" stroke="{colour("line")}"/>']
    for chain in CHAINS:
        values = [" ".join(f"{x:.0f},{y:.0f}" for x, y in pose[list(chain)]) for pose in points]
        stroke = f'stroke="{colour(_side(chain))}" stroke-width="3.2"'
        parts.append(f'<polyline points="{values[0]}" {stroke}>{animate("points", values)}</polyline>')
    xs, ys = ([f"{value:.1f}" for value in heads[:, axis]] for axis in (0, 1))
    circle = f'<circle cx="{xs[0]}" cy="{ys[0]}" r="{_HEAD_RADIUS * scale:.1f}" fill="{colour("body")}">'
    parts.append(circle + animate("cx", xs) + animate("cy", ys) + "</circle>")
    return wrap_svg("".join(parts), width, height, "the motion, playing")
