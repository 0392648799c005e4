"""A parser that fails on tags that do not nest."""

import html.parser

VOID = {"meta", "img", "br"}
SHAPES = {"animate", "polyline", "polygon", "ellipse", "line", "circle", "rect"}


class PageReader(html.parser.HTMLParser):
    """Tags, attributes and text of a page; raises AssertionError where tags do not close in order."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(page)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data
