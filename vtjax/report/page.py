"""One self-contained HTML page: no script, no outside resource, everything that is not ours escaped.

Light and dark follow the reader's system; print leaves out the navigation and whatever moves.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence

from vtjax.errors import Problems
from vtjax.evals.protocol import Result
from vtjax.files import write_atomically
from vtjax.report.curves import draw_curves, read_metrics
from vtjax.report.markup import Markup, element, escape, image, join, plain_table
from vtjax.report.style import STYLE
from vtjax.report.tables import results_table


@dataclasses.dataclass(frozen=True)
class Tile:
    """A large figure at the head of a report.

    Attributes:
      protocol, metric: the result that it shows.
      label: what it is called.
      items: what was scored: "clips", "frames".
      gain: whether it is a difference in points, shown with its sign and without a chance level.
    """

    protocol: str
    metric: str
    label: str
    items: str = "items"
    gain: bool = False

    def of(self, result: Result) -> tuple[str, str, str]:
        """(label, value, details) for `Page.headline`."""
        value, (low, high) = result.metrics[self.metric], result.interval[self.metric]
        shown = f"{value:+.1f}" if self.gain else f"{value:.1f} %"
        chance = "points above" if self.gain else f"chance {result.chance[self.metric]:.3g} %"
        return self.label, shown, f"95 %: {low:.1f}\u2013{high:.1f}\n{chance}\n{result.items:,} {self.items}"


class Page:
    """A page built from top to bottom.

    title: heading and window title. subtitle: one line under it. facts: name -> value, listed beside the title.
    """

    def __init__(self, title: str, subtitle: str = "", facts: Mapping[str, object] | None = None):
        self.title = title
        self._parts: list[Markup] = []
        self._contents: list[tuple[str, str]] = []
        self._open = False
        self._head = join(
            [
                element("h1", title),
                element("p", subtitle, cls="subtitle") if subtitle else "",
                self._facts(facts) if facts else "",
            ]
        )

    @staticmethod
    def _facts(facts: Mapping[str, object]) -> Markup:
        pairs = (element("div", element("dt", name), element("dd", value)) for name, value in facts.items())
        return element("dl", *pairs, cls="facts")

    def add(self, *parts: object) -> Page:
        """Appends content; what is not Markup is escaped."""
        self._parts += [escape(part) for part in parts]
        return self

    def section(self, title: str, lead: str = "") -> Page:
        """Starts a section, which what follows belongs to."""
        self._close()
        anchor = f"s{len(self._contents) + 1}-" + re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        self._contents.append((anchor, title))
        self._open = True
        self._parts.append(Markup(f'<section id="{anchor}">'))
        self.add(element("h2", title))
        return self.text(lead, cls="lead") if lead else self

    def _close(self) -> None:
        if self._open:
            self._parts.append(Markup("</section>"))
            self._open = False

    def text(self, paragraph: object, cls: str | None = None) -> Page:
        return self.add(element("p", paragraph, cls=cls))

    def tiles(self, results: Sequence[Result], tiles: Sequence[Tile], most: int = 4) -> Page:
        """The first `most` of `tiles` whose results are there, as large figures."""
        by_name = {result.protocol: result for result in results}
        return self.headline([t.of(by_name[t.protocol]) for t in tiles if t.protocol in by_name][:most])

    def headline(self, tiles: Sequence[tuple[str, str, str]]) -> Page:
        """Large figures: (label, value, what to compare it with)."""
        boxes = (
            element("div", element("span", label, cls="label"), element("strong", value), element("span", detail))
            for label, value, detail in tiles
        )
        return self.add(element("div", *boxes, cls="tiles"))

    def table(self, results: Sequence[Result]) -> Page:
        """Evaluation results: figures with protocol, item count, interval and chance level."""
        return self.add(results_table(results))

    def tables(self, results: Sequence[Result], sections: Sequence[tuple[str, str, Callable[[str], bool]]]) -> Page:
        """A section with a table for each (title, lead, which protocols belong to it) that has results."""
        for title, lead, belongs in sections:
            chosen = [result for result in results if belongs(result.protocol)]
            if chosen:
                self.section(title, lead).table(chosen)
        return self

    def curves(self, work: pathlib.Path) -> Page:
        """A section with the training curves of every stage of a work directory, where there are some."""
        drawings, problems = [], Problems()
        for file in sorted(work.rglob("metrics.jsonl")):
            drawing, left_out = draw_curves(read_metrics(file, problems))
            if drawing:
                more = f"Not drawn: {', '.join(left_out)}." if left_out else ""
                drawings.append((drawing, file.parent.relative_to(work).as_posix(), more))
        if drawings:
            self.section("Training", "By step. Training figures are faint as measured and bold as a running mean.")
            for drawing, stage, more in drawings:
                caption = f"Stage {stage}. {more}" if len(drawings) > 1 else more
                self.figure(drawing, caption.strip(), "training and evaluation curves by step")
        return self.problems(problems)

    def problems(self, problems: Problems) -> Page:
        """What was left out, counted by reason; nothing where nothing was."""
        return self.text(problems.report(), cls="legend") if len(problems) else self

    def grid(self, header: Sequence[object], rows: Sequence[Sequence[object]], caption: str = "") -> Page:
        """A plain table; cells that are numbers are set to the right."""
        return self.add(plain_table(header, rows, caption))

    def figure(self, content: bytes | str, caption: object = "", alt: str = "") -> Page:
        """A picture (see `image`) with a caption."""
        parts = [image(content, alt or str(caption))]
        if caption:
            parts.append(element("figcaption", caption))
        return self.add(element("figure", *parts))

    def html(self) -> str:
        closing = "</section>" if self._open else ""
        links = (element("a", title, href=f"#{anchor}") for anchor, title in self._contents)
        navigation = element("nav", *links, aria_label="Contents") if len(self._contents) > 1 else ""
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            f"<title>{escape(self.title)}</title><style>{STYLE}</style></head>\n"
            f"<body><header>{self._head}{navigation}</header>\n<main>\n"
            + "\n".join(self._parts)
            + f"{closing}\n</main>\n<footer>Written by vtjax. This file is complete in itself.</footer></body></html>\n"
        )

    def save(self, path: os.PathLike | str) -> pathlib.Path:
        """Writes the page atomically; returns its path. Raises VtjaxError when it cannot be written."""
        return write_atomically(path, self.html())
