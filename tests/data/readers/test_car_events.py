"""CAR's event files, written in and read from the released layout."""

import json

import pytest

from vtjax.data.readers.car_events import is_degenerate, read_events, usable_events, validate_events, write_events
from vtjax.errors import Problems, VtjaxError


def test_layout_and_round_trip(tmp_path):
    path = write_events(tmp_path / "event_texts", "M003823", 2, ["A person bends over.", "The person kicks."])
    assert path == tmp_path / "event_texts/M003823_2.json"
    assert json.loads(path.read_text()) == {"events": ["A person bends over.", "The person kicks."]}
    assert read_events(tmp_path / "event_texts", "M003823", 2) == ("A person bends over.", "The person kicks.")
    assert read_events(tmp_path / "event_texts", "M003823", 1) is None
    assert [p.name for p in path.parent.iterdir()] == ["M003823_2.json"]


@pytest.mark.parametrize("events", [[], "walks", ["a", ""], ["a", "  "], ["a", 3], None, {}])
def test_invalid_events(tmp_path, events):
    with pytest.raises(VtjaxError, match="file: "):
        validate_events(events, "file")
    (tmp_path / "k_0.json").write_text(json.dumps({"events": events}))
    with pytest.raises(VtjaxError, match="k_0.json"):
        read_events(tmp_path, "k", 0)


def test_degenerate():
    assert is_degenerate(["A person walks.", "a  person walks"])
    assert not is_degenerate(["a"]) and not is_degenerate(["a", "a", "b"])


def test_folder_counts_what_is_wrong(tmp_path):
    write_events(tmp_path / "event_texts", "a", 0, ["x", "y"])
    write_events(tmp_path / "event_texts", "a", 1, ["x", "X."])
    (tmp_path / "event_texts/a_2.json").write_text("{")
    (tmp_path / "event_texts/a_3.json").write_text('["x"]')
    problems = Problems()
    events = [usable_events(tmp_path / "event_texts", "a", i, problems) for i in range(5)]
    assert events == [("x", "y"), (), (), (), ()]
    assert problems.counts() == {
        "malformed event file": 2,
        "degenerate events: all are the same sentence, so they have no order": 1,
        "no event file for a caption": 1,
    }
