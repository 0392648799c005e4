"""Confidence intervals: bootstrap over clusters, paired bootstrap and Wilson's interval; seeded and vectorised.

Clusters: a HumanML3D clip and its mirror image are one observation told twice, so they are resampled together
(docs/methods/car.md). A replicate is held as integer weights, one per item, so that every statistic is a weighted one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int, Num, Shaped
from scipy.stats import binomtest

from vtjax.arrays import Array
from vtjax.errors import VtjaxError

Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
_CHUNK = 1 << 22  # weights held at a time: 32 MiB


def weighted_mean(
    values: Num[Array, "items *metrics"], weights: Num[Array, "draws items"]
) -> Float[Array, "draws *metrics"]:
    """values [N, ...], weights [R, N] -> means [R, ...]."""
    flat = values.reshape(len(values), -1)
    means = (weights @ flat) / weights.sum(axis=1, keepdims=True)
    return means.reshape(len(weights), *values.shape[1:])


def weighted_median(values: Num[Array, "items"], weights: Num[Array, "draws items"]) -> Float[Array, "draws"]:
    """values [N], integer weights [R, N] -> [R]: `np.median` of each value repeated weight times."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    below = np.cumsum(weights[:, order], axis=1)
    total = below[:, -1:]
    low = np.argmax(below > (total - 1) // 2, axis=1)
    high = np.argmax(below > total // 2, axis=1)
    return (ordered[low] + ordered[high]) / 2


def mean_of_means(labels: Shaped[Array, "items"]) -> Statistic:
    """Makes the statistic of values [N] that averages the items of each label [N], then the labels that have any."""
    names, places = np.unique(labels, return_inverse=True)
    member = (places.reshape(-1)[:, None] == np.arange(len(names))).astype(np.float64)

    def statistic(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        counts = weights @ member
        means = (weights @ (values[:, None] * member)) / np.maximum(counts, 1)
        return means.sum(axis=1) / (counts > 0).sum(axis=1)

    return statistic


def mirror_groups(keys: Sequence[str]) -> Int[Array, "items"]:
    """int [N]: equal for a key and its mirrored key ("000021" and "M000021"), distinct otherwise."""
    known = set(keys)
    bases = [k[1:] if k[:1] == "M" and (k[1:] in known or k[1:].isdigit()) else k for k in keys]
    return np.unique(bases, return_inverse=True)[1].reshape(-1)


def _clusters(count: int, groups: np.ndarray | None) -> np.ndarray:
    if groups is None:
        return np.arange(count)
    groups = np.asarray(groups)
    if groups.shape != (count,):
        raise VtjaxError(f"groups must hold one label for each of the {count} items, but has shape {groups.shape}")
    return np.unique(groups, return_inverse=True)[1].reshape(-1)


def _replicate_weights(clusters: np.ndarray, resamples: int, seed: int):
    """Yields integer-valued float64 weights [r, N]: how often each item's cluster was drawn, with replacement."""
    rng = np.random.default_rng(seed)
    total = int(clusters.max()) + 1
    step = max(1, _CHUNK // max(total, len(clusters)))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(total, size=(rows, total)) + total * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * total).reshape(rows, total)
        yield counts[:, clusters].astype(np.float64)


def bootstrap_interval(
    values: Num[Array, "items *metrics"],
    statistic: Statistic = weighted_mean,
    groups: Shaped[Array, "..."] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Float[Array, "2 *results"]:
    """Percentile bootstrap of `statistic` over items, whole clusters at a time.

    values: [N, ...]. groups: labels [N], None for independent items. Returns [2, ...]: low and high.
    """
    values = np.asarray(values, np.float64)
    if not len(values):
        raise VtjaxError("a bootstrap needs at least one item")
    clusters = _clusters(len(values), groups)
    draws = np.concatenate([statistic(values, w) for w in _replicate_weights(clusters, resamples, seed)])
    tail = (1 - confidence) / 2
    return np.quantile(draws, [tail, 1 - tail], axis=0)


@dataclasses.dataclass(frozen=True)
class Paired:
    """Mean of first minus second, its interval, and the two-sided bootstrap p-value of no difference."""

    difference: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(
    first: Shaped[Array, "..."],
    second: Shaped[Array, "..."],
    groups: Shaped[Array, "..."] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Paired:
    """Compares two systems scored on the same items, in the same order: [N] and [N]."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise VtjaxError(f"a paired comparison needs two scores per item, got shapes {first.shape} and {second.shape}")
    gap = first - second
    clusters = _clusters(len(gap), groups)
    draws = np.concatenate([weighted_mean(gap, w) for w in _replicate_weights(clusters, resamples, seed)])
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    # one is added to both counts: no finite number of resamples shows a probability of zero
    p_value = 2 * (1 + min(np.sum(draws <= 0), np.sum(draws >= 0))) / (1 + resamples)
    return Paired(float(gap.mean()), float(low), float(high), float(min(1.0, p_value)))


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; defined, unlike the bootstrap, where all or none succeed."""
    if total <= 0 or not 0 <= successes <= total:
        raise VtjaxError(f"{successes} successes of {total} is not a proportion")
    interval = binomtest(successes, total).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def rate_interval(
    values: Shaped[Array, "items"], groups: Shaped[Array, "..."] | None = None, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval, in percent, of the mean of values in [0, 1] ([N]).

    Clustered bootstrap; where all values are 0 or all are 1, which a bootstrap cannot see beyond, Wilson's interval
    with the number of clusters as the number of observations.
    """
    values = np.asarray(values, np.float64)
    if len(values) and (np.all(values == 0) or np.all(values == 1)):
        count = int(_clusters(len(values), groups).max()) + 1
        low, high = wilson_interval(int(values[0]) * count, count)
    else:
        low, high = bootstrap_interval(values, groups=groups, resamples=resamples, seed=seed)
    return 100 * float(low), 100 * float(high)
