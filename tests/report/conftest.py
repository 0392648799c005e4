"""A parser that fails on tags that do not nest, and a walking figure to draw."""

import html.parser

import numpy as np
import pytest

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


@pytest.fixture
def read_page():
    return PageReader


@pytest.fixture
def walker():
    """float [T, 22, 3]: a standing figure that moves forward (+Z) at 1 m/s, swinging its left wrist forward."""

    def build(frames=41, speed=1.0):
        from vtjax.data.motion.skeleton import REST_DIRECTIONS, TARGET_BONE_LENGTHS, joints_from

        bones = REST_DIRECTIONS * TARGET_BONE_LENGTHS[:, None]
        pose = joints_from(np.zeros(3, np.float32), bones)
        joints = np.repeat((pose - [0, pose[:, 1].min(), 0])[None], frames, axis=0)
        seconds = np.arange(frames) / 20
        joints[:, :, 2] += (speed * seconds)[:, None]
        joints[:, 20, 2] += 0.3 * np.sin(3 * seconds)
        return joints

    return build
