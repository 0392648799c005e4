"""COIN's layout on a made-up file."""

import json

from vtjax.data.readers.coin import read


def video(subset, *steps, **more):
    made = [{"id": i, "label": label, "segment": [s, e]} for i, label, s, e in steps]
    return {
        "recipe_type": 7, "class": "PutOnTie", "subset": subset, "duration": 90.0, "start": 3, "end": 88,
        "video_url": "u", "annotation": made, **more,
    }  # fmt: skip


def test_layout_and_bad_rows(tmp_path):
    data = {
        "database": {
            "a": video("training", ("21", "fold", 20.0, 31.0), ("19", "wrap", 5.0, 12.0)),
            "b": video("testing", ("20", "pull", 1, 2), ("21", "other name", 3, 4), ("19", "wrap", 95, 99)),
            "c": video("testing"),
            "d": video("testing", ("19", "wrap", 1, 2), **{"class": 3}),
        }
    }
    (tmp_path / "COIN.json").write_text(json.dumps(data))
    records, coverage = read(tmp_path)
    assert [(r.id, r.split) for r in records] == [("a", "training"), ("b", "testing")]
    assert {(r.label, r.class_name, r.span) for r in records} == {(7, "PutOnTie", (3, 88))}
    assert [(s.id, s.text) for s in records[0].script.steps] == [(19, "wrap"), (20, "pull"), (21, "fold")]
    assert [s.label for s in records[0].segments] == [21, 19]
    assert coverage.problems.counts() == {
        "a step id has two labels": 1, "the segment starts after the video": 1, "no usable segment": 1,
        "class is not text": 1,
    }  # fmt: skip
    assert len(read(tmp_path, split="testing")[0][0].script.steps) == 3
