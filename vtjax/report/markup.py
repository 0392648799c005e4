"""HTML that cannot be broken: everything that is not ours is escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

from vtjax.errors import VtjaxError


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


def plain_table(header: Sequence[object], rows: Sequence[Sequence[object]], caption: str = "") -> Markup:
    """A <table>; numbers are set to the right, floats with four significant digits."""

    def cell(value: object) -> Markup:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return element("td", f"{value:.4g}" if isinstance(value, float) else value, cls="number")
        return element("td", value)

    numeric = [bool(rows) and all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(header))]
    kinds = ["number" if n else None for n in numeric]
    titles = (element("th", h, cls=kind, scope="col") for h, kind in zip(header, kinds, strict=True))
    head = element("tr", *titles)
    body = element("tbody", *(element("tr", *map(cell, row)) for row in rows))
    title = element("caption", caption) if caption else ""
    return element("div", element("table", title, element("thead", head), body), cls="scroll")


def score_bar(cosine: float) -> Markup:
    """A cosine as a bar, empty at 0 and below, and as a number."""
    width = f"width:{100 * min(1.0, max(0.0, cosine)):.0f}%"
    return element("span", element("i", element("b", style=width)), f"{cosine:.3f}", cls="score", title="cosine")


def ranked(place: int, cosine: float, head: Sequence[object], view: object = "", right: bool = False) -> Markup:
    """One numbered answer: what names it, its score, and below them what it looks like. right: is the true one."""
    body = element("div", element("div", *head, score_bar(cosine), cls="head"), view)
    return element("div", element("div", place, cls="place"), body, cls="rank right" if right else "rank")
