"""TVSeries: the class list of LSTR's files, and the layout on a made-up file."""

import pytest

from vtjax.data.readers.class_lists import data_info
from vtjax.data.readers.tvseries import CLASSES, TEST, read
from vtjax.errors import VtjaxError


def test_classes_and_episodes_are_the_published_ones(shared_data):
    _, info = data_info(shared_data / "detection/testra_data_info.json", "TVSeries")
    assert info["classes"] == CLASSES and sorted(info["sessions"]["test"]) == sorted(TEST)


def test_layout_and_bad_rows(tmp_path):
    (tmp_path / "GT-train.txt").write_text(
        "24_ep1\tDrink\t10.5\t12\tnormal\n24_ep1\tPoint\t1\t2\n24_ep1\tdrink\t1\t2\n"
    )
    (tmp_path / "GT-test.txt").write_text("24_ep4\tGet in/out of car\t3\t9\n24_ep4\tRun\t5\t4\n24_ep4 Run 1 2\n")
    records, coverage = read(tmp_path)
    assert {(r.id, r.split) for r in records} == {("24_ep1", "train"), ("24_ep4", "test")}
    train = next(r for r in records if r.split == "train")
    assert [(s.start, s.end, s.label) for s in train.segments] == [(1, 2, 2), (10.5, 12, 3)]
    assert coverage.problems.counts() == {
        "unknown class": 1, "the segment ends before it starts": 1,
        "'episode, action, start, end' with tabs is expected": 1,
    }  # fmt: skip
    unknown = next(p for p in coverage.problems.items if p.reason == "unknown class")
    assert unknown.where.startswith(f"{tmp_path}/GT-train.txt:3") and "did you mean 'Drink'" in unknown.where
    assert [r.id for r in read(tmp_path, split="test")[0]] == ["24_ep4"]
    with pytest.raises(VtjaxError, match="GT-train.txt"):
        read(tmp_path.parent / tmp_path.name / "..")
