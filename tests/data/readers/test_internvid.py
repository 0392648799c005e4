"""InternVid-10M-FLT rows, and VTimeLLM's choice of videos with several events."""

import json

from vtjax.data.readers.internvid import read
from vtjax.data.video_records import Caption


def test_rows_are_gathered_by_video(tmp_path):
    rows = [
        ("a", "00:01:02.500", "00:01:09.000", "a man runs", 0.4),
        ("b", "00:00:00.000", "01:00:00.250", "a dog", None),
        ("a", "00:00:07.440", "00:00:10.000", " a cat ", 0.3),
        ("a", "00:00:07.440", "00:00:07.440", "x", 0.3),
        ("a", "00:00:zz", "00:00:07.440", "x", 0.3),
        ("a", "1:2:3:4", "00:00:07.440", "x", 0.3),
        ("c", "00:00:01.000", "00:00:02.000", "", 0.3),
    ]
    keys = ("YoutubeID", "Start_timestamp", "End_timestamp", "Caption", "UMT_Score")
    text = "".join(json.dumps(dict(zip(keys, r, strict=True))) + "\n" for r in rows) + "{broken\n[]\n"
    (tmp_path / "InternVid-10M-flt.jsonl").write_text(text)
    records, coverage = read(tmp_path)
    assert [r.id for r in records] == ["a", "b"]
    assert records[0].captions == (Caption("a cat", 7.44, 10.0, 0.3), Caption("a man runs", 62.5, 69.0, 0.4))
    assert records[1].captions == (Caption("a dog", 0, 3600.25),)
    assert coverage.problems.counts() == {
        "the segment ends before it starts": 1, "start is not a number": 1, "start is not a time": 1,
        "Caption is empty": 1, "not JSON": 1, "the row is not an object": 1,
    }  # fmt: skip
    assert any(p.where.startswith(f"{tmp_path}/InternVid-10M-flt.jsonl:8") for p in coverage.problems.items)
    records, coverage = read(tmp_path, durations={"a": 65.0}, exclude={"b": "test"})
    assert [(r.id, r.duration, r.captions[-1].end) for r in records] == [("a", 65, 65)]
    assert coverage.problems.counts()["evaluation video of test, kept out of training"] == 1
