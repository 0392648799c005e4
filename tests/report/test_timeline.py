"""The live timeline: what it shows and leaves out, and that it is valid markup."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from vtjax.errors import VtjaxError
from vtjax.report.timeline import LANES, STEPS, chosen_lanes, draw_timeline, jpeg, small_picture


def test_everything_is_drawn_and_escaped(make, read_page):
    drawing = draw_timeline(make())
    page = read_page(drawing)
    assert page.tags.count("svg") == 1 and page.tags.count("image") == 2
    for word in ("cut", "pour <a>", "stir", "group of the frame", "action (mask)", "held out of training", "truth"):
        assert word in page.text
    assert "<a>" not in drawing and "var(--bad" in drawing
    assert page.tags.count("polyline") == 4  # three lanes and the mask; the background has none


def test_only_what_is_given_is_drawn(make, read_page):
    page = read_page(draw_timeline(make(truth=None, groups=None, meanings=None, mask=None, pictures=())))
    assert "mask" not in page.text and "group" not in page.text and "truth" not in page.text
    assert page.tags.count("polyline") == 3 and "image" not in page.tags


def test_the_truth_stands_where_it_is(make):
    """The bar under a lane spans the frames that show the class, on the same axis as the seconds beneath."""
    drawing = draw_timeline(make())
    left, width = map(float, re.search(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="4"', drawing).groups())
    ticks = {float(s): float(x) for x, s in re.findall(r'<text x="([\d.]+)"[^>]*>(\d+) s</text>', drawing)}
    per_second = (ticks[8] - ticks[2]) / 6
    assert left == pytest.approx(ticks[2] + 0.5 * per_second, abs=0.2)  # frame 10 begins at 2.5 s
    assert width == pytest.approx(2.5 * per_second, abs=0.2)


def test_long_streams_are_wrapped_then_drawn_coarser(make, read_page):
    wrapped = read_page(draw_timeline(make(2 * STEPS + 5)))
    assert wrapped.tags.count("svg") == 3 and "highest of" not in wrapped.text
    coarse = read_page(draw_timeline(make(20 * STEPS)))
    assert coarse.tags.count("svg") == 6 and "highest of 4 steps" in coarse.text
    spike = np.zeros((20 * STEPS, 4))
    spike[1234, 2] = 1  # one step among thousands stays visible
    drawing = draw_timeline(make(20 * STEPS, scores=spike, mask=None))
    heights = [float(y) for y in re.findall(r",([\d.]+)", " ".join(re.findall(r'<polyline points="([^"]+)"', drawing)))]
    assert len(set(heights)) == 4  # the floors of three lanes, and the spike


def test_lanes_are_the_classes_shown_then_the_highest(make):
    names = ("background", *(f"c{i}" for i in range(20)))
    scores = np.zeros((8, 21))
    scores[3, 5:20] = np.arange(15)
    truth = np.zeros((8, 21), int)
    truth[:, 2] = 1
    lanes = chosen_lanes(make(8, names, scores=scores, truth=truth, groups=None, mask=None))
    assert len(lanes) == LANES and 2 in lanes and 0 not in lanes and lanes == sorted(lanes)
    assert set(lanes) - {2} == set(range(9, 20))
    assert "8 classes that are not shown" in draw_timeline(make(8, names, scores=scores, truth=truth))


def test_flat_scores_and_one_step(make, read_page):
    read_page(draw_timeline(make(scores=np.zeros((40, 4)))))
    read_page(draw_timeline(make(1, pictures=())))


def test_pictures_are_small_jpegs():
    frame = np.random.default_rng(0).integers(0, 256, (400, 300, 3), np.uint8)
    assert small_picture(frame).shape == (108, 81, 3) and small_picture(frame[:50]).shape == (50, 300, 3)
    head, _, content = jpeg(frame).partition(",")
    assert head == "data:image/jpeg;base64" and Image.open(io.BytesIO(base64.b64decode(content))).size == (81, 108)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"scores": np.zeros((40, 3))}, "scores has shape"),
        ({"truth": np.zeros((39, 4))}, "truth has shape"),
        ({"mask": np.zeros(41)}, "mask has shape"),
        ({"times": np.zeros(40)}, "rising times"),
    ],
)
def test_wrong_use(make, changes, message):
    with pytest.raises(VtjaxError, match=message):
        make(**changes)
