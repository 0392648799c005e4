"""Which frames online action detection is scored on, by the name of the protocol (docs/methods/ovoad.md).

name      frames scored                                            ambiguous frames             ties (AP, cAP)
lstr      all (LSTR, TeSTra, MAT, MiniROAD)                        left out                     grouped, rank
oadtr     t from 63 to L - 10: 64 frames seen, 8 more to come      left out                     rank, rank
ovoad     t from 31 to L - 10: 32 frames seen                      none in the whole window     rank, rank
ovoad-fg  those of them that show an action (EK100, ActivityNet)   none in the whole window     rank, rank

Column 0, the background, is never averaged, nor is the ambiguous class. Figures of different protocols cannot be
compared: foreground-only scoring lifted mAP from 7.9 to 19.8 for one synthetic detector and left its cAP as it was
(docs/methods/ovoad.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vtjax.errors import VtjaxError, nearest
from vtjax.evals.frame_targets import FrameTargets

BACKGROUND = 0
LENGTH_GAP = 3  # rows by which features and annotation may differ in length without a word (docs/methods/ovoad.md)


class NoFrameScored(VtjaxError):
    """A protocol scores none of the frames, as where all videos are shorter than its window."""


@dataclasses.dataclass(frozen=True)
class FrameProtocol:
    """window: frames that must have been seen, the scored one included. tail: the last scored row is L - tail, of rows
    that count from 0. ambiguous: leave out a frame that is itself ambiguous ("frame") or has one in its window
    ("window"). foreground: only frames that show an action. one_hot: rows with several classes keep their first one.
    ties: AP, cAP.
    """

    name: str
    window: int = 1
    tail: int = 0
    ambiguous: str = "frame"
    foreground: bool = False
    one_hot: bool = False
    ties: tuple[str, str] = ("rank", "rank")

    def rows(self, targets: np.ndarray, ambiguous: int | None = None) -> np.ndarray:
        """bool [L], the rows that are scored. targets: [L, C]; ambiguous: its column, None where there is none."""
        count = len(targets)
        places = np.arange(count)
        chosen = (places >= self.window - 1) & (places <= count - self.tail)
        if ambiguous is not None:
            # A row counts as its first class in the one-hot files, which is what argmax reads.
            shown = targets.argmax(axis=1) == ambiguous if self.one_hot else targets[:, ambiguous] > 0
            if self.ambiguous == "window":
                seen = np.concatenate([[0], np.cumsum(shown)])
                shown = seen[1:] - seen[np.maximum(places + 1 - self.window, 0)] > 0
            chosen &= ~shown
        if self.foreground:
            chosen &= targets[:, BACKGROUND] == 0
        return chosen

    def truth(self, targets: np.ndarray) -> np.ndarray:
        """uint8 [L, C]: the targets, with one class a row where the protocol's files have it so."""
        if not self.one_hot:
            return (targets > 0).astype(np.uint8)
        out = np.zeros(targets.shape, np.uint8)
        out[np.arange(len(targets)), targets.argmax(axis=1)] = 1
        return out


PROTOCOLS = {
    p.name: p
    for p in (
        FrameProtocol("lstr", ties=("grouped", "rank")),
        FrameProtocol("oadtr", window=64, tail=10, one_hot=True),
        FrameProtocol("ovoad", window=32, tail=10, ambiguous="window", one_hot=True),
        FrameProtocol("ovoad-fg", window=32, tail=10, ambiguous="window", foreground=True),
    )
}


def protocol(name: str, **changes: Any) -> FrameProtocol:
    """A protocol by name; `changes` replace fields, such as window=96 for OV-OAD's runs with a long memory of 64."""
    if name not in PROTOCOLS:
        raise VtjaxError(f"protocol {name!r}: {nearest(name, PROTOCOLS)}")
    return dataclasses.replace(PROTOCOLS[name], **changes)


