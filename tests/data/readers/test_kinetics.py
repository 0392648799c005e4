"""Kinetics' official CSV files."""

import pytest

from vtjax.data.readers.action_lists import kinetics
from vtjax.errors import VtjaxError

ROWS = (
    "label,youtube_id,time_start,time_end,split\n"
    "abseiling,R6llTwEh07w,10,20,validate\nzumba,-aNccq2jvUA,55,65,validate\nabseil,xxxxxxxxxxx,1,11,validate\n"
    "zumba,yyyyyyyyyyy,11,1,validate\nzumba,yyyyyyyyyyy,1.5,11,validate\nzumba,zzzzzzzzzzz,1\n"
    "abseiling,R6llTwEh07w,10,20,validate\n"
)


def test_layout_and_bad_rows(tmp_path, shared_data):
    (tmp_path / "validate.csv").write_text(ROWS)
    (tmp_path / "clips/zumba").mkdir(parents=True)
    (tmp_path / "clips/zumba/-aNccq2jvUA_000055_000065.mp4").write_bytes(b"x")
    names = shared_data / "recognition/kinetics_400_labels.csv"
    records, coverage = kinetics(tmp_path, classes=names, videos=tmp_path / "clips")
    assert [(r.id, r.label, r.span) for r in records] == [
        ("R6llTwEh07w_000010_000020", 0, (10, 20)), ("-aNccq2jvUA_000055_000065", 399, (55, 65)),
    ]  # fmt: skip
    assert [r.path is not None for r in records] == [False, True]
    assert coverage.problems.counts() == {
        "unknown class": 1, "the segment ends before it starts": 1, "time_start is not a whole number": 1,
        "wrong number of columns": 1, "the id is listed twice": 1,
    }  # fmt: skip
    unknown = next(p.where for p in coverage.problems.items if p.reason == "unknown class")
    assert unknown.startswith(f"{tmp_path}/validate.csv:4") and "abseiling" in unknown
    records, coverage = kinetics(tmp_path)
    assert records[1].label == 2 and coverage.notes
    with pytest.raises(VtjaxError, match="train, val or test"):
        kinetics(tmp_path, split="validate")
