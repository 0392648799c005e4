import base64
import re

import pytest

from vtjax.errors import VtjaxError
from vtjax.evals.protocol import Result
from vtjax.report import markup as html
from vtjax.report import style
from vtjax.report.markup import Markup
from vtjax.report.page import Page

EVIL = "<script>alert(\"x\")</script> & 'y'"
RESULT = Result("retrieval/all/t2m", {"R@1": 12.5}, 1234, {"R@1": 3.125}, {"R@1": (4.0, 31.26)}, (EVIL,))


def test_everything_from_outside_is_escaped(read_page):
    page = Page(EVIL, EVIL, {EVIL: EVIL})
    page.section(EVIL, EVIL).text(EVIL).add(EVIL).headline([(EVIL, EVIL, EVIL)]).table([RESULT])
    page.grid([EVIL], [[EVIL]], EVIL).figure(b"\x89PNG....", EVIL, EVIL)
    read = read_page(page.html())
    assert "script" not in read.tags
    # title twice; subtitle; fact 2; section 2; text; add; headline 3; note; grid 3; figure
    assert read.text.count(EVIL) == 17
    assert ("alt", EVIL) in read.attributes


def test_page_needs_nothing_from_outside(read_page):
    page = Page("t").section("Order of events").text("x").section("Retrieval").table([RESULT])
    text = page.html()
    assert not re.search(r"(src|href|url\()\s*=?\s*[\"']?(https?:)?//", text.replace("http://www.w3.org", ""))
    read = read_page(text)
    assert read.tags.count("section") == 2 and "link" not in read.tags
    links = [value for name, value in read.attributes if name == "href"]
    assert links == ["#s1-order-of-events", "#s2-retrieval"]
    ids = [value for name, value in read.attributes if name == "id"]
    assert ids == [link[1:] for link in links]


def test_results_show_protocol_items_interval_and_chance(read_page):
    text = read_page(Page("t").table([RESULT]).html()).text
    for part in ("retrieval/all", "text to motion", "1,234", "12.50", "4.0–31.3", "3.12"):
        assert part in text, part


def test_images_by_content(read_page):
    png = b"\x89PNG\r\n\x1a\n123"
    assert base64.b64encode(png).decode() in html.image(png)
    vector = "<svg xmlns='x'><script>alert(1)</script></svg>"
    assert "data:image/svg+xml;base64," in html.image(vector) and "script" not in html.image(vector)
    assert "data:image/gif" in html.image(b"GIF89a...")
    assert html.image(Markup("<svg></svg>")) == "<svg></svg>"
    with pytest.raises(VtjaxError, match="PNG, GIF or SVG"):
        html.image(b"JFIF")


def test_plain_table_sets_numbers_right(read_page):
    table = html.plain_table(["name", "value"], [["a", 1.23456], ["b", 7]])
    assert table.count('class="number"') == 3 and "1.235" in table
    assert read_page(table).tags.count("tr") == 3


def test_element_attributes():
    made = html.element("a", "<", cls="x", href='"', aria_label="l", title=None)
    assert made == '<a class="x" href="&quot;" aria-label="l">&lt;</a>'


def test_colours_are_all_defined():
    for used in set(re.findall(r"var\(--([a-z0-9]+)", style.STYLE)):
        assert used in style.COLOURS
    for name, pair in style.COLOURS.items():
        assert all(re.fullmatch("#[0-9a-f]{6}", value) for value in pair), name
    assert style.event_colour(style.EVENTS) == style.event_colour(0)


@pytest.mark.parametrize("which", [0, 1])
def test_text_is_readable_on_its_paper(which):
    """WCAG contrast of text colours on both backgrounds, at least 4.5."""

    def luminance(name):
        channels = [int(style.COLOURS[name][which][i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for text in ("ink", "muted", "accent", "good", "bad"):
        for paper in ("paper", "panel"):
            bright, dark = sorted((luminance(text), luminance(paper)), reverse=True)
            assert (bright + 0.05) / (dark + 0.05) >= 4.5, (text, paper)


def test_save_replaces_the_whole_file(tmp_path):
    path = Page("an old page").save(tmp_path / "deep" / "r.html")
    Page("a new page").save(path)
    assert "a new page" in path.read_text() and "an old page" not in path.read_text()
    assert [p.name for p in path.parent.iterdir()] == ["r.html"]
