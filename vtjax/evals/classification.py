"""Classification by scores: top-k, mean class accuracy, confusion counts, and the choice between two."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Num, Shaped

from vtjax.arrays import Array
from vtjax.errors import VtjaxError
from vtjax.evals import retrieval, statistics
from vtjax.evals.protocol import Result

TOP = (1, 5)
_TIE = 1e-6  # scores this close are one: a model that cannot see order rounds differently, nothing more


def top_rates(
    similarity: Num[Array, "..."],
    labels: Int[Array, "..."],
    protocol: str,
    top: Sequence[int] = TOP,
    notes: Sequence[str] = (),
) -> Result:
    """Share of items whose right class is among the best k, in percent; equal scores share their mean rank.

    Args:
      similarity: scores [N, C].
      labels: the right class of each item, int [N].
      protocol: name of the result.
      top: each k.
      notes: put after the number of classes.
    """
    rank = retrieval.ranks(similarity, labels)
    count = similarity.shape[1]
    hits = {f"top-{k}": (rank < k).astype(float) for k in top}
    return Result(
        protocol=protocol,
        metrics={name: 100 * float(hit.mean()) for name, hit in hits.items()},
        items=len(rank),
        chance={f"top-{k}": 100 * min(k, count) / count for k in top},
        interval={name: statistics.rate_interval(hit) for name, hit in hits.items()},
        notes=(f"{count} to choose from", *notes),
    )


def mean_class_accuracy(
    similarity: Num[Array, "items classes"],
    labels: Int[Array, "items"],
    protocol: str,
    groups: Shaped[Array, "items"] | None = None,
) -> Result:
    """Mean over classes of the share of a class's items that are right, in percent: rare classes count as others do.

    Args:
      similarity: scores [N, C].
      labels: the right class of each item, int [N].
      protocol: name of the result.
      groups: labels [N] of items that the interval resamples together; None for independent items.

    Returns:
      Metrics "mean class" and, for comparison, "top-1"; a note says how many items the classes have.
    """
    hits = (retrieval.ranks(similarity, labels) < 1).astype(float)
    counts = np.bincount(labels, minlength=similarity.shape[1])
    statistic = statistics.mean_of_means(labels)
    low, high = statistics.bootstrap_interval(hits, statistic, groups)
    shown = counts[counts > 0]
    notes = [f"{len(shown)} classes of {shown.min()} to {shown.max()} items"]
    if absent := len(counts) - len(shown):
        notes.append(f"{absent} classes without an item are not averaged")
    chance = 100 / similarity.shape[1]
    return Result(
        protocol=protocol,
        metrics={"mean class": 100 * float(statistic(hits, np.ones((1, len(hits))))[0]), "top-1": 100 * hits.mean()},
        items=len(hits),
        chance={"mean class": chance, "top-1": chance},
        interval={"mean class": (100 * float(low), 100 * float(high)), "top-1": statistics.rate_interval(hits, groups)},
        notes=tuple(notes),
    )


def confusion_counts(similarity: Num[Array, "..."], labels: Int[Array, "..."]) -> Int[Array, "classes classes"]:
    """Counts how often each class is taken for each: int [C, C], rows the right class, columns the first best one.

    Its row sums are the items per class. similarity: scores [N, C]; labels: int [N].
    """
    similarity, labels = retrieval.check_similarity(similarity, square=False), np.asarray(labels)
    count = similarity.shape[1]
    if labels.shape != similarity.shape[:1] or labels.min() < 0 or labels.max() >= count:
        raise VtjaxError(f"each of the {len(similarity)} items needs one of the {count} classes as its label")
    return np.bincount(labels * count + similarity.argmax(axis=1), minlength=count * count).reshape(count, count)


def two_way(true: Num[Array, "items"], wrong: Num[Array, "items"], protocol: str, notes: Sequence[str] = ()) -> Result:
    """Share of items [N] with the true alternative's score above the wrong one's, in percent; a tie counts half."""
    gap = np.asarray(true, np.float64) - np.asarray(wrong, np.float64)
    right = np.where(np.abs(gap) <= _TIE, 0.5, gap > 0)
    ties = int(np.sum(np.abs(gap) <= _TIE))
    more = (f"{ties} ties count half",) if ties else ()
    return Result(
        protocol=protocol,
        metrics={"accuracy": 100 * float(right.mean())},
        items=len(right),
        chance={"accuracy": 50.0},
        interval={"accuracy": statistics.rate_interval(right)},
        notes=(*notes, *more),
    )


def group_scores(
    similarity: Num[Array, "items classes"], groups: Sequence[str]
) -> tuple[Num[Array, "items groups"], list[str]]:
    """Scores [N, C] of classes -> ([N, G] the best class of each group, the groups' names in order of appearance)."""
    names = list(dict.fromkeys(groups))
    of = np.array([names.index(g) for g in groups])
    return np.stack([similarity[:, of == g].max(axis=1) for g in range(len(names))], axis=1), names
