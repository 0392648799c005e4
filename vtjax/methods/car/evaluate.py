"""CAR's evaluations: the four retrieval protocols, distractors, CAR in every form, and the blind controls."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import pathlib
from typing import Any

import numpy as np

from vtjax.errors import Problems
from vtjax.evals import retrieval
from vtjax.evals.embed import cosines
from vtjax.evals.protocol import Result
from vtjax.files import write_atomically
from vtjax.methods.car import blind, data, orders
from vtjax.methods.car import order_test as car
from vtjax.methods.car.config import CarConfig
from vtjax.methods.car.embed import Embedder

_DIRECTIONS = ("t2m", "m2t")
_BLIND_ITEMS = 3000  # training items of the text-only control


@dataclasses.dataclass
class TestSet:
    """Clips of a split, their first captions, and the items of the order test with one wrong order each.

    texts: positive texts by config.loss.positive_text. problems: captions left out of the order test, counted.
    """

    clips: list[Any]
    texts: list[str]
    items: list[orders.OrderItem]
    orders: dict[str, tuple[int, ...]]
    problems: Problems

    @property
    def keys(self) -> list[str]:
        return [clip.key for clip in self.clips]


def test_set(clips: data.Clips, config: CarConfig) -> TestSet:
    """Every clip of `clips` with its first caption, as TMR evaluates."""
    records = [clips[i][1] for i in range(len(clips))]
    captions = [clip.captions[0] for clip in records]
    problems = Problems()
    events = [data.events_of(c) for c in captions]
    items = orders.order_items([c.key for c in records], events, [c.text for c in captions], problems)
    texts = [data.positive_text(c, config.loss.positive_text) for c in captions]
    chosen = orders.choose_orders(items, legacy=config.quirks.legacy_orders)
    return TestSet(records, texts, items, chosen, problems)


def _motions(embedder: Embedder, params: dict, tests: TestSet) -> np.ndarray:
    segments = []
    for clip in tests.clips:
        begin, end = data.caption_rows(clip.captions[0], len(clip.features))
        segments.append(clip.features[begin:end])
    return embedder.motions(params, segments)


def quick_results(embedder: Embedder, clips: data.Clips, params: dict) -> list[Result]:
    """While training: retrieval over all validation clips and in batches of 32, and the 2-way CAR."""
    rounded = embedder.config.quirks.round_validation
    tests = test_set(clips, embedder.config)
    motions = _motions(embedder, params, tests)
    table = cosines(embedder.texts(params, tests.texts, keep=True), motions)
    results = retrieval.evaluate_retrieval(table, tests.keys, directions=_DIRECTIONS, rounded=rounded)
    if tests.items:
        embed = functools.partial(embedder.texts, params, keep=True)
        results.append(car.score_orders(tests.items, motions, embed, tests.orders).result())
    return results


def full_results(
    embedder: Embedder,
    params: dict,
    clips: data.Clips,
    train: data.Clips | None = None,
    subset: list[str] | None = None,
    order_file: pathlib.Path | None = None,
    cache: pathlib.Path | None = None,
) -> list[Result]:
    """Every protocol of the sheet (sections 3.6, 3.7, 4.3) and those beyond it (11.1, 11.2).

    train: training clips for the blind controls, left out where None. subset: keys of the dissimilar subset (nsim).
    order_file: the wrong orders are read from it where it exists, else written to it.
    cache: folder where the text prior's scores are kept, as all models on the same data share them.
    """
    config = embedder.config
    tests = test_set(clips, config)
    if order_file is not None and tests.items:
        if order_file.exists():
            tests.orders = orders.load_orders(order_file, tests.items)
        else:
            orders.save_orders(order_file, tests.items, tests.orders)
    motions = _motions(embedder, params, tests)
    embed = functools.partial(embedder.texts, params, keep=True)
    table = cosines(embed(tests.texts), motions)
    wrong = [item.text(tests.orders[item.key]) for item in tests.items]
    masks_of = [tests.texts[item.row] for item in tests.items] if config.quirks.original_length_mask else None
    sentence = None
    if config.loss.filter != "none":
        sentence = data.sentence_embeddings([clip.captions[0] for clip in tests.clips], config)
    results = retrieval.evaluate_retrieval(
        table, tests.keys, directions=_DIRECTIONS, sentence=sentence, dissimilar=subset,
        shuffled=cosines(embed(wrong, masks_of=masks_of), motions) if wrong else None,
    )  # fmt: skip
    if tests.items:
        results += _order_results(embedder, params, tests, motions, train, cache)
    return results


def _order_results(
    embedder: Embedder,
    params: dict,
    tests: TestSet,
    motions: np.ndarray,
    train: data.Clips | None,
    cache: pathlib.Path | None,
) -> list[Result]:
    embed = functools.partial(embedder.texts, params, keep=True)
    results = []
    for mode in ("events", "caption"):
        results.append(car.score_orders(tests.items, motions, embed, tests.orders, mode).result())
    results += car.exact_car(tests.items, motions, embed)
    swapped = [item for item in tests.items if tests.clips[item.row].swapped is not None]
    if swapped:
        texts = embed([item.text() for item in swapped])
        other = embedder.motions(params, [tests.clips[item.row].swapped for item in swapped])
        rows = motions[[item.row for item in swapped]]
        results.append(car.motion_car(texts, rows, other, [item.key for item in swapped]))
    if train is not None:
        results += _blind_results(embedder, params, tests, motions, train, cache)
    return results


def _blind_results(
    embedder: Embedder, params: dict, tests: TestSet, motions: np.ndarray, train: data.Clips, cache: pathlib.Path | None
) -> list[Result]:
    """What text alone gives away: the best text prior of the training captions, and the model given a mean motion."""
    embed = functools.partial(embedder.texts, params, keep=True)
    same = np.repeat(motions.mean(0, keepdims=True), len(motions), axis=0)
    mean = car.score_orders(tests.items, same, embed, tests.orders)
    results = [dataclasses.replace(mean, protocol="car/blind/model with the mean motion").result()]
    items = tests.items
    true, wrong = _prior_scores(tests, train, cache)
    if true is not None:
        results.append(car.accuracy(true, wrong, "car/blind/text prior", [i.key for i in items], (_PRIOR_NOTE,)))
    return results


_PRIOR_NOTE = "the best text prior, chosen on held-out training items"


def _prior_scores(
    tests: TestSet, train: data.Clips, cache: pathlib.Path | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Scores of the true and the wrong orders by the text prior, (None, None) where too little is there to fit it."""
    shown = [[item.events, tests.orders[item.key]] for item in tests.items]
    digest = hashlib.sha256(json.dumps([train.store.fingerprint, train.indices, shown]).encode()).hexdigest()[:16]
    kept = None if cache is None else cache / f"text-prior-{digest}.npz"
    if kept is not None and kept.exists():
        with np.load(kept) as scores:
            return scores["true"], scores["wrong"]
    captions = [captions[0] for captions in train.captions()[:_BLIND_ITEMS]]
    fit_on = orders.order_items([str(i) for i in range(len(captions))], [data.events_of(c) for c in captions])
    if len(fit_on) < 10:
        return None, None
    scores = car.score_blind(tests.items, blind.fit_blind(fit_on).scores, tests.orders)
    true, wrong = scores.true, scores.wrong
    if kept is not None:
        buffer = io.BytesIO()
        np.savez(buffer, true=true, wrong=wrong)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, buffer.getvalue())
    return true, wrong


def evaluate(run: Any, *, split: str = "", blind_controls: bool = True) -> list[Result]:
    """Scores every protocol on a split of the run's data.

    Args:
      split: default its test split.
      blind_controls: also what text alone gives away.

    Raises:
      VtjaxError: unknown split, missing data or checkpoint.
    """
    model, config = run.model, run.experiment.method
    store, name = model.store, split or config.data.test_split
    subset = "nsim_test" if "nsim_test" in store.meta.get("subsets", {}) else None
    return full_results(
        model.embedder,
        run.params,
        model.clips(name),
        model.clips(config.data.train_split) if blind_controls else None,
        [store.keys[i] for i in store.split(subset)] if subset else None,
        run.work / f"orders-{'legacy-' if config.quirks.legacy_orders else ''}{name}.json",
        model.cache,
    )
