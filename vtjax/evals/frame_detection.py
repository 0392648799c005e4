"""Online action detection scored per frame: mAP and calibrated mAP by named protocol (docs/methods/ovoad.md).

Protocols are named detection/<protocol>/<classes>. Chance: random scores give AP near the share of frames that show the
class (exactly: average_precision.random_average_precision) and cAP 50 %. Intervals: bootstrap over videos.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from vtjax.arrays import Array
from vtjax.errors import VtjaxError
from vtjax.evals.average_precision import ClassTable, average_precision, class_table
from vtjax.evals.frame_protocols import BACKGROUND, FrameProtocol, Pool, pool, protocol
from vtjax.evals.frame_targets import FrameTargets
from vtjax.evals.protocol import Result

STAGES = 10
_ONE_VIDEO = "one video: the interval cannot be resampled over videos and is the figure itself"


class NoClassShown(VtjaxError):
    """None of the frames that a protocol scores shows one of the classes, so there is no precision."""


@dataclasses.dataclass(frozen=True)
class Detection:
    """A pool of scored frames and its per-class table."""

    protocol: FrameProtocol
    pool: Pool
    table: ClassTable

    def result(self, classes: Sequence[str] | None = None, group: str = "all classes", prefix: str = "") -> Result:
        """mAP and mcAP in percent over `classes` (default all) that have positives.

        The name is detection/<protocol>/<prefix><group>. Raises NoClassShown where none has a positive.
        """
        names = self.table.names if classes is None else tuple(classes)
        table = self.table.take([self.table.names.index(name) for name in names])
        present = table.positives > 0
        if not present.any():
            some = ", ".join(names[:5])
            raise NoClassShown(f"{self.protocol.name}: none of the classes {some} is shown in any frame")
        notes = list(self.pool.notes)
        notes.append(f"{present.sum()} classes, {len(np.unique(self.pool.video))} videos")
        if not present.all():
            absent = [n for n, p in zip(table.names, present, strict=True) if not p]
            notes.append(f"{len(absent)} classes without a positive are not averaged: {', '.join(absent[:3])}")
        if len(np.unique(self.pool.video)) == 1:
            notes.append(_ONE_VIDEO)
        return Result(
            protocol=f"detection/{self.protocol.name}/{prefix}{group}",
            metrics={"mAP": _percent(table.ap[present].mean()), "mcAP": _percent(table.cap[present].mean())},
            items=table.frames,
            chance={"mAP": _percent(np.nanmean(table.chance)), "mcAP": 50.0},
            interval={
                "mAP": interval(class_mean(table.ap_draws), table.ap[present].mean()),
                "mcAP": interval(class_mean(table.cap_draws), table.cap[present].mean()),
            },
            notes=tuple(notes),
        )

    def per_class(self) -> list[dict[str, float | int | str]]:
        """One record a class: name, positives, AP and cAP and chance in percent (nan without positives)."""
        t = self.table
        return [
            {"class": n, "positives": int(p), "AP": _percent(a), "cAP": _percent(c), "chance": _percent(e)}
            for n, p, a, c, e in zip(t.names, t.positives, t.ap, t.cap, t.chance, strict=True)
        ]


def class_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the classes that a replicate has, [R, C] -> [R]; nan where it has none."""
    there = ~np.isnan(values)
    count = there.sum(axis=1)
    return np.where(count > 0, np.where(there, values, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)


def _percent(value: float) -> float:
    return 100 * float(value)


def interval(replicates: Float[Array, "*draws"], value: float) -> tuple[float, float]:
    """95 % of the replicates, in percent; replicates that are nan are left out, without any it is the value itself."""
    kept = replicates[~np.isnan(replicates)]
    low, high = np.quantile(kept, [0.025, 0.975]) if len(kept) else (value, value)
    return _percent(low), _percent(high)


def detect(
    scores: Mapping[str, np.ndarray],
    targets: Mapping[str, FrameTargets],
    name: str | FrameProtocol,
    classes: Sequence[str] | None = None,
    *,
    resamples: int = 400,
    seed: int = 0,
) -> Detection:
    """Scores [L, C] by video against targets by one protocol; arguments as `frame_protocols.pool`."""
    chosen = protocol(name) if isinstance(name, str) else name
    frames = pool(scores, targets, chosen, classes)
    table = class_table(
        frames.scores, frames.truth, frames.video, frames.classes, ties=chosen.ties, resamples=resamples, seed=seed
    )
    return Detection(chosen, frames, table)


def class_groups(found: Detection, held_out: Sequence[str]) -> list[tuple[list[str] | None, str]]:
    """Lists the groups of classes that are reported, (names, words): all, which has no names, and, where some are held
    out of training, those that it saw and those that it did not, each where a frame shows one."""
    shown = {n for n, p in zip(found.table.names, found.table.positives, strict=True) if p}
    unseen = [n for n in found.table.names if n in set(held_out)]
    seen = [n for n in found.table.names if n not in set(held_out)]
    apart = ((seen, "seen classes"), (unseen, "held-out classes"))
    return [(None, "all classes"), *(group for group in apart if unseen and shown & set(group[0]))]


def grouped_results(found: Detection, held_out: Sequence[str], prefix: str = "") -> list[Result]:
    """One result for each of `class_groups`."""
    return [found.result(names, words, prefix) for names, words in class_groups(found, held_out)]


def restrict(targets: FrameTargets, classes: Sequence[str]) -> FrameTargets:
    """Targets of the background, `classes` and the ambiguous class; frames of other classes become background."""
    unknown = [c for c in classes if c not in targets.classes]
    if unknown:
        raise VtjaxError(f"not among the classes of the targets: {', '.join(unknown[:3])}")
    kept = [i for i, n in enumerate(targets.classes) if i in (BACKGROUND, targets.ambiguous) or n in set(classes)]
    cut = targets.targets[:, kept].copy()
    cut[:, BACKGROUND] = cut[:, 1:].sum(axis=1) == 0
    names = tuple(targets.classes[i] for i in kept)
    ambiguous = None if targets.ambiguous is None else kept.index(targets.ambiguous)
    return FrameTargets(cut, names, targets.fps, ambiguous)


def base_to_novel(
    score: Callable[[tuple[str, ...]], Mapping[str, np.ndarray]],
    targets: Mapping[str, FrameTargets],
    splits: Mapping[str, Sequence[Sequence[str]]],
    name: str | FrameProtocol = "ovoad",
    *,
    resamples: int = 400,
) -> list[Result]:
    """Table 3 of OV-OAD: for every kind of split ("75/25") the mean over its splits of mAP over their unseen classes.

    score: the scores [L, 1 + n] by video for a class list (background, then a split's n unseen classes). Frames of
    seen classes stay and count as negatives (docs/methods/ovoad.md). The replicates draw the same
    videos for every split, so that the interval is of the mean.
    """
    results = []
    for kind, lists in splits.items():
        ap, cap, chance, ap_draws, cap_draws, items = [], [], [], [], [], 0
        notes: list[str] = []
        for unseen in lists:
            cut = {key: restrict(own, unseen) for key, own in targets.items()}
            background, *rest = next(iter(cut.values())).classes
            listed = (background, *(n for n in rest if n in set(unseen)))
            found = detect(score(listed), cut, name, listed, resamples=resamples)
            present = found.table.positives > 0
            if not present.any():
                raise VtjaxError(f"{kind}: no frame shows any of {', '.join(unseen)}")
            ap.append(found.table.ap[present].mean())
            cap.append(found.table.cap[present].mean())
            chance.append(found.table.chance[present].mean())
            ap_draws.append(class_mean(found.table.ap_draws[:, present]))
            cap_draws.append(class_mean(found.table.cap_draws[:, present]))
            items = found.table.frames
            notes = [*dict.fromkeys([*notes, *found.pool.notes])]
        spread = f"{len(lists)} splits, standard deviation of mAP {100 * np.std(ap):.2f}"
        spans = [
            interval(class_mean(np.stack(replicates, axis=1)), float(np.mean(values)))
            for replicates, values in ((ap_draws, ap), (cap_draws, cap))
        ]
        results.append(
            Result(
                protocol=f"detection/{found.protocol.name}/base-to-novel {kind}",
                metrics={"mAP": _percent(np.mean(ap)), "mcAP": _percent(np.mean(cap))},
                items=items,
                chance={"mAP": _percent(np.mean(chance)), "mcAP": 50.0},
                interval=dict(zip(("mAP", "mcAP"), spans, strict=True)),
                notes=(spread, *notes),
            )
        )
    return results


def stage_precision(found: Detection, stages: int = STAGES, calibrated: bool = True) -> np.ndarray:
    """cAP (or AP) of each tenth of the actions, float [stages] in [0, 1], mean over classes: early detection.

    As LSTR's per-stage evaluation: of every uninterrupted run of a class the frames in that tenth are the positives,
    all frames without the class the negatives. A frame that the protocol leaves out interrupts a run.
    """
    frames = found.pool
    follows = np.concatenate([[False], (np.diff(frames.video) == 0) & (np.diff(frames.row) == 1)])
    values = np.full((stages, len(frames.classes)), np.nan)
    for c in range(len(frames.classes)):
        stage = _stages(frames.truth[:, c] > 0, follows, stages)
        absent = frames.truth[:, c] == 0
        for s in range(stages):
            chosen = absent | (stage == s)
            if (stage == s).any():
                values[s, c] = average_precision(
                    frames.scores[chosen, c], stage[chosen] == s, calibrated=calibrated, ties="grouped"
                )
    return np.array([np.nanmean(row) if np.isfinite(row).any() else np.nan for row in values])


def _stages(shown: np.ndarray, follows: np.ndarray, stages: int) -> np.ndarray:
    """int [N]: the stage of every frame of a run, -1 elsewhere. follows: bool [N], comes right after the one before."""
    goes_on = shown & follows & np.concatenate([[False], shown[:-1]])
    run = np.cumsum(shown & ~goes_on) - 1
    starts = np.flatnonzero(shown & ~goes_on)
    lengths = np.bincount(run[shown], minlength=len(starts))
    out = np.full(len(shown), -1)
    places = np.flatnonzero(shown)
    out[places] = (places - starts[run[places]]) * stages // lengths[run[places]]
    return out
