"""The report of a CAR training run, and of one query over motions or texts."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from vtjax.errors import Problems
from vtjax.evals.protocol import Result
from vtjax.methods.car.skeleton import animation_svg, filmstrip_svg
from vtjax.report.curves import draw_curves, read_metrics
from vtjax.report.html import Markup, Page, element, join
from vtjax.report.style import event_colour
from vtjax.report.tables import car_table, results_table


@dataclasses.dataclass(frozen=True)
class Match:
    """One ranked answer. name: its key or file; score: cosine; text: its caption, or the text itself.

    motion: joints [T, 22, 3] or features [T, 263], drawn when given; bounds, events: its event ranges and their names.
    right: whether it is the true answer.
    """

    name: str
    score: float
    text: str = ""
    motion: np.ndarray | None = None
    bounds: Sequence[tuple[int, int]] = ()
    events: Sequence[str] = ()
    right: bool = False


@dataclasses.dataclass(frozen=True)
class Query:
    """What was asked: a text, or a motion (name and, to draw it, `motion`)."""

    text: str = ""
    name: str = ""
    motion: np.ndarray | None = None
    bounds: Sequence[tuple[int, int]] = ()
    events: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Example:
    """A worked example: a query, its best matches, and its true motion's scores for the orders of its events.

    orders: (order, cosine) pairs, each order a permutation of query.events, the true one among them.
    """

    query: Query
    matches: Sequence[Match] = ()
    orders: Sequence[tuple[Sequence[int], float]] = ()


LEGEND = join(
    [
        "Left limbs are ",
        element("b", "blue", style="color:var(--left)"),
        ", right limbs ",
        element("b", "orange", style="color:var(--right)"),
        "; time runs to the right; each pose is centred, and the path from above shows where the body went.",
    ]
)


def motion_view(motion: np.ndarray, bounds=(), events=(), poses: int = 11, play: bool = True) -> Markup:
    """A filmstrip with the moving figure beside it."""
    film = element("div", filmstrip_svg(motion, poses, bounds, events), cls="film")
    moving = element("div", animation_svg(motion), cls="play") if play else ""
    return element("div", moving, film, cls="motion")


def ranked_list(matches: Sequence[Match], play: bool = False) -> Markup:
    """Numbered answers with scores and, where known, motions."""
    rows = []
    for place, match in enumerate(matches, 1):
        head = [element("span", match.name, cls="name") if match.name else ""]
        head += [element("span", match.text, cls="words") if match.text else ""]
        head += [element("span", "true answer", cls="tag") if match.right else "", _score(match.score)]
        body = [element("div", *head, cls="head")]
        if match.motion is not None:
            body.append(motion_view(match.motion, match.bounds, match.events, play=play))
        cls = "rank right" if match.right else "rank"
        rows.append(element("div", element("div", place, cls="place"), element("div", *body), cls=cls))
    return join(rows)


def _score(score: float) -> Markup:
    width = f"width:{100 * min(1.0, max(0.0, score)):.0f}%"
    return element("span", element("i", element("b", style=width)), f"{score:.3f}", cls="score", title="cosine")


def order_list(events: Sequence[str], orders: Sequence[tuple[Sequence[int], float]]) -> Markup:
    """Orders of the same events by falling score, each event in its own colour; the verdict is strict, as CAR's is."""
    truth = [score for order, score in orders if list(order) == sorted(order)]
    rivals = [score for order, score in orders if list(order) != sorted(order)]
    rows = []
    for order, score in sorted(orders, key=lambda pair: -pair[1]):
        chips = (element("span", events[i], cls="chip", style=f"border-left-color:{event_colour(i)}") for i in order)
        is_true = list(order) == sorted(order)
        verdict = element("div", "true order" if is_true else "shuffled", cls="verdict")
        content = (verdict, element("div", *chips, cls="events"), _score(score))
        rows.append(element("div", *content, cls="order true" if is_true else "order"))
    if truth and rivals:
        right = truth[0] > max(rivals)
        text = "The true order scores highest." if right else "A shuffled order scores as high as the true one."
        rows.append(element("p", text, cls="good" if right else "bad"))
    return join(rows)


def example_card(example: Example) -> Markup:
    query = example.query
    parts = [element("p", query.text or query.name, cls="query")]
    if query.motion is not None:
        parts.append(element("p", f"True motion {query.name}".strip(), cls="legend"))
        parts.append(motion_view(query.motion, query.bounds, query.events))
    if example.orders:
        parts += [element("h3", "Does the motion prefer the true order?"), order_list(query.events, example.orders)]
    if example.matches:
        parts += [element("h3", f"Best {len(example.matches)} motions for this text"), ranked_list(example.matches)]
    return element("div", *parts, cls="card")


