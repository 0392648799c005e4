"""What CAR's pages show: ranked motions and texts, orders of events, worked examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from vtjax.methods.car.skeleton import animation_svg, filmstrip_svg
from vtjax.report.markup import Markup, element, join, ranked, score_bar
from vtjax.report.page import Page
from vtjax.report.style import event_colour


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
        head += [element("span", "true answer", cls="tag") if match.right else ""]
        view = "" if match.motion is None else motion_view(match.motion, match.bounds, match.events, play=play)
        rows.append(ranked(place, match.score, head, view, match.right))
    return join(rows)


def order_list(events: Sequence[str], orders: Sequence[tuple[Sequence[int], float]]) -> Markup:
    """Orders of the same events by falling score, each event in its own colour; the verdict is strict, as CAR's is."""
    truth = [score for order, score in orders if list(order) == sorted(order)]
    rivals = [score for order, score in orders if list(order) != sorted(order)]
    rows = []
    for order, score in sorted(orders, key=lambda pair: -pair[1]):
        chips = (element("span", events[i], cls="chip", style=f"border-left-color:{event_colour(i)}") for i in order)
        is_true = list(order) == sorted(order)
        verdict = element("div", "true order" if is_true else "shuffled", cls="verdict")
        content = (verdict, element("div", *chips, cls="events"), score_bar(score))
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


def query_page(query: Query, ranked: Sequence[Match], facts: Mapping[str, object] | None = None) -> Page:
    """The page of one query: a text over motions, or a motion over texts. ranked: best first."""
    drawn = any(match.motion is not None for match in ranked)
    kind = "Text query" if query.text else "Motion query"
    page = Page(query.text or query.name or "Motion query", f"{kind}, ranked by cosine similarity", facts)
    if query.motion is not None:
        page.section("The motion").add(motion_view(query.motion, query.bounds, query.events))
    page.section(f"{len(ranked)} best answers" if len(ranked) != 1 else "The best answer")
    if drawn or query.motion is not None:
        page.text(LEGEND, cls="legend")
    return page.add(ranked_list(ranked, play=True))
