"""The replay: what is shown at which moment, read from the animation as a browser would."""

import re
import xml.etree.ElementTree as xml

import numpy as np
import pytest

from vtjax.report.player import MOST_STEPS, SPEED, draw_player


def read(markup):
    return xml.fromstring(re.search(r"<svg.*</svg>", markup, re.S)[0])


def value_at(element, share):
    """What an element's animation shows at a share of its duration."""
    (animate,) = element.findall("animate")
    values = [float(v) for v in animate.get("values").split(";")]
    times = [float(v) for v in animate.get("keyTimes").split(";")]
    assert len(values) == len(times) and times[0] == 0 and all(a < b for a, b in zip(times, times[1:]))
    if animate.get("calcMode") == "discrete":
        return values[max(i for i, t in enumerate(times) if t <= share)]
    assert times[-1] == 1
    return float(np.interp(share, times, values))


def test_bars_are_the_scores_of_the_moment(make):
    timeline = make()
    bars = [r for r in read(draw_player(timeline)).iter("rect") if r.get("height") == "14"]
    table = timeline.scores[:, 1:]
    full = max(value_at(b, s) for b in bars for s in np.linspace(0, 1, 40))
    for step in (0, 7, 23, 39):
        shares = [value_at(bar, step / 39) / full for bar in bars]
        np.testing.assert_allclose(shares, table[step] / table.max(), atol=0.01)


def test_dots_and_pictures_come_when_they_are_true(make):
    frame = np.zeros((54, 72, 3), np.uint8)
    root = read(draw_player(make(pictures=[(0.125, frame), (6.125, frame)])))
    (dot,) = root.iter("circle")  # one class is ever true
    shown = [value_at(dot, (i + 0.3) / 39) for i in range(39)]
    assert [i for i, v in enumerate(shown) if v] == list(range(10, 20))
    first, second = root.iter("image")
    assert (value_at(first, 0), value_at(second, 0)) == (1, 0)
    assert [value_at(p, 6.2 / 9.75) for p in (first, second)] == [0, 1]
    assert first.get("opacity") == "1" and second.get("opacity") == "0"  # without animation the first stands still


def test_it_runs_at_its_speed_and_names_every_class(make):
    root = read(draw_player(make()))
    durations = {a.get("dur") for a in root.iter("animate")}
    assert durations == {f"{9.75 / SPEED:.2f}s"}
    assert {t.text for t in root.iter("text")} == {"cut", "pour <a>", "stir"}


def test_truth_is_spoken_of_where_there_is_one(make):
    assert "a dot marks" in draw_player(make()) and "a dot marks" not in draw_player(make(truth=None))


@pytest.mark.parametrize("changes", [{"pictures": ()}, {"steps": 1}, {"steps": MOST_STEPS + 1}])
def test_nothing_where_there_is_nothing_to_replay(make, changes):
    assert draw_player(make(**changes)) == ""
