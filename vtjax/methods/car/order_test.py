"""Chronologically Accurate Retrieval (docs/methods/car.md): does a model prefer the true order of events?

The 2-way test of the paper, and beyond it: every wrong order (exact CAR), the same test with motions whose segments are
swapped, and the same test for a scorer that sees the text alone (the blind control). A tie always counts as wrong.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vtjax.errors import VtjaxError
from vtjax.evals import statistics
from vtjax.evals.embed import embed_distinct
from vtjax.evals.protocol import Result
from vtjax.methods.car.orders import OrderItem, kendall_distance, wrong_orders

EmbedTexts = Callable[[list[str]], np.ndarray]  # N texts -> [N, D]
ScoreEvents = Callable[[list[tuple[str, ...]]], np.ndarray]  # N event sequences -> [N], without the motion
CHANCE = 50.0
STRATA = ((1 / 3, "a third or less"), (2 / 3, "a third to two thirds"), (1.0, "over two thirds"))


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of paired rows [N, D], [N, D] -> float64 [N]. Raises VtjaxError for rows that are zero or not finite."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 2:
        raise VtjaxError(f"paired embeddings must have one shape [N, D], got {list(a.shape)} and {list(b.shape)}")
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    bad = ~np.isfinite(norms) | (norms == 0)
    if bad.any():
        raise VtjaxError(f"embedding {int(np.argmax(bad))} is zero or not finite, so it has no direction")
    return np.einsum("nd,nd->n", a, b) / norms


def accuracy(
    true: np.ndarray,
    wrong: np.ndarray,
    protocol: str,
    keys: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> Result:
    """The 2-way test from scores [K] of the true and the wrong alternative: percent with true > wrong, strictly.

    Raises VtjaxError for scores that are not finite or do not pair up.
    """
    right = correct(true, wrong)
    ties = int(np.sum(np.asarray(true) == np.asarray(wrong)))
    groups = None if keys is None else statistics.mirror_groups(keys)
    if ties:
        half = 100 * (right.mean() + ties / (2 * len(right)))
        notes = (*notes, f"{ties} ties counted as wrong; counted as half, CAR is {half:.2f}")
    return Result(
        protocol=protocol,
        metrics={"CAR": 100 * float(right.mean())} if len(right) else {},
        items=len(right),
        chance={"CAR": CHANCE},
        interval={"CAR": statistics.rate_interval(right, groups)} if len(right) else {},
        notes=tuple(notes),
    )


def correct(true: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """float64 [K]: 1 where true > wrong, strictly. Ties are 0."""
    true, wrong = np.asarray(true, np.float64), np.asarray(wrong, np.float64)
    if true.shape != wrong.shape or true.ndim != 1:
        raise VtjaxError(f"CAR needs two scores per item, got shapes {list(true.shape)} and {list(wrong.shape)}")
    if not (np.isfinite(true).all() and np.isfinite(wrong).all()):
        raise VtjaxError("CAR scores must be finite; is an embedding NaN?")
    return (true > wrong).astype(np.float64)


@dataclasses.dataclass(frozen=True)
class OrderScores:
    """Scores of the 2-way test item by item: true, wrong float64 [K]; order: the wrong order that was tried."""

    items: tuple[OrderItem, ...]
    orders: tuple[tuple[int, ...], ...]
    true: np.ndarray
    wrong: np.ndarray
    protocol: str

    def result(self) -> Result:
        return accuracy(self.true, self.wrong, self.protocol, [item.key for item in self.items])


def _require(items: Sequence[OrderItem]) -> None:
    if not items:
        raise VtjaxError("the CAR test has no item: it needs captions of two or more distinct events")


def score_orders(
    items: Sequence[OrderItem],
    motions: np.ndarray,
    embed_texts: EmbedTexts,
    orders: Mapping[str, Sequence[int]],
    positive: str = "events",
) -> OrderScores:
    """The paper's CAR. motions: embeddings [N, D], row `item.row` per item; orders: one wrong order per item key.

    positive: "events" compares the events in true and wrong order (event-to-event, the honest number); "caption"
    compares the caption as written with the events in wrong order (original-to-event), where style may tell too.
    """
    _require(items)
    if positive not in ("events", "caption"):
        raise VtjaxError(f'positive must be "events" or "caption", not {positive!r}')
    lacking = [item.key for item in items if positive == "caption" and not item.caption]
    if lacking:
        raise VtjaxError(f"item {lacking[0]!r} has no caption; original-to-event CAR needs one for every item")
    chosen = tuple(tuple(orders[item.key]) for item in items)
    true = [item.text() if positive == "events" else item.caption for item in items]
    wrong = [item.text(order) for item, order in zip(items, chosen, strict=True)]
    vectors = embed_distinct(true + wrong, embed_texts)
    rows = np.asarray(motions)[[item.row for item in items]]
    scores = [cosine(rows, half) for half in np.split(vectors, 2)]
    mode = "event-to-event" if positive == "events" else "original-to-event"
    return OrderScores(tuple(items), chosen, scores[0], scores[1], f"car/2-way/{mode}")


def score_blind(
    items: Sequence[OrderItem], score_events: ScoreEvents, orders: Mapping[str, Sequence[int]], name: str = "text only"
) -> OrderScores:
    """The event-to-event test for a scorer that never sees the motion; above chance, text alone gives order away."""
    _require(items)
    chosen = tuple(tuple(orders[item.key]) for item in items)
    wrong = [tuple(item.events[i] for i in order) for item, order in zip(items, chosen, strict=True)]
    scores = embed_distinct([item.events for item in items] + wrong, score_events).astype(np.float64)
    if scores.ndim != 1:
        raise VtjaxError(f"scoring event sequences must give one number each, got {list(scores.shape)}")
    true, other = np.split(scores, 2)
    return OrderScores(tuple(items), chosen, true, other, f"car/blind/{name}")


def motion_car(
    texts: np.ndarray, true: np.ndarray, swapped: np.ndarray, keys: Sequence[str] | None = None
) -> Result:
    """Motion-side CAR: given the text, the true motion or the one with its segments in another order?

    texts, true, swapped: embeddings [K, D], row by row. Immune to shortcuts in the text, which is the same both times.
    """
    return accuracy(cosine(texts, true), cosine(texts, swapped), "car/2-way/motions swapped", keys)


def compare(first: OrderScores, second: OrderScores) -> statistics.Paired:
    """Difference of two scorers' CAR in percentage points over the same items, e.g. a model and the blind control."""
    keys = [item.key for item in first.items]
    if keys != [item.key for item in second.items] or first.orders != second.orders:
        raise VtjaxError("the two CAR tests are not over the same items and orders")
    ours, theirs = (100 * correct(scores.true, scores.wrong) for scores in (first, second))
    return statistics.paired_bootstrap(ours, theirs, groups=statistics.mirror_groups(keys))


