"""Retrieval by the protocols of TMR (Petrovich et al., ICCV 2023) and CAR (ECCV 2024); exact, in numpy.

`directions` names the two searches, that of a text's item and that of an item's text: ("t2m", "m2t") for motions,
("t2v", "v2t") for videos.

Ranking (as TMR's code): a query's gallery is sorted by falling similarity and the rank of its true item is the 0-based
position of the true item's value; where several items have that very value, the mean of their positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Num, Shaped

from vtjax.arrays import Array
from vtjax.errors import VtjaxError
from vtjax.evals import statistics
from vtjax.evals.protocol import Result

Directions = tuple[str, str]
RECALLS = (1, 2, 3, 5, 10)
_ROWS = 512  # rows of a similarity matrix compared at a time


def check_similarity(similarity: Num[Array, "..."], square: bool = True) -> Num[Array, "queries gallery"]:
    """`similarity` as an array [Q, G] of finite numbers, or VtjaxError saying which entry is wrong."""
    similarity = np.asarray(similarity)
    if similarity.ndim != 2 or not similarity.size or (square and similarity.shape[0] != similarity.shape[1]):
        wanted = "[N, N] (texts x items)" if square else "[queries, gallery]"
        raise VtjaxError(f"similarities must have shape {wanted}, got {list(similarity.shape)}")
    if not np.isfinite(similarity).all():
        row, column = np.argwhere(~np.isfinite(similarity))[0]
        raise VtjaxError(f"similarity of row {row}, column {column} is not finite; is an embedding NaN or zero?")
    return similarity


def ranks(similarity: Num[Array, "..."], correct: Shaped[Array, "..."] | None = None) -> Float[Array, "queries"]:
    """Rank of each query's true item: float64 [Q], 0 is best.

    similarity: [Q, G], larger is nearer. correct: None when item i of the gallery answers query i; int [Q], the
    position of each query's answer; or bool [Q, G], all right answers, of which the nearest counts (threshold).
    """
    similarity = check_similarity(similarity, square=False)
    queries, gallery = similarity.shape
    if correct is None:
        correct = np.arange(queries)
    correct = np.asarray(correct)
    if correct.dtype == bool:
        if correct.shape != similarity.shape or not correct.any(axis=1).all():
            raise VtjaxError("the table of right answers must match the similarities and name one or more per query")
    elif correct.shape != (queries,) or correct.min() < 0 or correct.max() >= gallery:
        raise VtjaxError(f"each of the {queries} queries needs its answer's position among the {gallery} items")
    out = np.empty(queries)
    for start in range(0, queries, _ROWS):
        rows = slice(start, start + _ROWS)
        block = similarity[rows]
        if correct.dtype == bool:
            value = np.where(correct[rows], block, -np.inf).max(axis=1, keepdims=True)
        else:
            value = np.take_along_axis(block, correct[rows, None], axis=1)
        out[rows] = (block > value).sum(axis=1) + ((block == value).sum(axis=1) - 1) / 2
    return out


def recall_metrics(rank: Num[Array, "queries"], rounded: bool = True) -> dict[str, float]:
    """R@k in percent and MedR (median rank counted from 1) of ranks [Q]; `rounded` to 2 decimals as published."""
    metrics = {f"R@{k}": 100 * float(np.mean(rank < k)) for k in RECALLS}
    metrics["MedR"] = float(np.median(rank)) + 1
    return _rounded(metrics) if rounded else metrics


def _rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in metrics.items()}


def chance_metrics(gallery: int, answers: Int[Array, "queries"] | int = 1) -> dict[str, float]:
    """What a random order of the gallery gives, exactly: R@k in percent and MedR.

    answers: number of right answers of each query, [Q] or one number. With c right among G, all k nearest are wrong
    with probability prod_{j<k} (G-c-j)/(G-j).
    """
    counts, queries = np.unique(np.atleast_1d(answers), return_counts=True)
    position = np.arange(gallery)
    missed = np.clip(gallery - counts[:, None] - position, 0, None) / (gallery - position)
    hit = 1 - (queries / queries.sum()) @ np.cumprod(missed, axis=1)  # [G]: the best answer has rank <= position
    metrics = {f"R@{k}": 100 * float(hit[min(k, gallery) - 1]) for k in RECALLS}
    low, high = np.argmax(hit >= 0.5 - 1e-9), np.argmax(hit > 0.5 + 1e-9)
    metrics["MedR"] = 1 + (float(low) + float(high)) / 2
    return metrics


def _intervals(rank: np.ndarray, groups: np.ndarray | None) -> dict[str, tuple[float, float]]:
    intervals = {f"R@{k}": statistics.rate_interval((rank < k).astype(float), groups) for k in RECALLS}
    low, high = statistics.bootstrap_interval(rank, statistics.weighted_median, groups, resamples=1000)
    intervals["MedR"] = (float(low) + 1, float(high) + 1)
    return intervals


def _groups(keys: Sequence[str] | None, count: int) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Clusters for the intervals, and the note that says so where base and mirrored clips are both present."""
    if keys is None:
        return None, ()
    if len(keys) != count or len(set(keys)) != count:
        raise VtjaxError(f"retrieval needs one distinct key for each of the {count} items, got {len(set(keys))}")
    groups = statistics.mirror_groups(keys)
    clusters = int(groups.max()) + 1
    note = f"intervals resample a clip and its mirror image together: {clusters} clusters"
    return groups, (note,) if clusters < count else ()