_TILES = {  # protocol: (metric, label, a word on the protocol)
    "car/2-way/event-to-event": ("CAR", "CAR, event to event", ""),
    "car/all orders/any number of events": ("CAR", "CAR over all orders", ""),
    "retrieval/batches of 32/t2m": ("R@1", "Text to motion, R@1", " in batches of 32"),
    "retrieval/batches of 32/m2t": ("R@1", "Motion to text, R@1", " in batches of 32"),
}


def _headline(results: Sequence[Result]) -> list[tuple[str, str, str]]:
    by_name = {result.protocol: result for result in results}
    chosen = [(by_name[protocol], *tile) for protocol, tile in _TILES.items() if protocol in by_name]
    blind = [result for result in results if result.protocol.startswith("car/blind/")]
    chosen += [(result, "CAR", "CAR from text alone", "") for result in blind[:1]]
    tiles = []
    for result, metric, label, word in chosen:
        low, high = result.interval[metric]
        detail = f"95 %: {low:.1f}\u2013{high:.1f}\nchance {result.chance[metric]:.3g} %\n{result.items:,} items{word}"
        tiles.append((label, f"{result.metrics[metric]:.1f} %", detail))
    return tiles


def training_report(
    work_directory: os.PathLike | str,
    results: Sequence[Result],
    examples: Sequence[Example] = (),
    *,
    title: str = "Chronologically accurate retrieval",
    subtitle: str = "",
    facts: Mapping[str, object] | None = None,
    remarks: Sequence[str] = (),
    path: os.PathLike | str | None = None,
) -> pathlib.Path:
    """Writes the report of a run: headline figures, CAR and retrieval tables, curves, examples; returns its path.

    Curves come from every metrics.jsonl under the work directory. remarks: what a reader must know, such as items left
    out. path: default report.html in the work directory. Raises VtjaxError when it cannot be written.
    """
    work = pathlib.Path(work_directory)
    page = Page(title, subtitle, facts)
    page.headline(_headline(results))
    for remark in remarks:
        page.text(remark, cls="lead")
    orders = [result for result in results if "CAR" in result.metrics]
    rest = [result for result in results if "CAR" not in result.metrics]
    if orders:
        lead = "Does the model score the true order of events strictly above a wrong one? A tie counts as wrong."
        page.section("Order of events", lead).add(car_table(orders))
    if rest:
        lead = "In percent, and the median rank counted from 1; below each, its 95 % interval and what guessing gives."
        page.section("Retrieval", lead).add(results_table(rest))
    _add_curves(page, work)
    if examples:
        page.section("Worked examples").text(LEGEND, cls="legend").add(*map(example_card, examples))
    return page.save(path if path is not None else work / "report.html")


def _add_curves(page: Page, work: pathlib.Path) -> None:
    drawings, problems = [], Problems()
    for file in sorted(work.rglob("metrics.jsonl")):
        drawing, left_out = draw_curves(read_metrics(file, problems))
        if drawing:
            more = f"Not drawn: {', '.join(left_out)}." if left_out else ""
            drawings.append((drawing, file.parent.relative_to(work).as_posix(), more))
    if drawings:
        page.section("Training", "By step. Training figures are faint as measured and bold as a running mean.")
        for drawing, stage, more in drawings:
            caption = f"Stage {stage}. {more}" if len(drawings) > 1 else more
            page.figure(drawing, caption.strip(), "training and evaluation curves by step")
    if len(problems):
        page.text(problems.report(), cls="legend")


def query_report(
    path: os.PathLike | str,
    query: Query | str,
    ranked: Sequence[Match],
    *,
    title: str = "",
    facts: Mapping[str, object] | None = None,
    remarks: Sequence[str] = (),
) -> pathlib.Path:
    """Writes the report of one query: a text over motions, or a motion over texts. Returns the path.

    ranked: best first. Raises VtjaxError when the file cannot be written.
    """
    query = Query(text=query) if isinstance(query, str) else query
    asked = query.text or query.name or "Motion query"
    drawn = any(match.motion is not None for match in ranked)
    kind = "Text query" if query.text else "Motion query"
    page = Page(title or asked, f"{kind}, ranked by cosine similarity", facts)
    for remark in remarks:
        page.text(remark, cls="lead")
    if query.motion is not None:
        page.section("The motion").add(motion_view(query.motion, query.bounds, query.events))
    page.section(f"{len(ranked)} best answers" if len(ranked) != 1 else "The best answer")
    if drawn or query.motion is not None:
        page.text(LEGEND, cls="legend")
    page.add(ranked_list(ranked, play=True))
    return page.save(path)
