"""HTM-Align's layout on a made-up file."""

import json

from vtjax.data.readers.htm_align import read
from vtjax.data.video_records import Narration


def test_layout_and_bad_rows(tmp_path):
    good = [[1, 3.2, 6.9, "add salt "], [0, 10, 11, "hi"]]
    rows = [*good, [2, 1, 2, "x"], [1, 5, 4, "x"], [1, 2, 3], "no", [1, 2, 3, ""]]
    (tmp_path / "htm_align.json").write_text(json.dumps({"vid": rows, "none": [], "odd": 3}))
    records, coverage = read(tmp_path)
    (record,) = records
    assert record.narrations == (Narration(3.2, 6.9, "add salt", True), Narration(10, 11, "hi", False))
    assert coverage.problems.counts() == {
        "alignable is neither 0 nor 1": 1,
        "the segment ends before it starts": 1,
        "the sentence has not 4 entries": 1,
        "the sentence is not a list": 2,
        "the sentence is empty": 1,
        "no usable sentence": 2,
    }
    assert coverage.notes.counts() == {"HTM-Align has 80 videos": 1}
    assert f"{tmp_path}/htm_align.json:1: vid sentence 2" in coverage.problems.items[0].where