def _score(protocol, rank, gallery, answers, keys, rounded, notes=()) -> Result:
    groups, cluster_note = _groups(keys, len(rank))
    return Result(
        protocol=protocol,
        metrics=recall_metrics(rank, rounded),
        items=len(rank),
        chance=chance_metrics(gallery, answers),
        interval=_intervals(rank, groups),
        notes=(*notes, *cluster_note),
    )


def _both(similarity: np.ndarray, directions: Directions) -> Iterator[tuple[str, np.ndarray]]:
    similarity = check_similarity(similarity)
    return zip(directions, (similarity, similarity.T), strict=True)


def evaluate_all(
    similarity: Num[Array, "..."], keys: Sequence[str] | None = None, rounded: bool = True, *, directions: Directions
) -> list[Result]:
    """Protocol "all" (TMR's a): one right answer among all N. similarity: [N, N], texts x items; keys: ids [N]."""
    return [
        _score(f"retrieval/all/{name}", ranks(table), len(table), 1, keys, rounded)
        for name, table in _both(similarity, directions)
    ]


def same_meaning(sentence: Num[Array, "..."], threshold: float = 0.95) -> Bool[Array, "texts texts"]:
    """bool [N, N]: captions whose unit sentence embeddings [N, D] have (cosine + 1) / 2 above `threshold`, and self."""
    sentence = np.asarray(sentence, np.float64)
    if sentence.ndim != 2 or np.abs(np.linalg.norm(sentence, axis=1) - 1).max() > 1e-3:
        raise VtjaxError("sentence embeddings must be [N, D] rows of length 1; divide each by its norm")
    return (sentence @ sentence.T > 2 * threshold - 1) | np.eye(len(sentence), dtype=bool)


def evaluate_threshold(
    similarity: Num[Array, "..."],
    sentence: Num[Array, "..."],
    keys: Sequence[str] | None = None,
    threshold: float = 0.95,
    rounded: bool = True,
    *,
    directions: Directions,
) -> list[Result]:
    """Protocol "threshold" (TMR's b): items whose captions mean the same also count. sentence: unit rows [N, D]."""
    correct = same_meaning(sentence, threshold)
    if len(correct) != len(similarity):
        raise VtjaxError(f"{len(similarity)} texts but {len(correct)} sentence embeddings")
    answers = correct.sum(axis=1)
    note = f"a caption counts as right above a text similarity of {threshold:g}: {answers.mean():.2f} right on average"
    return [
        _score(f"retrieval/threshold/{name}", ranks(table, correct), len(table), answers, keys, rounded, (note,))
        for name, table in _both(similarity, directions)
    ]


def evaluate_dissimilar(
    similarity: Num[Array, "..."],
    keys: Sequence[str],
    subset: Sequence[str],
    rounded: bool = True,
    *,
    directions: Directions,
) -> list[Result]:
    """Protocol "dissimilar" (TMR's c): protocol "all" on the listed keys (nsim_test); keys without items are noted."""
    similarity = check_similarity(similarity)
    position = {key: row for row, key in enumerate(keys)}
    chosen = [position[key] for key in dict.fromkeys(subset) if key in position]
    if not chosen:
        raise VtjaxError(f"none of the {len(subset)} keys of the dissimilar subset is among the {len(keys)} items")
    absent = len(set(subset)) - len(chosen)
    notes = (f"{absent} of {len(set(subset))} listed keys have no item",) if absent else ()
    part, names = similarity[np.ix_(chosen, chosen)], [keys[row] for row in chosen]
    return [
        _score(f"retrieval/dissimilar/{name}", ranks(table), len(table), 1, names, rounded, notes)
        for name, table in _both(part, directions)
    ]


