"""Text-only scorers of event order, trained on training texts: what CAR a model could reach without seeing a motion.

Two cheap priors that fail in different ways. The n-gram model knows which words follow which, also across the end of an
event. The pairwise model learns which words belong to earlier and which to later events, which carries "again",
"finally", "gets back up" and scripts of whole events. `fit_blind` keeps the better one on held-out training texts.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.optimize
import scipy.sparse
import scipy.sparse.linalg
import scipy.special

from vtjax.errors import VtjaxError
from vtjax.methods.car.orders import OrderItem, choose_orders, wrong_orders

_WORD = re.compile(r"[a-z0-9]+|[.,;]")
_PAIRS_KEPT = 200_000


def words_of(text: str) -> list[str]:
    return _WORD.findall(text.lower())


@dataclasses.dataclass(frozen=True)
class NGramPrior:
    """Word n-gram model with add-k smoothing, interpolated over the lengths 1..n (Jelinek-Mercer, equal weights)."""

    counts: tuple[collections.Counter, ...]  # per length: n-gram -> count
    contexts: tuple[collections.Counter, ...]
    vocabulary: int
    k: float

    @classmethod
    def fit(cls, texts: Sequence[str], n: int = 3, k: float = 0.1) -> NGramPrior:
        """texts: ordered event texts."""
        counts: list[collections.Counter] = [collections.Counter() for _ in range(n)]
        contexts: list[collections.Counter] = [collections.Counter() for _ in range(n)]
        vocabulary = set()
        for text in texts:
            tokens = _padded(text, n)
            vocabulary.update(tokens)
            for end in range(n, len(tokens) + 1):
                for length in range(1, n + 1):
                    gram = tuple(tokens[end - length : end])
                    counts[length - 1][gram] += 1
                    contexts[length - 1][gram[:-1]] += 1
        return cls(tuple(counts), tuple(contexts), len(vocabulary) + 1, k)

    def score(self, events: Sequence[str]) -> float:
        """log P of the events in this order."""
        n, total = len(self.counts), 0.0
        tokens = _padded(" ".join(events), n)
        for end in range(n, len(tokens) + 1):
            probability = 0.0
            for length in range(1, n + 1):
                gram = tuple(tokens[end - length : end])
                context = self.contexts[length - 1][gram[:-1]]
                probability += (self.counts[length - 1][gram] + self.k) / (context + self.k * self.vocabulary)
            total += math.log(probability / n)
        return total


def _padded(text: str, n: int) -> list[str]:
    return ["<s>"] * (n - 1) + words_of(text) + ["</s>"]


@dataclasses.dataclass(frozen=True)
class PairwisePrior:
    """Logistic ranking of orders: P(true over wrong) = sigmoid(w . (f(true) - f(wrong))), weights under an L2 penalty.

    Features, each positive or negative by direction: a word's place in the sequence (-1/2 first to 1/2 last); for every
    pair of events, adjacent ones once more, which word comes before which; and which whole event before which.
    """

    index: dict
    weights: np.ndarray

    @classmethod
    def fit(
        cls, items: Sequence[OrderItem], penalties: Sequence[float] = (1e-3,), per_item: int = 3, seed: int = 0
    ) -> list[PairwisePrior]:
        """One prior per penalty, from the same features; per_item: wrong orders drawn of each item."""
        return cls.fit_on(order_gaps(items, per_item, seed), penalties)

    @classmethod
    def fit_on(cls, gaps: Sequence[dict], penalties: Sequence[float]) -> list[PairwisePrior]:
        """The same from differences f(true) - f(wrong) that `order_gaps` made."""
        frequency = collections.Counter(key for gap in gaps for key in gap)
        kept = sorted(key for key, _ in frequency.most_common(_PAIRS_KEPT))
        index = {key: column for column, key in enumerate(kept)}
        matrix = _matrix(gaps, index)
        return [cls(index, _logistic_weights(matrix, penalty)) for penalty in penalties]

    def score(self, events: Sequence[str]) -> float:
        features = order_features(events)
        return math.fsum(
            value * self.weights[self.index[key]] for key, value in sorted(features.items()) if key in self.index
        )


def order_features(events: Sequence[str]) -> dict[tuple[str, ...], float]:
    """Features of one order of events; they change sign when the order is reversed."""
    return _expanded(events, _terms(range(len(events))))


def _terms(order: Sequence[int]) -> dict[tuple[str, int, int], float]:
    """What the features of an order are made of: (kind, event, event) -> how often, negative where turned round."""
    terms: dict[tuple[str, int, int], float] = collections.defaultdict(float)
    for place, event in enumerate(order):
        terms["place", event, event] += place / max(1, len(order) - 1) - 0.5
        for later in range(place + 1, len(order)):
            first, second, sign = event, order[later], 1.0
            if first > second:
                first, second, sign = second, first, -1.0
            terms["before", first, second] += sign
            if later == place + 1:
                terms["next", first, second] += sign
    return terms


def _expanded(events: Sequence[str], terms: dict[tuple[str, int, int], float]) -> dict[tuple[str, ...], float]:
    """Terms over events as features over their words and whole texts."""
    features: dict[tuple[str, ...], float] = collections.defaultdict(float)
    for (kind, first, second), value in terms.items():
        if not value:
            continue
        if kind == "place":
            for word in _bag(events[first]):
                features[kind, word] += value
        else:
            for a, b, sign in _word_pairs(events[first], events[second]):
                features[kind, a, b] += sign * value
    return features


@functools.lru_cache(1 << 14)
def _bag(event: str) -> tuple[str, ...]:
    return tuple(sorted(set(words_of(event))))


@functools.lru_cache(1 << 10)
def _word_pairs(first: str, second: str) -> list[tuple[str, str, float]]:
    """Every two different words of two events, and the two whole texts, in alphabetical order; -1 where that turned
    them round."""
    whole = (f"[{' '.join(words_of(first))}]", f"[{' '.join(words_of(second))}]")
    pairs = [(a, b) for a in _bag(first) for b in _bag(second)] + [whole]
    return [(a, b, 1.0) if a < b else (b, a, -1.0) for a, b in pairs if a != b]


def order_gaps(items: Sequence[OrderItem], per_item: int = 3, seed: int = 0) -> list[dict[tuple[str, ...], float]]:
    """f(true) - f(wrong) of up to `per_item` wrong orders drawn of each item, item after item.

    Terms that both orders share cancel before they are expanded, which leaves about a third of the work.
    """
    rng = np.random.default_rng(seed)
    gaps = []
    for item in items:
        wrong = wrong_orders(item) if len(item.events) <= 5 else list(choose_orders([item], seed).values())
        for pick in rng.permutation(len(wrong))[:per_item]:
            terms = _terms(range(len(item.events)))
            for term, value in _terms(wrong[pick]).items():
                terms[term] -= value
            gaps.append({key: value for key, value in _expanded(item.events, terms).items() if abs(value) > 1e-9})
    return gaps


def _logistic_weights(matrix: scipy.sparse.csr_matrix, penalty: float) -> np.ndarray:
    """Finds the w that makes mean log(1 + exp(-matrix w)) + penalty/2 |w|^2 least.

    The loss is strongly convex, so it has one optimum. It is handed over as a sum: the search gives up at curvatures
    near the rounding of 1, which those of the mean come near too early.
    """
    count, width = matrix.shape

    def loss(w):
        margin = matrix @ w
        wrong = scipy.special.expit(-margin)  # probability of the wrong order
        value = np.logaddexp(0, -margin).sum() + count * penalty / 2 * w.dot(w)
        return value, count * penalty * w - matrix.T @ wrong

    def curvature(w):
        wrong = scipy.special.expit(-(matrix @ w))
        spread = wrong * (1 - wrong)
        product = lambda direction: matrix.T @ (spread * (matrix @ direction)) + count * penalty * direction
        return scipy.sparse.linalg.LinearOperator((width, width), product, dtype=np.float64)

    start, options = np.zeros(width), {"xtol": 1e-10, "maxiter": 50}
    return scipy.optimize.minimize(loss, start, method="Newton-CG", jac=True, hess=curvature, options=options).x


def _matrix(rows: Sequence[dict], index: dict) -> scipy.sparse.csr_matrix:
    entries = [[(index[key], value) for key, value in row.items() if key in index] for row in rows]
    starts = np.cumsum([0, *map(len, entries)])
    columns = np.array([column for row in entries for column, _ in row], np.int64)
    values = np.array([value for row in entries for _, value in row], np.float64)
    return scipy.sparse.csr_matrix((values, columns, starts), shape=(len(rows), len(index)))


@dataclasses.dataclass(frozen=True)
class BlindScorer:
    """The chosen prior. name: which one; held_out: accuracy in percent of each candidate on held-out training items."""

    name: str
    prior: NGramPrior | PairwisePrior
    held_out: dict[str, float]

    def scores(self, sequences: Sequence[Sequence[str]]) -> np.ndarray:
        """float64 [N] from N event sequences."""
        return np.array([self.prior.score(events) for events in sequences])


_ORDERS = {"bigram": 2, "trigram": 3}
_PENALTIES = {"pairwise": 1e-2, "pairwise, loose": 1e-4}


def fit_blind(items: Sequence[OrderItem], held_out: float = 0.2, seed: int = 0, most: int = 6000) -> BlindScorer:
    """Fits every candidate on part of the training items, keeps the best on the rest, and refits it on all.

    items: training items (never test items); of more than `most`, that many are drawn; 3,000 take 5 s of one core.
    Raises VtjaxError when there are fewer than 10.
    """
    if len(items) < 10:
        raise VtjaxError(f"the text-only control needs 10 or more training items of several events, got {len(items)}")
    shuffled = [items[i] for i in np.random.default_rng(seed).permutation(len(items))[:most]]
    cut = max(1, round(held_out * len(shuffled)))
    rest, fit_on = shuffled[:cut], shuffled[cut:]
    rest_gaps, gaps = order_gaps(rest), order_gaps(fit_on)
    texts = [item.text() for item in fit_on]
    candidates: dict[str, Any] = {name: NGramPrior.fit(texts, n) for name, n in _ORDERS.items()}
    candidates |= dict(zip(_PENALTIES, PairwisePrior.fit_on(gaps, tuple(_PENALTIES.values())), strict=True))
    orders = choose_orders(rest, seed)
    accuracy = {}
    for name, prior in candidates.items():
        right = [prior.score(i.events) > prior.score([i.events[e] for e in orders[i.key]]) for i in rest]
        accuracy[name] = 100 * float(np.mean(right))
    best = max(accuracy, key=accuracy.__getitem__)
    if best in _ORDERS:
        refitted: Any = NGramPrior.fit([item.text() for item in shuffled], _ORDERS[best])
    else:
        (refitted,) = PairwisePrior.fit_on(rest_gaps + gaps, (_PENALTIES[best],))
    return BlindScorer(best, refitted, accuracy)
