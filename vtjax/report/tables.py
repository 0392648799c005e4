"""Evaluation results as HTML tables; for a terminal, see vtjax.evals.protocol.format_table."""

from __future__ import annotations

from collections.abc import Sequence

from vtjax.evals.protocol import Result, families, format_interval
from vtjax.report.markup import Markup, element, join
from vtjax.report.style import colour

_DIRECTIONS = {"t2m": "text to motion", "m2t": "motion to text", "t2v": "text to video", "v2t": "video to text"}


_GROUPS = {
    "retrieval/all": "one right answer among all items",
    "retrieval/threshold": "captions that mean the same also count",
    "retrieval/dissimilar": "a subset of texts unlike each other",
    "retrieval/batches of 32": "galleries of 32, averaged",
    "retrieval/all with distractors": "shuffled texts join the gallery",
    "car/2-way": "the true order against one wrong order",
    "car/all orders": "the true order against every wrong one",
    "car/blind": "scored from the text alone, without the motion",
}


def _group_row(group: str, columns: int) -> Markup:
    meaning = element("span", _GROUPS[group], cls="meaning") if group in _GROUPS else ""
    return element("tr", element("td", group, meaning, colspan=columns), cls="group")


def _split(protocol: str) -> tuple[str, str]:
    """("retrieval/all", "text to motion"): what a group of rows shares, and the row's own name."""
    group, _, row = protocol.rpartition("/")
    return group, _DIRECTIONS.get(row, row)


def results_table(results: Sequence[Result]) -> Markup:
    """One table per set of metrics: each figure with its interval and chance level below, then the notes."""
    return join(_family(family) for family in families(results))


def _family(family: list[Result]) -> Markup:
    names = list(family[0].metrics)
    head = [element("th", "Protocol", scope="col"), element("th", "Items", cls="number", scope="col")]
    head += [element("th", name, cls="number", scope="col") for name in names]
    rows, before = [], None
    for result in family:
        group, row = _split(result.protocol)
        if group and group != before:
            rows.append(_group_row(group, len(head)))
        before = group
        cells = [element("td", row, element("small", "95 % interval"), element("small", "chance"))]
        cells.append(element("td", f"{result.items:,}", cls="number"))
        cells += [_cell(result, name) for name in names]
        rows.append(element("tr", *cells))
    table = element("table", element("thead", element("tr", *head)), element("tbody", *rows))
    return join([element("div", table, cls="scroll"), notes(family)])


def _cell(result: Result, name: str) -> Markup:
    interval = format_interval(*result.interval[name]).replace("-", "\u2013")
    small = (element("small", interval), element("small", f"{result.chance[name]:.2f}"))
    return element("td", f"{result.metrics[name]:.2f}", *small, cls="number")


def notes(results: Sequence[Result]) -> Markup:
    """The results' notes, each once, with the protocols it belongs to."""
    owners: dict[str, list[str]] = {}
    for result in results:
        for note in result.notes:
            owners.setdefault(note, []).append(result.protocol)
    if not owners:
        return Markup("")

    def line(note: str) -> Markup:
        name = "all protocols" if len(owners[note]) == len(results) > 1 else ", ".join(owners[note])
        return element("li", element("b", f"{name}: "), note)

    return element("ul", *map(line, owners), cls="notes")


_MEANING = {"first": "true order first of all"}


def rate_table(results: Sequence[Result], metric: str) -> Markup:
    """Rates in percent as dots on one scale with their intervals, chance marked: one row per result that has `metric`.

    A further metric of a result, such as the share of items whose true order comes first, is given in words.
    """
    rows, before = [], None
    shown = [result for result in results if metric in result.metrics]
    for result in shown:
        group, row = _split(result.protocol)
        if group != before:
            rows.append(_group_row(group, 4))
        before = group
        others = [element("small", _in_words(result, name)) for name in result.metrics if name != metric]
        value, chance = result.metrics[metric], result.chance[metric]
        cells = [element("td", row, *others, cls="wide"), element("td", f"{result.items:,}", cls="number")]
        small = element("small", f"{_dash(result, metric)}, chance {chance:g}")
        cells.append(element("td", f"{value:.1f} %", small, cls="number"))
        cells.append(element("td", _whisker(value, result.interval[metric], chance), cls="plot"))
        rows.append(element("tr", *cells))
    head = [element("th", "Test", scope="col"), element("th", "Items", cls="number", scope="col")]
    head.append(element("th", f"{metric}, 95 % interval", cls="number", scope="col"))
    head.append(element("th", _AXIS, cls="plot", scope="col"))
    table = element("table", element("thead", element("tr", *head)), element("tbody", *rows))
    return join([element("div", table, cls="scroll"), notes(shown)])


def _in_words(result: Result, name: str) -> str:
    value, chance = result.metrics[name], result.chance[name]
    return f"{_MEANING.get(name, name)}: {value:.1f} % ({_dash(result, name)}), chance {chance:.1f} %"


def _dash(result: Result, name: str) -> str:
    return format_interval(*result.interval[name]).replace("-", "\u2013")


def _x(percent: float) -> float:
    return round(12 + 3.36 * percent, 1)


_AXIS = Markup(
    '<svg viewBox="0 0 360 14" width="360" height="14" aria-hidden="true" font-size="11" text-anchor="middle" '
    f'fill="{colour("muted")}">'
    + "".join(f'<text x="{_x(p)}" y="11">{p}</text>' for p in (0, 25, 50, 75, 100))
    + "</svg>"
)


def _whisker(value: float, interval: tuple[float, float], chance: float) -> Markup:
    """A 0 to 100 scale: chance as a tick, the interval as a bar, the value as a dot."""
    low, high = interval
    tint = colour("accent") if low > chance else colour("bad") if high < chance else colour("muted")
    return Markup(
        '<svg viewBox="0 0 360 22" width="360" height="22" role="img" aria-label="'
        f'{value:.1f} percent"><line x1="{_x(0)}" x2="{_x(100)}" y1="11" y2="11" stroke="{colour("line")}"/>'
        f'<line x1="{_x(chance)}" x2="{_x(chance)}" y1="2" y2="20" stroke="{colour("muted")}" stroke-dasharray="2 2"/>'
        f'<line x1="{_x(low)}" x2="{_x(high)}" y1="11" y2="11" stroke="{tint}" stroke-width="6" opacity=".35" '
        f'stroke-linecap="round"/><circle cx="{_x(value)}" cy="11" r="4.5" fill="{tint}"/></svg>'
    )