def small_batches(keys: Sequence[str], batch: int = 32, seed: int = 0) -> Int[Array, "blocks batch"]:
    """Positions in `keys` of protocol "small batches" (TMR's d), int [blocks, batch]; what fills no block is left out.

    Keys are sorted as strings, then shuffled by numpy's legacy generator, as TMR does.
    """
    if len(keys) < batch:
        raise VtjaxError(f"batches of {batch} need at least {batch} items, got {len(keys)}")
    order = np.array(sorted(range(len(keys)), key=lambda row: keys[row]))
    shuffled = np.arange(len(keys))
    np.random.RandomState(seed).shuffle(shuffled)
    blocks = len(keys) // batch
    return order[shuffled[: blocks * batch]].reshape(blocks, batch)


def evaluate_small_batches(
    similarity: Num[Array, "..."],
    keys: Sequence[str],
    batch: int = 32,
    seed: int = 0,
    rounded: bool = True,
    *,
    directions: Directions,
) -> list[Result]:
    """Protocol "small batches" (TMR's d): unrounded metrics of each block of 32, averaged; MedR is a mean of medians.

    Intervals: R@k by resampling queries, MedR by resampling blocks; the division into blocks is held fixed.
    """
    blocks = small_batches(keys, batch, seed)
    left = len(keys) - blocks.size
    notes = (f"{len(blocks)} batches of {batch}" + (f"; {left} items that fill no batch are left out" if left else ""),)
    groups, cluster_note = _groups([keys[row] for row in blocks.ravel()], blocks.size)
    results = []
    for name, table in _both(similarity, directions):
        rank = np.stack([ranks(table[np.ix_(block, block)]) for block in blocks])
        per_block = [recall_metrics(row, rounded=False) for row in rank]
        metrics = {metric: float(np.mean([m[metric] for m in per_block])) for metric in per_block[0]}
        interval = {f"R@{k}": statistics.rate_interval((rank.ravel() < k).astype(float), groups) for k in RECALLS}
        low, high = statistics.bootstrap_interval(np.median(rank, axis=1) + 1)
        interval["MedR"] = (float(low), float(high))
        results.append(
            Result(
                protocol=f"retrieval/batches of {batch}/{name}",
                metrics=_rounded(metrics) if rounded else metrics,
                items=blocks.size,
                chance=chance_metrics(batch),
                interval=interval,
                notes=(*notes, *cluster_note),
            )
        )
    return results


def evaluate_distractors(
    similarity: Num[Array, "..."],
    shuffled: Num[Array, "..."],
    keys: Sequence[str] | None = None,
    rounded: bool = True,
    *,
    direction: str,
) -> Result:
    """Item to text with every order-shuffled text as a distractor (CAR, section 4.3).

    similarity: [N, N], texts x items; shuffled: [K, N], shuffled texts x items. The answer: an item's own text.
    direction: the name of this search.
    """
    similarity = check_similarity(similarity)
    shuffled = check_similarity(shuffled, square=False)
    if shuffled.shape[1] != len(similarity):
        raise VtjaxError(f"{len(similarity)} items but the shuffled texts are scored against {shuffled.shape[1]}")
    table = np.concatenate([similarity, shuffled]).T
    note = f"gallery: {len(similarity)} texts and {len(shuffled)} texts with shuffled events"
    protocol = f"retrieval/all with distractors/{direction}"
    return _score(protocol, ranks(table), table.shape[1], 1, keys, rounded, (note,))


def evaluate_retrieval(
    similarity: Num[Array, "..."],
    keys: Sequence[str],
    *,
    directions: Directions,
    sentence: Num[Array, "texts features"] | None = None,
    dissimilar: Sequence[str] | None = None,
    shuffled: Num[Array, "wrong items"] | None = None,
    batch: int = 32,
    rounded: bool = True,
) -> list[Result]:
    """Every protocol the inputs allow: all, threshold (with `sentence`), dissimilar (with a key list), batches of 32
    (from `batch` items on), distractors (with `shuffled` [K, N]). similarity: [N, N], texts x items."""
    how: dict[str, Any] = {"rounded": rounded, "directions": directions}
    results = evaluate_all(similarity, keys, **how)
    if sentence is not None:
        results += evaluate_threshold(similarity, sentence, keys, **how)
    if dissimilar is not None:
        results += evaluate_dissimilar(similarity, keys, dissimilar, **how)
    if len(keys) >= batch:
        results += evaluate_small_batches(similarity, keys, batch, **how)
    if shuffled is not None:
        results.append(evaluate_distractors(similarity, shuffled, keys, rounded, direction=directions[1]))
    return results
