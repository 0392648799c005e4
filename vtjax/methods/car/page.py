"""The report of a CAR run: tables, curves, and worked examples from the test split with pictures."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from vtjax.evals.embed import cosines
from vtjax.evals.protocol import Result
from vtjax.methods.car import cards, data
from vtjax.methods.car.embed import Embedder
from vtjax.methods.car.evaluate import test_set
from vtjax.methods.car.predict import best, match_of
from vtjax.report.page import Page, Tile
from vtjax.report.tables import rate_table
from vtjax.text.shuffle import all_orders, ordered_text

_EXAMPLES = 4
_GALLERY = 256  # test motions that the examples search
_SHOWN_ORDERS = 6


_TILES = (
    Tile("car/2-way/event-to-event", "CAR", "CAR, event to event"),
    Tile("car/all orders/any number of events", "CAR", "CAR over all orders"),
    Tile("retrieval/batches of 32/t2m", "R@1", "Text to motion, R@1", "items in batches of 32"),
    Tile("retrieval/batches of 32/m2t", "R@1", "Motion to text, R@1", "items in batches of 32"),
)


def page(run: Any, results: Sequence[Result]) -> Page:
    """The report of a run: headline figures, CAR and retrieval tables, curves, examples."""
    config, model, train = run.experiment.method, run.model, run.experiment.train
    store = model.store
    tests = test_set(data.split_clips(store, config.data.test_split, _GALLERY), config)
    source = "the embedded motion world" if config.data.source == "world" else f"prepared motions {store.path.name}"
    facts = {
        "data": f"{source}, {len(store.split(config.data.train_split))} training clips",
        "fingerprint": store.fingerprint[:16],
        "steps": train.steps,
        "batch": train.batch_size,
        "negatives": f"{config.loss.text_negatives} text, {config.loss.motion_negatives} motion",
        "seed": run.experiment.seed,
    }
    examples = worked_examples(model.embedder, run.params, tests)
    remarks = [tests.problems.report()] if len(tests.problems) else []
    return report(run.work, results, examples, facts, remarks)


def report(
    work: pathlib.Path,
    results: Sequence[Result],
    examples: Sequence[cards.Example] = (),
    facts: Mapping[str, object] | None = None,
    remarks: Sequence[str] = (),
) -> Page:
    """Lays out the report of a work directory. remarks: what a reader must know, such as items left out."""
    blind = [r.protocol for r in results if r.protocol.startswith("car/blind/")][:1]
    tiles = (*_TILES, *(Tile(protocol, "CAR", "CAR from text alone") for protocol in blind))
    page = Page("Chronologically accurate retrieval", "", facts).tiles(results, tiles, len(tiles))
    for remark in remarks:
        page.text(remark, cls="lead")
    orders = [result for result in results if "CAR" in result.metrics]
    rest = [result for result in results if "CAR" not in result.metrics]
    if orders:
        lead = "Does the model score the true order of events strictly above a wrong one? A tie counts as wrong."
        page.section("Order of events", lead).add(rate_table(orders, "CAR"))
    if rest:
        lead = "In percent, and the median rank counted from 1; below each, its 95 % interval and what guessing gives."
        page.section("Retrieval", lead).table(rest)
    page.curves(work)
    if examples:
        page.section("Worked examples").text(cards.LEGEND, cls="legend").add(*map(cards.example_card, examples))
    return page


def worked_examples(embedder: Embedder, params: dict, tests: Any) -> list[cards.Example]:
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
        scores = cosines(embedder.texts(params, [text]), motions)[0]
        matches = [match_of(tests.clips[i], float(scores[i]), bool(i == item.row)) for i in best(scores, 5)]
        orders = [tuple(range(len(item.events))), *(all_orders(item.events)[:_SHOWN_ORDERS])]
        texts = [ordered_text(item.events, order) for order in orders]
        preferences = cosines(embedder.texts(params, texts), motions[item.row : item.row + 1])[:, 0]
        query = cards.Query(text, clip.key, clip.features, clip.bounds, item.events)
        examples.append(cards.Example(query, matches, list(zip(orders, map(float, preferences), strict=True))))
    return examples