def exact_car(
    items: Sequence[OrderItem], motions: np.ndarray, embed_texts: EmbedTexts, cap: int = 5
) -> list[Result]:
    """Event-to-event CAR over all wrong orders: overall, by number of events, and by how wrong the order is.

    CAR is the mean over items of the share of wrong orders scored strictly below the true one; "first" the share of
    items whose true order beats every wrong one (chance 1/E! for E distinct events). Items of more than `cap` events
    are left out and counted. Strata of Kendall distance (share of pairs out of order) are over items of 3 or more.
    """
    _require(items)
    used = [item for item in items if len(item.events) <= cap]
    _require(used)
    orders = [wrong_orders(item) for item in used]
    texts = [[item.text(), *(item.text(order) for order in wrong)] for item, wrong in zip(used, orders, strict=True)]
    counts = [len(several) for several in texts]
    rows = np.repeat(np.asarray(motions)[[item.row for item in used]], counts, axis=0)
    flat = cosine(rows, embed_distinct([text for several in texts for text in several], embed_texts))
    scores = np.split(flat, np.cumsum(counts)[:-1])
    right = [(row[0] > row[1:]).astype(np.float64) for row in scores]
    ties = sum(int(np.sum(row[0] == row[1:])) for row in scores)

    left = len(items) - len(used)
    notes: tuple[str, ...] = (f"{sum(map(len, orders))} wrong orders",)
    notes += (f"{left} items of more than {cap} events are left out",) if left else ()
    notes += (f"{ties} ties counted as wrong",) if ties else ()
    results = [_exact("car/all orders/any number of events", used, right, notes)]
    for size in sorted({len(item.events) for item in used}):
        part = [i for i, item in enumerate(used) if len(item.events) == size]
        name = f"car/all orders/{size} events"
        results.append(_exact(name, [used[i] for i in part], [right[i] for i in part]))
    return results + _by_distance(used, orders, right)


def _exact(protocol: str, items: list[OrderItem], right: list[np.ndarray], notes: tuple[str, ...] = ()) -> Result:
    share = np.array([row.mean() for row in right])
    first = np.array([float(row.all()) for row in right])
    groups = statistics.mirror_groups([item.key for item in items])
    return Result(
        protocol=protocol,
        metrics={"CAR": 100 * float(share.mean()), "first": 100 * float(first.mean())},
        items=len(items),
        chance={"CAR": CHANCE, "first": 100 * float(np.mean([1 / (1 + len(row)) for row in right]))},
        interval={"CAR": statistics.rate_interval(share, groups), "first": statistics.rate_interval(first, groups)},
        notes=notes,
    )


def _by_distance(items, orders, right) -> list[Result]:
    results, low = [], 0.0
    for high, name in STRATA:
        keys, share = [], []
        for item, wrong, row in zip(items, orders, right, strict=True):
            distance = np.array([kendall_distance(order) for order in wrong])
            inside = (distance > low + 1e-9) & (distance <= high + 1e-9)
            if len(item.events) >= 3 and inside.any():
                keys.append(item.key)
                share.append(row[inside].mean())
        low = high
        if keys:
            interval = statistics.rate_interval(np.array(share), statistics.mirror_groups(keys))
            metrics = {"CAR": 100 * math.fsum(share) / len(share)}
            protocol = f"car/all orders/{name} of pairs out of order"
            results.append(Result(protocol, metrics, len(keys), {"CAR": CHANCE}, {"CAR": interval}))
    return results
