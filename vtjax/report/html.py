"""One self-contained HTML page: no script, no outside resource, everything that is not ours escaped.

Light and dark follow the reader's system; print leaves out the navigation and whatever moves.
"""

from __future__ import annotations

import base64
import html
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

from vtjax.errors import VtjaxError
from vtjax.evals.protocol import Result
from vtjax.files import write_atomically
from vtjax.report.style import STYLE


class Markup(str):
    """Text that is HTML already. Whatever else reaches a page is escaped."""


def escape(value: object) -> Markup:
    return value if isinstance(value, Markup) else Markup(html.escape(str(value), quote=True))


def join(parts: Iterable[object]) -> Markup:
    return Markup("".join(escape(part) for part in parts))


def element(name: str, *children: object, **attributes: object) -> Markup:
    """`element("td", 3, cls="number")` -> <td class="number">3</td>; attributes that are None are left out."""
    listed = "".join(
        f' {"class" if key == "cls" else key.replace("_", "-")}="{html.escape(str(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{listed}>{join(children)}</{name}>")


def image(content: bytes | str, alt: str = "") -> Markup:
    """A picture carried in the page: PNG or GIF bytes, SVG text (as an image, so that it can run nothing), or Markup.

    Raises VtjaxError for content of another kind.
    """
    if isinstance(content, Markup):
        return content
    data = content.encode() if isinstance(content, str) else bytes(content)
    head = data[:400].lstrip()
    if head.startswith(b"\x89PNG"):
        kind = "png"
    elif head.startswith(b"GIF8"):
        kind = "gif"
    elif head.startswith((b"<svg", b"<?xml", b"<!DOCTYPE svg")):
        kind = "svg+xml"
    else:
        raise VtjaxError(f"a figure must be PNG, GIF or SVG, but starts with {data[:12]!r}")
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Markup(f'<img src="{source}" alt="{html.escape(alt, quote=True)}">')


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

    def headline(self, tiles: Sequence[tuple[str, str, str]]) -> Page:
        """Large figures: (label, value, what to compare it with)."""
        boxes = (
            element("div", element("span", label, cls="label"), element("strong", value), element("span", detail))
            for label, value, detail in tiles
        )
        return self.add(element("div", *boxes, cls="tiles"))

    def table(self, results: Sequence[Result]) -> Page:
        """Evaluation results: figures with protocol, item count, interval and chance level."""
        from vtjax.report.tables import results_table

        return self.add(results_table(results))

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


def plain_table(header: Sequence[object], rows: Sequence[Sequence[object]], caption: str = "") -> Markup:
    """A <table>; numbers are set to the right, floats with four significant digits."""

    def cell(value: object) -> Markup:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return element("td", f"{value:.4g}" if isinstance(value, float) else value, cls="number")
        return element("td", value)

    numeric = [bool(rows) and all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(header))]
    head = element("tr", *(element("th", h, cls="number" if n else None, scope="col") for h, n in zip(header, numeric)))
    body = element("tbody", *(element("tr", *map(cell, row)) for row in rows))
    title = element("caption", caption) if caption else ""
    return element("div", element("table", title, element("thead", head), body), cls="scroll")
