"""ActivityNet Captions: the shipped validation sets, VTimeLLM's example, bad rows."""

import json

import numpy as np
import pytest

from vtjax.data.readers.activitynet import activitynet_captions
from vtjax.errors import VtjaxError


@pytest.mark.parametrize(("split", "videos", "sentences"), [("val_1", 4917, 17505), ("val_2", 4885, 17031)])
def test_counts(shared_data, split, videos, sentences):
    records, coverage = activitynet_captions(shared_data / "videollm", split=split)
    assert (len(records), coverage.rows_used) == (videos, sentences) and not coverage.problems and not coverage.notes
    with open(shared_data / f"videollm/{split}.json", encoding="utf-8") as file:
        raw = json.load(file)
    for record in records[::97]:
        entry = raw[record.id]
        assert [c.text for c in record.captions] == [s.strip() for s in entry["sentences"]]
        np.testing.assert_allclose([(c.start, c.end) for c in record.captions], entry["timestamps"], atol=1e-9)
    assert all(0 <= c.start < c.end <= r.duration for r in records for c in r.captions)


def test_about_a_fifth_of_the_queries_cover_half_the_video(shared_data):
    # PiTe's warning about the full-span baseline
    records, _ = activitynet_captions(shared_data / "videollm", split="val_2")
    shares = [(c.end - c.start) / r.duration for r in records for c in r.captions]
    assert 0.15 < np.mean(np.array(shares) > 0.5) < 0.3


def test_vtimellms_example(shared_data):
    records, coverage = activitynet_captions(shared_data / "videollm/vtimellm_eval/data_example.json")
    assert [(r.id, r.duration) for r in records] == [("v_bXdq2zI1Ms0", 73.1), ("v_CN01Gm2Yc4k", 17.56)]
    assert [len(r.captions) for r in records] == [3, 3]
    assert records[1].where.endswith("data_example.json:11: v_CN01Gm2Yc4k")


def test_bad_rows(tmp_path):
    data = {
        "a": {"duration": 10, "timestamps": [[0, 4], [5, 3], [2, 30], [11, 12], 7], "sentences": [" x ", *"yzwv"]},
        "b": {"duration": 10, "timestamps": [[0, 4]], "sentences": []},
        "c": {"duration": -1, "timestamps": [[0, 4]], "sentences": ["x"]},
        "d": {"duration": 10, "timestamps": [[0, 4]], "sentences": [" "]},
    }
    (tmp_path / "val_1.json").write_text(json.dumps(data))
    (record,), coverage = activitynet_captions(tmp_path)
    assert [(c.start, c.end, c.text) for c in record.captions] == [(0, 4, "x"), (2, 10, "z")]
    assert coverage.notes.counts() == {"the segment ends after the video, cut": 1}
    assert coverage.problems.counts() == {
        "the segment ends before it starts": 1, "the segment starts after the video": 1, "timestamp is not a list": 1,
        "timestamps and sentences differ in length": 1, "the duration is not positive": 1, "sentence is empty": 1,
        "no usable caption": 1,
    }  # fmt: skip
    with pytest.raises(VtjaxError, match="val_2.json: no such file"):
        activitynet_captions(tmp_path, split="val_2")
