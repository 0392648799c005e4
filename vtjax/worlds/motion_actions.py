"""The motion world's actions: each turns a stretch of standing still into a movement that begins and ends there."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from vtjax.data.motion.clip import FPS
from vtjax.worlds import motion_body as body
from vtjax.worlds.motion_body import Pose

LEFT, RIGHT = 0, 1
_DEGREE = np.pi / 180
_NOISY = (*body.SPINE, body.NECK, *body.SHOULDERS, *body.ELBOWS)


@dataclasses.dataclass(frozen=True)
class Person:
    """Who moves: the same through a clip. tempo and amplitude are factors; angles in degrees; lengths are factors."""

    tempo: float
    amplitude: float
    arm_out: float
    elbow: float
    trunk_length: float
    arm_length: float
    leg_length: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Person:
        low = (0.85, 0.88, 4.0, 8.0, 0.92, 0.92, 0.92)
        high = (1.15, 1.08, 12.0, 25.0, 1.08, 1.08, 1.08)
        return cls(*rng.uniform(low, high).tolist())

    def offsets(self) -> np.ndarray:
        """Bone vectors of this person standing: float64 [22, 3], metres."""
        scale = np.full(22, self.trunk_length)
        scale[[4, 5, 7, 8, 10, 11]] = self.leg_length
        scale[[18, 19, 20, 21]] = self.arm_length
        return body.STANDING_OFFSETS * scale[:, None]


@dataclasses.dataclass(frozen=True)
class Moment:
    """One event while it is animated: s [T] runs from 0 to 1, vary [8] are its own numbers in [-1, 1]."""

    pose: Pose
    s: np.ndarray
    vary: np.ndarray
    amplitude: float
    tempo: float

    @property
    def seconds(self) -> float:
        return len(self.s) / FPS

    def arm(self, side: int, forward=0.0, out=0.0, inward=0.0, bend=0.0, up=0.0) -> None:
        """Degrees [T]: the arm raised forward or sideways, turned inward; the elbow bent, or the forearm turned up."""
        sign = body.SIDES[side]
        self._add(body.SHOULDERS[side], -forward, -sign * inward, sign * out)
        self._add(body.ELBOWS[side], -bend, 0.0, sign * up)

    def leg(self, side: int, flex=0.0, knee=0.0, out=0.0, flat: float = 1.0) -> None:
        """Degrees [T]: the thigh raised forward or sideways and the knee bent; flat keeps the sole level (0 to 1)."""
        sign = body.SIDES[side]
        self._add(body.HIPS[side], -flex, 0.0, sign * out)
        self._add(body.KNEES[side], knee)
        self._add(body.ANKLES[side], flat * (flex - knee), 0.0, -flat * sign * out)

    def trunk(self, bend=0.0, twist=0.0, lean=0.0) -> None:
        """Degrees [T]: the spine bent forward, turned left, leaned to the right, spread over its three joints."""
        for joint in body.SPINE:
            self._add(joint, bend / 3, twist / 3, lean / 3)

    def _add(self, joint: int, x=0.0, y=0.0, z=0.0) -> None:
        for axis, angle in enumerate((x, y, z)):
            self.pose.angles[:, joint, axis] += np.multiply(angle, _DEGREE)


def smooth(x: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, and a smooth step between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def hold(s: np.ndarray, up: float, down: float) -> np.ndarray:
    """Rises to 1 until `up`, stays, and falls back to 0 from `down` to the end."""
    return smooth(s / up) * smooth((1 - s) / (1 - down))


def bell(s: np.ndarray, centre: float, width: float) -> np.ndarray:
    """1 at `centre`, smoothly 0 beyond `width` from it."""
    return smooth(1 - np.abs(s - centre) / width)


def _raise_arms(m: Moment, sides: Sequence[int]) -> None:
    height = hold(m.s, 0.38, 0.62) * (150 + 15 * m.vary[1]) * m.amplitude
    for side in sides:
        m.arm(side, **{"forward" if m.vary[0] > 0 else "out": height}, bend=-6 * hold(m.s, 0.4, 0.6))


def _wave(m: Moment, side: int) -> None:
    raised = hold(m.s, 0.25, 0.78)
    cycles = max(2, round(2.3 * m.tempo * m.seconds))
    swing = np.sin(2 * np.pi * cycles * m.s + m.vary[2])
    m.arm(side, out=raised * (82 + 12 * m.vary[0]), up=raised * (70 + 10 * m.vary[1] + 34 * m.amplitude * swing))


def _clap(m: Moment) -> None:
    raised = hold(m.s, 0.22, 0.8)
    cycles = max(2, round(2.4 * m.tempo * m.seconds))
    apart = 0.5 - 0.5 * np.cos(2 * np.pi * cycles * m.s)
    for side in (LEFT, RIGHT):
        inward = raised * (26 - (28 + 6 * m.vary[0]) * m.amplitude * apart)
        m.arm(side, forward=raised * (62 + 12 * m.vary[1]), inward=inward, bend=raised * 22)


def _punch(m: Moment, side: int) -> None:
    guard = hold(m.s, 0.22, 0.8)
    jabs = 2 if m.seconds * m.tempo > 1.15 else 1
    reach = np.sin(np.pi * jabs * np.clip((m.s - 0.2) / 0.6, 0, 1)) ** 2
    m.arm(side, forward=guard * (5 + (80 + 8 * m.vary[0]) * reach), bend=guard * (115 - 110 * reach) * m.amplitude)
    m.arm(1 - side, forward=guard * 20, bend=guard * 85)
    m.trunk(twist=-body.SIDES[side] * (22 + 6 * m.vary[1]) * reach * guard, bend=5 * guard)
    m.leg(LEFT, flex=8 * guard, knee=14 * guard)
    m.leg(RIGHT, flex=8 * guard, knee=14 * guard)


def _kick(m: Moment, side: int) -> None:
    raised, straight = hold(m.s, 0.42, 0.62), bell(m.s, 0.52, 0.2)
    m.leg(side, flex=raised * (78 + 12 * m.vary[0]) * m.amplitude, knee=hold(m.s, 0.3, 0.72) * (80 - 76 * straight),
          flat=0.3)  # fmt: skip
    m.leg(1 - side, knee=10 * raised, flex=4 * raised)
    m.trunk(bend=-(10 + 4 * m.vary[1]) * raised)
    for arm in (LEFT, RIGHT):
        m.arm(arm, out=22 * raised, bend=25 * raised)


def _gait(
    m: Moment, stride: float, cycles: float, knee: float, backward: bool = False, arms: float = 1.0
) -> np.ndarray:
    """Legs (and arms) in alternation, faded in and out; returns the phase [T]. stride, knee in degrees."""
    cycles = max(1, round(2 * cycles)) / 2  # whole steps, so that the last one ends with the feet together
    phase = 2 * np.pi * cycles * m.s + (np.pi if m.vary[0] > 0 else 0)
    moving = smooth(m.s / 0.12) * smooth((1 - m.s) / 0.12)
    for side, shift in ((LEFT, 0.0), (RIGHT, np.pi)):
        swing = np.sin(phase + shift) * (-1 if backward else 1)
        raised = np.maximum(np.cos(phase + shift), 0)  # the foot is off the ground while the leg swings
        m.leg(side, flex=moving * (stride * swing + 0.42 * knee * raised), knee=moving * (5 + knee * raised))
        m.pose.light[:, side] = 0.1 * moving * np.sqrt(raised)
        m.arm(side, forward=-moving * arms * 0.8 * stride * swing)
    return phase


def _walk(m: Moment, stride: float, period: float, backward: bool = False) -> None:
    stride *= m.amplitude * (1 + 0.08 * m.vary[1])
    _gait(m, stride, m.seconds * m.tempo / period, 38 + 6 * m.vary[2], backward)
    m.trunk(bend=(-2 if backward else 3) * hold(m.s, 0.2, 0.8))


def _run(m: Moment) -> None:
    running = hold(m.s, 0.2, 0.82)
    phase = _gait(m, (34 + 4 * m.vary[1]) * m.amplitude, m.seconds * m.tempo / 0.66, 75, arms=0.9)
    m.pose.lift[:] = 0.07 * running * np.sin(phase) ** 2
    m.pose.travel[:, 1] = (0.5 + 0.15 * m.vary[2]) * running * m.tempo
    m.trunk(bend=11 * running)
    for side in (LEFT, RIGHT):
        m.arm(side, bend=75 * running)


def _sidestep(m: Moment, side: int) -> None:
    steps = max(1, round(m.seconds * m.tempo / 0.6))
    phase = 2 * np.pi * steps * m.s
    spread = (11 + 2 * m.vary[1]) * m.amplitude * (0.5 - 0.5 * np.cos(phase))
    # While the legs part, the leading foot is in the air; while they close, the other one.
    for leg, raised in ((side, np.maximum(np.sin(phase), 0)), (1 - side, np.maximum(-np.sin(phase), 0))):
        m.leg(leg, out=spread, flex=14 * raised, knee=32 * raised)
        m.pose.light[:, leg] = 0.1 * np.sqrt(raised)
    m.trunk(lean=body.SIDES[side] * 2 * np.sin(phase / 2) ** 2)
    for arm in (LEFT, RIGHT):
        m.arm(arm, out=0.7 * spread)


def _turn(m: Moment, angle: float, spread: float) -> None:
    turned = smooth((m.s - 0.08) / 0.84)
    m.pose.yaw[:] = (angle + np.sign(angle) * spread * m.vary[1]) * _DEGREE * turned
    _gait(m, 1, m.seconds * m.tempo / 0.75, 36, arms=0.5)
    m.trunk(twist=np.sign(angle) * 14 * bell(m.s, 0.3, 0.3))


def _turn_around(m: Moment) -> None:
    _turn(m, 168 if m.vary[3] > 0 else -168, 10)


def _squat(m: Moment) -> None:
    down = hold(m.s, 0.42, 0.58) * (0.92 + 0.08 * m.vary[0]) * m.amplitude
    for side in (LEFT, RIGHT):
        m.leg(side, flex=100 * down, knee=122 * down, out=4 * down)
        m.arm(side, forward=78 * down)
    m.trunk(bend=32 * down)


def _sit(m: Moment) -> None:
    down = hold(m.s, 0.36, 0.68) * (0.97 + 0.03 * m.vary[0])
    for side in (LEFT, RIGHT):
        m.leg(side, flex=86 * down, knee=88 * down, out=5 * down)
        m.arm(side, forward=26 * down, bend=45 * down)
    m.trunk(bend=36 * (bell(m.s, 0.2, 0.2) + bell(m.s, 0.84, 0.16)))


def _kneel(m: Moment) -> None:
    down = hold(m.s, 0.42, 0.62)
    front = LEFT if m.vary[0] > 0 else RIGHT
    m.leg(front, flex=94 * down, knee=111 * down)
    m.leg(1 - front, flex=-2 * down, knee=91 * down, flat=0.3)
    m.trunk(bend=(8 + 6 * m.vary[1]) * down)
    m.arm(front, forward=30 * down, bend=30 * down)


def _bow(m: Moment) -> None:
    down = hold(m.s, 0.42, 0.6) * m.amplitude
    pelvis = (34 + 6 * m.vary[0]) * down
    m._add(0, pelvis)
    for side in (LEFT, RIGHT):
        m.leg(side, flex=pelvis, flat=0)
        m.arm(side, forward=(55 + 15 * m.vary[2]) * down)
    m.trunk(bend=(58 + 10 * m.vary[1]) * down)


def _jump(m: Moment) -> None:
    flight = np.maximum(1 - ((m.s - 0.5) / 0.2) ** 2, 0)
    crouch = 0.9 * bell(m.s, 0.2, 0.2) + 0.8 * bell(m.s, 0.8, 0.2)
    m.pose.lift[:] = (0.27 + 0.07 * m.vary[0]) * m.amplitude * flight
    for side in (LEFT, RIGHT):
        m.leg(side, flex=52 * crouch, knee=78 * crouch)
        m.leg(side, knee=18 * flight, flex=6 * flight, flat=-0.6)
        m.arm(side, forward=-35 * bell(m.s, 0.2, 0.2) + (110 + 25 * m.vary[1]) * bell(m.s, 0.5, 0.3))
    m.trunk(bend=26 * crouch)


def _hop(m: Moment, side: int) -> None:
    raised = hold(m.s, 0.18, 0.84)
    hops = max(2, round(m.seconds * m.tempo / 0.45))
    bounce = np.abs(np.sin(np.pi * hops * np.clip((m.s - 0.12) / 0.76, 0, 1)))
    m.pose.lift[:] = (0.11 + 0.03 * m.vary[0]) * raised * bounce
    m.leg(1 - side, flex=raised * (28 + 10 * m.vary[1]), knee=raised * 88, flat=0.2)
    m.leg(side, flex=16 * raised * (1 - bounce), knee=28 * raised * (1 - bounce))
    m.trunk(lean=body.SIDES[side] * -4 * raised)
    for arm in (LEFT, RIGHT):
        m.arm(arm, out=24 * raised, bend=30 * raised)


@dataclasses.dataclass(frozen=True)
class Action:
    """family: the group of actions it is easily taken for. least: the least share of the frame range it takes."""

    name: str
    family: str
    animate: Callable[[Moment], None]
    least: float = 0.0


def _actions() -> dict[str, Action]:
    sided = [("left", LEFT), ("right", RIGHT)]
    part = functools.partial
    table = [
        *(Action(f"raise_{name}_arm", "arms", part(_raise_arms, sides=(side,))) for name, side in sided),
        Action("raise_both_arms", "arms", part(_raise_arms, sides=(LEFT, RIGHT))),
        *(Action(f"wave_{name}", "arms", part(_wave, side=side), 0.2) for name, side in sided),
        Action("clap", "arms", _clap, 0.1),
        *(Action(f"punch_{name}", "strikes", part(_punch, side=side)) for name, side in sided),
        *(Action(f"kick_{name}", "strikes", part(_kick, side=side)) for name, side in sided),
        Action("walk_forward", "steps", part(_walk, stride=28, period=0.95), 0.3),
        Action("walk_backward", "steps", part(_walk, stride=22, period=1.0, backward=True), 0.3),
        Action("walk_slowly", "steps", part(_walk, stride=13, period=1.5), 0.5),
        Action("run_forward", "steps", _run, 0.2),
        *(Action(f"sidestep_{name}", "steps", part(_sidestep, side=side)) for name, side in sided),
        Action("squat", "lowering", _squat, 0.3),
        Action("sit", "lowering", _sit, 0.5),
        Action("kneel", "lowering", _kneel, 0.4),
        Action("bow", "lowering", _bow, 0.2),
        Action("jump", "jumps", _jump),
        *(Action(f"hop_{name}", "jumps", part(_hop, side=side), 0.2) for name, side in sided),
        Action("turn_left", "turns", part(_turn, angle=88, spread=14), 0.1),
        Action("turn_right", "turns", part(_turn, angle=-88, spread=14), 0.1),
        Action("turn_around", "turns", _turn_around, 0.4),
    ]
    return {action.name: action for action in table}


ACTIONS = _actions()
NAMES = tuple(ACTIONS)
FAMILIES = {
    family: tuple(name for name in NAMES if ACTIONS[name].family == family)
    for family in dict.fromkeys(action.family for action in ACTIONS.values())
}


def animate(
    names: Sequence[str], person: Person, rng: np.random.Generator, frames: tuple[int, int], noise: float
) -> list[np.ndarray]:
    """Joints float64 [T_i, 22, 3] of each action by one person, each beginning at the origin and facing +Z.

    frames: least and most frames of an event. noise: size of the slow sway of trunk and arms, radians.
    """
    low, high = frames
    counts, poses = [], []
    for name in names:
        action, vary = ACTIONS[name], rng.uniform(-1, 1, 8)
        share = action.least + (1 - action.least) * (0.5 + 0.5 * vary[7])
        count = int(np.clip(round(low + (high - low) * share / person.tempo), low, high))
        pose = Pose.still(count)
        action.animate(Moment(pose, np.linspace(0, 1, count), vary, person.amplitude, person.tempo))
        _sway(pose, rng, noise)
        counts.append(count)
        poses.append(pose)
    fields = (field.name for field in dataclasses.fields(Pose))
    whole = Pose(*(np.concatenate([getattr(pose, field) for pose in poses]) for field in fields))
    stance = Moment(whole, np.zeros(len(whole.yaw)), np.zeros(8), person.amplitude, person.tempo)
    for side in (LEFT, RIGHT):
        stance.arm(side, out=person.arm_out, bend=person.elbow)
    starts = np.cumsum([0, *counts[:-1]])
    return np.split(body.pose_to_joints(whole, person.offsets(), starts), starts[1:])


def _sway(pose: Pose, rng: np.random.Generator, noise: float) -> None:
    """Adds a slow sway of its own to every joint of trunk and arms."""
    size, phase = rng.normal(0, noise, (len(_NOISY), 3)), rng.uniform(0, 2 * np.pi, (len(_NOISY), 3))
    rate = rng.uniform(0.3, 1.2, (len(_NOISY), 3))  # cycles per second
    time = np.arange(len(pose.yaw))[:, None, None] / FPS
    pose.angles[:, _NOISY] += size * np.sin(2 * np.pi * rate * time + phase)