@dataclasses.dataclass(frozen=True)
class Pool:
    """Scored frames of all videos. scores: float [N, C]. truth: uint8 [N, C]. video: int [N], place among `videos`.
    row: int [N], the frame's place in its video. classes: the C names, without background and ambiguous. notes: what a
    reader must know."""

    scores: np.ndarray
    truth: np.ndarray
    video: np.ndarray
    row: np.ndarray
    videos: tuple[str, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def pool(
    scores: Mapping[str, np.ndarray],
    targets: Mapping[str, FrameTargets],
    chosen: FrameProtocol,
    classes: Sequence[str] | None = None,
) -> Pool:
    """One pool of the frames that the protocol scores.

    scores: [L, C] by video, in columns as the targets' (with or without the ambiguous one), or as `classes` where that
    names the columns; classes of the targets that `classes` lacks are not scored, and their frames are negatives.
    targets: by video. A video that is longer in one than in the other is cut; more than LENGTH_GAP rows are noted.

    Raises NoFrameScored: no frame left. VtjaxError: a video without scores or targets, columns that do not fit.
    """
    if not targets:
        raise VtjaxError("no video has targets")
    absent = sorted(set(targets) - set(scores))
    if absent:
        raise VtjaxError(f"{len(absent)} of {len(targets)} videos have no scores: {', '.join(absent[:3])}")
    names = next(iter(targets.values())).classes
    parts, rows, video, gaps, short = [], [], [], [], []
    wanted, columns = None, None
    for place, (key, own) in enumerate(targets.items()):
        table = np.asarray(scores[key])
        if own.classes != names:
            raise VtjaxError(f"{key}: its classes differ from the first video's; one data set at a time")
        if wanted is None:
            wanted, columns = _columns(names, own.ambiguous, classes, table, key)
        if table.ndim != 2 or table.shape[1] <= max(columns):
            raise VtjaxError(f"{key}: scores {table.shape}; [frames, {max(columns) + 1} or more classes] are expected")
        length = min(len(table), len(own.targets))
        if abs(len(table) - len(own.targets)) > LENGTH_GAP:
            gaps.append(f"{key} ({len(table)} and {len(own.targets)})")
        cut = own.targets[:length]
        keep = np.flatnonzero(chosen.rows(cut, own.ambiguous))
        if not len(keep):
            short.append(key)
        parts.append((table[keep][:, columns], chosen.truth(cut)[keep][:, wanted]))
        rows.append(keep)
        video.append(np.full(len(keep), place))
    if not sum(map(len, rows)):
        raise NoFrameScored(f"protocol {chosen.name}: no frame of {len(targets)} videos is scored; are they too short?")
    notes = []
    if gaps:
        notes.append(f"scores and targets differ by more than {LENGTH_GAP} rows, cut to the shorter: {_some(gaps)}")
    if short:
        notes.append(f"videos without a frame that is scored: {_some(short)}")
    table, truth = (np.concatenate(column) for column in zip(*parts, strict=True))
    shown = tuple(names[i] for i in wanted)
    return Pool(table, truth, np.concatenate(video), np.concatenate(rows), tuple(targets), shown, tuple(notes))


def _columns(names, ambiguous, classes, table, key) -> tuple[list[int], list[int]]:
    """(columns of the targets, columns of the scores) that are compared."""
    left_out = {BACKGROUND, ambiguous}
    own = [i for i in range(len(names)) if i not in left_out]
    if classes is None:
        without = len(names) - (ambiguous is not None)
        if table.ndim != 2 or table.shape[1] not in (len(names), without):
            raise VtjaxError(f"{key}: scores {table.shape}; [frames, {len(names)} classes] are expected")
        if table.shape[1] < len(names) and ambiguous != len(names) - 1:
            raise VtjaxError(f"{key}: scores lack the ambiguous class, which is not the last: name their `classes`")
        return own, own
    classes = list(classes)
    twice = next((c for c in classes if classes.count(c) > 1), None)
    unknown = next((c for c in classes if c not in names), None)
    if twice is not None or unknown is not None:
        what = f"{twice!r} is listed twice" if twice is not None else f"{unknown!r}: {nearest(unknown, names)}"
        raise VtjaxError(f"classes of the scores: {what}")
    wanted = [i for i in own if names[i] in classes]
    if not wanted:
        raise VtjaxError("none of the classes of the scores is an action of the targets")
    return wanted, [classes.index(names[i]) for i in wanted]


def _some(items: Sequence[str], count: int = 3) -> str:
    return ", ".join(items[:count]) + (f", and {len(items) - count} more" if len(items) > count else "")
