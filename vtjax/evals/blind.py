"""Text-only scorers of event order, trained on training texts: what CAR a model could reach without seeing a motion.

Two cheap priors that fail in different ways. The n-gram model knows which words follow which, also across the end of an
event. The pairwise model learns which words belong to earlier and which to later events, which carries "again",
"finally", "gets back up" and scripts of whole events. `fit_blind` keeps the better one on held-out training texts.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np
import scipy.optimize
import scipy.sparse

from vtjax.errors import VtjaxError
from vtjax.evals.orders import OrderItem, choose_orders, wrong_orders

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
        counts, contexts = [collections.Counter() for _ in range(n)], [collections.Counter() for _ in range(n)]
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
                seen = self.contexts[length - 1][gram[:-1]]
                probability += (self.counts[length - 1][gram] + self.k) / (seen + self.k * self.vocabulary)
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
        rng = np.random.default_rng(seed)
        differences = []
        for item in items:
            wrong = list(wrong_orders(item)) if len(item.events) <= 5 else list(choose_orders([item], seed).values())
            true = order_features(item.events)
            for pick in rng.permutation(len(wrong))[:per_item]:
                features = order_features([item.events[i] for i in wrong[pick]])
                keys = true.keys() | features.keys()
                gap = {key: true.get(key, 0.0) - features.get(key, 0.0) for key in keys}
                differences.append({key: value for key, value in gap.items() if value})
        frequency = collections.Counter(key for gap in differences for key in gap)
        kept = sorted(key for key, _ in frequency.most_common(_PAIRS_KEPT))
        index = {key: column for column, key in enumerate(kept)}
        matrix = _matrix(differences, index)

        def objective(w, penalty):
            margin = matrix @ w
            loss = np.logaddexp(0, -margin).mean() + penalty / 2 * (w @ w)
            slope = -np.exp(-np.logaddexp(0, margin)) / len(margin)
            return loss, matrix.T @ slope + penalty * w

        start, limit = np.zeros(len(index)), {"maxiter": 100}
        minimize = scipy.optimize.minimize
        found = [minimize(objective, start, (p,), "L-BFGS-B", jac=True, options=limit).x for p in penalties]
        return [cls(index, weights) for weights in found]

    def score(self, events: Sequence[str]) -> float:
        features = order_features(events)
        return math.fsum(
            value * self.weights[self.index[key]] for key, value in sorted(features.items()) if key in self.index
        )


def order_features(events: Sequence[str]) -> dict[tuple[str, ...], float]:
    """Features of one order of events; they change sign when the order is reversed."""
    features: dict[tuple[str, ...], float] = collections.defaultdict(float)
    bags = [sorted(set(words_of(event))) for event in events]
    whole = [" ".join(words_of(event)) for event in events]
    for place, bag in enumerate(bags):
        for word in bag:
            features["place", word] += place / max(1, len(bags) - 1) - 0.5
    for first in range(len(bags)):
        for second in range(first + 1, len(bags)):
            kinds = ("before", "next") if second == first + 1 else ("before",)
            pairs = [(a, b) for a in bags[first] for b in bags[second]]
            for kind in kinds:
                for a, b in pairs + [(f"[{whole[first]}]", f"[{whole[second]}]")]:
                    if a != b:
                        features[kind, min(a, b), max(a, b)] += 1.0 if a < b else -1.0
    return features


def _matrix(rows: list[dict], index: dict) -> scipy.sparse.csr_matrix:
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


def _ngrams(items: Sequence[OrderItem]) -> dict[str, NGramPrior]:
    texts = [item.text() for item in items]
    return {"bigram": NGramPrior.fit(texts, n=2), "trigram": NGramPrior.fit(texts, n=3)}


def _pairwise(items: Sequence[OrderItem]) -> dict[str, PairwisePrior]:
    return dict(zip(("pairwise", "pairwise, loose"), PairwisePrior.fit(items, (1e-2, 1e-4))))


def fit_blind(items: Sequence[OrderItem], held_out: float = 0.2, seed: int = 0, most: int = 6000) -> BlindScorer:
    """Fits every candidate on part of the training items, keeps the best on the rest, and refits it on all.

    items: training items (never test items); of more than `most`, that many are drawn, which takes about a minute.
    Raises VtjaxError when there are fewer than 10.
    """
    if len(items) < 10:
        raise VtjaxError(f"the text-only control needs 10 or more training items of several events, got {len(items)}")
    shuffled = [items[i] for i in np.random.default_rng(seed).permutation(len(items))[:most]]
    cut = max(1, round(held_out * len(shuffled)))
    rest, fit_on = shuffled[:cut], shuffled[cut:]
    orders = choose_orders(rest, seed)
    accuracy, kinds = {}, {}
    for kind in (_ngrams, _pairwise):
        for name, prior in kind(fit_on).items():
            right = [prior.score(i.events) > prior.score([i.events[e] for e in orders[i.key]]) for i in rest]
            accuracy[name], kinds[name] = 100 * float(np.mean(right)), kind
    best = max(accuracy, key=accuracy.__getitem__)
    return BlindScorer(best, kinds[best](shuffled)[best], accuracy)
