"""The embedded motion world: clips of one to four events with captions, gold events and the same events re-ordered.

Every clip is a pure function of (seed, split, index) and the settings. Results on this world name its version.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import math
from collections.abc import Sequence

import numpy as np

from vtjax.data.motion.clip import MotionClip
from vtjax.data.motion.features import joints_to_features
from vtjax.data.motion.stitch import stitch
from vtjax.errors import VtjaxError, nearest
from vtjax.text.shuffle import shuffled_order
from vtjax.worlds import motion_actions, motion_captions

MOTION_WORLD_VERSION = 1
SPLITS = ("train", "val", "test")

# The natural order of all actions: a script goes through it from the beginning (arrive, greet, act, rest, leave).
SCRIPT = (
    "walk_forward", "walk_slowly", "bow", "wave_right", "wave_left", "raise_right_arm", "raise_left_arm",
    "raise_both_arms", "sidestep_left", "sidestep_right", "squat", "hop_left", "hop_right", "jump", "punch_left",
    "punch_right", "kick_right", "kick_left", "kneel", "sit", "clap", "turn_right", "turn_left", "walk_backward",
    "turn_around", "run_forward",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MotionWorldSettings:
    """What the clips of a world are like.

    min_events, max_events: range of events in a clip, within 1 to 8. event_weights: relative frequency of each number
        from min_events on; None takes 2:4:3:2 for one to four events, 2 for more.
    script: probability that a clip's events come in the natural order SCRIPT; never less than 1 of the number of
        orders (n! where all differ), which 0 gives: all orders are then equally likely. The others share the rest.
    event_similarity: probability that an event is drawn from the family of the clip's first event (left and right
        arm, forward and backward, ...), while it has unused members; otherwise it is drawn from all actions.
    repeat: probability that an event repeats an earlier one of the clip; 0 makes all events of a clip different.
    paraphrase: vary subject, words and sentence patterns; off, captions read "A person ... then ...".
    captions_per_clip: captions with their own words for each clip.
    noise: size of the slow sway of trunk and arms, radians.
    frames: least and most frames of an event (20 a second).
    blend: frames around a seam over which poses are joined.
    held_out: share of the pairs of actions, always the same ones, that never meet in a train or val clip.
    """

    min_events: int = 1
    max_events: int = 4
    event_weights: tuple[float, ...] | None = None
    script: float = 0.0
    event_similarity: float = 0.0
    repeat: float = 0.0
    paraphrase: bool = True
    captions_per_clip: int = 1
    noise: float = 0.03
    frames: tuple[int, int] = (16, 32)
    blend: int = 8
    held_out: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.min_events <= self.max_events <= 8:
            raise VtjaxError(
                f"min_events = {self.min_events}, max_events = {self.max_events}: expected 1 <= min <= max <= 8"
            )
        counts = self.max_events - self.min_events + 1
        weights = self.event_weights
        if weights is not None and (len(weights) != counts or min(weights) < 0 or not sum(weights) > 0):
            raise VtjaxError(f"event_weights {weights}: expected {counts} weights, none negative, not all zero")
        for name, most in (("script", 1), ("event_similarity", 1), ("repeat", 1), ("held_out", 0.3)):
            if not 0 <= getattr(self, name) <= most:
                raise VtjaxError(f"{name} = {getattr(self, name)}: expected a number from 0 to {most}")
        if self.captions_per_clip < 1:
            raise VtjaxError(f"captions_per_clip = {self.captions_per_clip}: expected at least 1")
        if len(self.frames) != 2 or not 8 <= self.frames[0] <= self.frames[1]:
            raise VtjaxError(f"frames = {self.frames}: expected (least, most) with 8 <= least <= most")
        if not self.noise >= 0 or self.blend < 0:
            raise VtjaxError(f"noise = {self.noise}, blend = {self.blend}: neither may be negative")

    def weights(self) -> np.ndarray:
        """Probability of each number of events from min_events on."""
        counts = range(self.min_events, self.max_events + 1)
        weights = self.event_weights or [{1: 2, 2: 4, 3: 3}.get(n, 2) for n in counts]
        return np.asarray(weights, np.float64) / np.sum(weights)


@dataclasses.dataclass(frozen=True)
class _Plan:
    actions: tuple[str, ...]
    person: motion_actions.Person


def is_held_out(first: str, second: str, share: float) -> bool:
    """Whether the pair of actions, in either order, is among the `share` of pairs that are held out."""
    pair = "+".join(sorted((first, second)))
    return int.from_bytes(hashlib.sha256(pair.encode()).digest()[:4], "big") < share * 2**32


class MotionWorld:
    """A sequence of `size` clips; `world[i]` makes clip i anew, always the same one.

    seed: worlds of different seeds share nothing. split: train, val and test are disjoint streams of one seed.
    Raises VtjaxError for an unknown split, a negative seed or size; IndexError for a clip beyond the size.
    """

    version = MOTION_WORLD_VERSION

    def __init__(
        self, seed: int, size: int, split: str = "train", settings: MotionWorldSettings | None = None
    ) -> None:
        if split not in SPLITS:
            raise VtjaxError(f"split {split!r} of the motion world: {nearest(split, SPLITS)}")
        if seed < 0 or size < 0:
            raise VtjaxError(f"seed = {seed}, size = {size} of the motion world: neither may be negative")
        self.seed, self.size, self.split = int(seed), int(size), split
        self.settings = settings or MotionWorldSettings()
        self._weights = self.settings.weights()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> MotionClip:
        index, plan_rng, motion_rng, text_rng = self._streams(index)
        plan, settings = self._plan(plan_rng), self.settings
        segments = motion_actions.animate(plan.actions, plan.person, motion_rng, settings.frames, settings.noise)
        segments = [segment.astype(np.float32) for segment in segments]
        joints, bounds = stitch(segments, blend=settings.blend)
        features = joints_to_features(joints)
        order = shuffled_order(len(plan.actions), plan_rng, distinct_of=plan.actions)
        swapped = None
        if order is not None:
            swapped = joints_to_features(stitch([segments[i] for i in order], blend=settings.blend)[0])
        captions = tuple(
            motion_captions.make_caption(plan.actions, text_rng, paraphrase=settings.paraphrase)
            for _ in range(settings.captions_per_clip)
        )
        # Features are one row shorter than joints: the last event ends a row earlier.
        bounds = tuple((start, min(end, len(features))) for start, end in bounds)
        return MotionClip(self.key(index), features, captions, bounds, swapped, order or ())

    def key(self, index: int) -> str:
        """Unique name of clip `index` among all splits and seeds."""
        return f"motion{self.version}-s{self.seed}-{self.split}-{index:06d}"

    def actions(self, index: int) -> tuple[str, ...]:
        """Actions of clip `index` in the order in which they happen, without making the clip."""
        _, plan_rng, _, _ = self._streams(index)
        return self._plan(plan_rng).actions

    def _streams(self, index: int) -> tuple[int, np.random.Generator, np.random.Generator, np.random.Generator]:
        if not -self.size <= index < self.size:
            raise IndexError(f"clip {index} of a motion world of {self.size}")
        index = int(index) % self.size
        # Separate streams for plan, motion and words: new words do not move the limbs.
        root = [MOTION_WORLD_VERSION, self.seed, SPLITS.index(self.split), index]
        plan, motion, text = (np.random.Generator(np.random.PCG64([*root, stream])) for stream in range(3))
        return index, plan, motion, text

    def _plan(self, rng: np.random.Generator) -> _Plan:
        count = self.settings.min_events + int(np.searchsorted(np.cumsum(self._weights)[:-1], rng.random(), "right"))
        chosen = self._choose(count, rng)
        while self.split != "test" and any(
            is_held_out(*pair, self.settings.held_out) for pair in itertools.combinations(chosen, 2)
        ):
            chosen = self._choose(count, rng)
        return _Plan(self._ordered(chosen, rng), motion_actions.Person.draw(rng))

    def _choose(self, count: int, rng: np.random.Generator) -> list[str]:
        """Actions of a clip, in no meaningful order."""
        chosen: list[str] = []
        for _ in range(count):
            similar, repeats, pick = rng.random(3)
            if chosen and repeats < self.settings.repeat:
                chosen.append(chosen[int(pick * len(chosen))])
                continue
            pool: Sequence[str] = [name for name in motion_actions.NAMES if name not in chosen]
            if chosen and similar < self.settings.event_similarity:
                family = motion_actions.FAMILIES[motion_actions.ACTIONS[chosen[0]].family]
                pool = [name for name in family if name not in chosen] or pool
            chosen.append(pool[int(pick * len(pool))])
        return chosen

    def _ordered(self, chosen: list[str], rng: np.random.Generator) -> tuple[str, ...]:
        natural = tuple(sorted(chosen, key=SCRIPT.index))
        orders = math.factorial(len(chosen)) / math.prod(map(math.factorial, collections.Counter(chosen).values()))
        if rng.random() < max(self.settings.script, 1 / orders):
            return natural
        order = shuffled_order(len(chosen), rng, distinct_of=natural)
        return natural if order is None else tuple(natural[i] for i in order)
