"""Average precision of scored frames, plain and calibrated, with both rules for ties (docs/methods/ovoad.md).

Frames are sorted by falling score. At rank j there are TP(j) positives and FP(j) negatives:
  AP  = mean over positives of TP / (TP + FP)
  cAP = mean over positives of w TP / (w TP + FP), w = negatives / positives (De Geest et al., ECCV 2016)

Ties: "rank" counts equal scores one after another in the order given (OadTR, OV-OAD, LSTR's cAP); "grouped" counts all
of them at once, so that the order given does not matter (scikit-learn's average_precision_score, LSTR's AP).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

from vtjax.arrays import Array
from vtjax.errors import VtjaxError, nearest

Values = Shaped[Array, "..."] | Sequence[float]
TIES = ("rank", "grouped")
_CELLS = 1 << 22  # numbers of a replicate table held at a time: 32 MiB


@dataclasses.dataclass(frozen=True)
class Ranking:
    """One class's frames sorted by falling score.

    order: int [N], frames from the highest score to the lowest. ends: int [P], for each positive in that order the
    place up to which frames count as found when it is: its own ("rank"), or that of the last equal score ("grouped").
    positive: int [P], the positives' own places.
    """

    order: np.ndarray
    ends: np.ndarray
    positive: np.ndarray

    def precision(self, calibrated: bool = False) -> float:
        """AP, or cAP, in [0, 1]; nan without a positive. Without a negative both are 1."""
        count = len(self.positive)
        if not count:
            return float("nan")
        true = np.searchsorted(self.positive, self.ends, side="right").astype(np.float64)
        false = self.ends + 1 - true
        if calibrated:
            weight = (len(self.order) - count) / count
            if weight == 0:
                return 1.0
            true = weight * true
        return float(np.mean(true / (true + false)))


def rank_frames(scores: Values, truth: Values, ties: str = "rank") -> Ranking:
    """scores: [N] finite. truth: [N], nonzero where the class is shown. The sort is stable.

    Raises VtjaxError: unknown rule, shapes that differ, a score that is not finite.
    """
    if ties not in TIES:
        raise VtjaxError(f"rule for ties {ties!r}: {nearest(ties, TIES)}")
    scores, truth = np.asarray(scores), np.asarray(truth).astype(bool)
    if scores.ndim != 1 or scores.shape != truth.shape:
        raise VtjaxError(f"one score and one truth per frame are expected, got shapes {scores.shape}, {truth.shape}")
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise VtjaxError(f"the score of frame {bad[0]} is {scores[bad[0]]}; {len(bad)} are not finite")
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    positive = np.flatnonzero(truth[order])
    if ties == "rank":
        return Ranking(order, positive, positive)
    ordered = scores[order]
    last = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    return Ranking(order, last[np.searchsorted(last, positive)], positive)


def average_precision(scores: Values, truth: Values, *, calibrated: bool = False, ties: str = "rank") -> float:
    """AP or cAP of one class in [0, 1], nan where it has no positive; arguments as `rank_frames`."""
    return rank_frames(scores, truth, ties).precision(calibrated)


def random_average_precision(positives: int, frames: int) -> float:
    """Expected AP of frames in random order, in [0, 1]: the share of positives, and a little more where frames are few.

    At rank j a positive has 1 + (P - 1)(j - 1) / (N - 1) positives at or above it on average.
    """
    if not 0 < positives <= frames:
        raise VtjaxError(f"{positives} positives of {frames} frames: between 1 and all are expected")
    if frames == 1:
        return 1.0
    j = np.arange(1, frames + 1)
    return float(np.mean((1 + (positives - 1) * (j - 1) / (frames - 1)) / j))


@dataclasses.dataclass(frozen=True)
class ClassTable:
    """AP and cAP of every class over one pool of frames; fractions, nan where a class has no positive.

    names: C names. ap, cap: float [C]. positives: int [C]. frames: number of frames in the pool.
    ap_draws, cap_draws: float [R, C], the same of bootstrap replicates.
    """

    names: tuple[str, ...]
    ap: np.ndarray
    cap: np.ndarray
    positives: np.ndarray
    frames: int
    ap_draws: np.ndarray
    cap_draws: np.ndarray

    @property
    def chance(self) -> np.ndarray:
        """Expected AP of random scores, float [C]."""
        return np.array([random_average_precision(int(p), self.frames) if p else np.nan for p in self.positives])

    def take(self, chosen: Sequence[int] | np.ndarray) -> ClassTable:
        """The same for some of the classes."""
        chosen = np.asarray(chosen, int)
        return ClassTable(
            tuple(self.names[i] for i in chosen), self.ap[chosen], self.cap[chosen], self.positives[chosen],
            self.frames, self.ap_draws[:, chosen], self.cap_draws[:, chosen],
        )  # fmt: skip


def class_table(
    scores: Shaped[Array, "..."],
    truth: Shaped[Array, "..."],
    groups: Shaped[Array, "..."],
    names: Sequence[str],
    *,
    ties: tuple[str, str] = ("rank", "rank"),
    resamples: int = 400,
    seed: int = 0,
) -> ClassTable:
    """AP and cAP of every class with bootstrap replicates over groups of frames, usually videos.

    scores: [N, C]. truth: [N, C] of zeros and ones. groups: int [N]. ties: the rule of AP and that of cAP. A frame that
    a replicate holds several times is several frames with one score.
    """
    scores, truth = np.asarray(scores), np.asarray(truth)
    if scores.shape != truth.shape or scores.ndim != 2 or scores.shape[1] != len(names) or len(groups) != len(scores):
        shapes = f"scores {scores.shape}, truth {truth.shape}, groups {np.shape(groups)}"
        raise VtjaxError(f"[frames, {len(names)} classes] and one group per frame are expected, got {shapes}")
    groups = np.unique(groups, return_inverse=True)[1].reshape(-1)
    count = int(groups.max()) + 1 if len(groups) else 0
    rng = np.random.default_rng(seed)
    drawn = np.stack([np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(resamples)])
    ap, cap, ap_draws, cap_draws = [], [], [], []
    for c in range(len(names)):
        rankings = {rule: rank_frames(scores[:, c], truth[:, c], rule) for rule in set(ties)}
        ap.append(rankings[ties[0]].precision())
        cap.append(rankings[ties[1]].precision(calibrated=True))
        draws = {rule: _draws(r, groups, drawn.astype(np.float64)) for rule, r in rankings.items()}
        ap_draws.append(draws[ties[0]][0])
        cap_draws.append(draws[ties[1]][1])
    positives = (truth != 0).sum(axis=0)
    return ClassTable(
        tuple(names), np.array(ap), np.array(cap), positives, len(scores),
        np.stack(ap_draws, axis=1), np.stack(cap_draws, axis=1),
    )  # fmt: skip


def _draws(ranking: Ranking, groups: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(AP [R], cAP [R]) where group g counts drawn[r, g] times; nan in replicates without a positive.

    Only counts at the positives are needed, so each stretch of frames between them is first counted by group.
    """
    resamples, count = drawn.shape
    places, first = np.unique(ranking.ends, return_index=True)
    if not len(places):
        nothing = np.full(resamples, np.nan)
        return nothing, nothing.copy()
    ordered = groups[ranking.order]
    inside = ordered[: places[-1] + 1]
    stretch = np.searchsorted(places, np.arange(len(inside)))
    # Small whole numbers, so that single precision is exact; sums along the ranking are taken in double.
    table = np.bincount(stretch * count + inside, minlength=len(places) * count)
    table = table.reshape(len(places), count).astype(np.float32)
    of_positives = ordered[ranking.positive]
    total = drawn @ np.bincount(groups, minlength=count)
    positives = drawn @ np.bincount(of_positives, minlength=count)
    ap, cap = np.empty(resamples), np.empty(resamples)
    for start in range(0, resamples, step := max(1, _CELLS // len(of_positives))):
        rows = slice(start, start + step)
        weight = np.ascontiguousarray(drawn[rows].T, np.float32)
        here = np.add.reduceat(weight[of_positives], first, axis=0, dtype=np.float64)
        true = np.cumsum(here, axis=0)
        false = np.cumsum(table @ weight, axis=0, dtype=np.float64) - true
        found = positives[rows]
        with np.errstate(invalid="ignore", divide="ignore"):
            ap[rows] = np.nansum(here * (true / (true + false)), axis=0) / found
            ratio = (total[rows] - found) / found
            calibrated = ratio * true / (ratio * true + false)
            calibrated[:, ratio == 0] = 1
            cap[rows] = np.nansum(here * calibrated, axis=0) / found
        ap[rows][found == 0] = cap[rows][found == 0] = np.nan
    return ap, cap
