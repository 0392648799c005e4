"""The report of a CAR run: tables, curves, and worked examples from the test split with pictures."""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

import numpy as np

from vtjax.evals.protocol import Result
from vtjax.methods.car import cards as report
from vtjax.methods.car import data
from vtjax.methods.car.embed import Embedder, open_embedder, similarity
from vtjax.methods.car.evaluate import test_set
from vtjax.text.shuffle import all_orders, ordered_text

_EXAMPLES = 4
_GALLERY = 256  # test motions that the examples search
_SHOWN_ORDERS = 6


def training_report(run: Any, results: list[Result]) -> pathlib.Path:
    """Writes report.html into the run's work directory and returns its path."""
    config = run.experiment.method
    cache = data.cache_of(run.experiment, run.work)
    store = data.open_store(config.data, cache)
    embedder = open_embedder(config, run.work / "assets", cache)
    clips = data.split_clips(store, config.data.test_split, _GALLERY)
    tests = test_set(clips, config)
    source = "the embedded motion world" if config.data.source == "world" else f"prepared motions {store.path.name}"
    facts = {
        "data": f"{source}, {len(store.split(config.data.train_split))} training clips",
        "fingerprint": store.fingerprint[:16],
        "steps": run.experiment.train.steps,
        "batch": run.experiment.train.batch_size,
        "negatives": f"{config.loss.text_negatives} text, {config.loss.motion_negatives} motion",
        "seed": run.experiment.seed,
    }
    remarks = [tests.problems.report()] if len(tests.problems) else []
    examples = worked_examples(embedder, run.params, tests)
    return report.training_report(run.work, results, examples, facts=facts, remarks=remarks)


def worked_examples(embedder: Embedder, params: dict, tests: Any) -> list[report.Example]:
    """Text queries over the test motions, with the scores of every order of the query's events.

    The first test items with two, three and more events are taken, so that a reader sees good and bad alike.
    """
    motions = embedder.motions(params, [clip.features for clip in tests.clips])
    by_size = [[i for i in tests.items if len(i.events) == size] for size in (2, 3, 4, 5)]
    picked = [i for i in itertools.chain.from_iterable(itertools.zip_longest(*by_size)) if i is not None][:_EXAMPLES]
    examples = []
    for item in picked:
        clip = tests.clips[item.row]
        text = tests.texts[item.row]
        scores = similarity(embedder.texts(params, [text]), motions)[0]
        best = np.argsort(-scores, kind="stable")[:5]
        matches = [_match(tests.clips[i], float(scores[i]), right=bool(i == item.row)) for i in best]
        orders = [tuple(range(len(item.events))), *(all_orders(item.events)[:_SHOWN_ORDERS])]
        texts = [ordered_text(item.events, order) for order in orders]
        own = similarity(embedder.texts(params, texts), motions[item.row : item.row + 1])[:, 0]
        query = report.Query(text, clip.key, clip.features, clip.bounds, item.events)
        examples.append(report.Example(query, matches, list(zip(orders, map(float, own), strict=True))))
    return examples


def _match(clip: Any, score: float, right: bool = False) -> report.Match:
    caption = clip.captions[0] if clip.captions else None
    events = caption.events if caption else ()
    return report.Match(clip.key, score, caption.text if caption else "", clip.features, clip.bounds, events, right)
