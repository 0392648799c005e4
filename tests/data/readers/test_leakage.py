"""Evaluation videos stay out of training."""

import json

import pytest

from vtjax.data.readers.ht_step import splits
from vtjax.data.readers.leakage import evaluation_ids, video_key, without
from vtjax.data.video_records import VideoRecord
from vtjax.errors import Problems, VtjaxError


def test_every_evaluation_id_of_ht_step(shared_data):
    root = shared_data / "instructional/htstep"
    exclude = evaluation_ids([root])
    known = splits(root)
    assert {k: len(v) for k, v in known.items()} == {
        "train": 17472, "val_seen": 600, "val_unseen": 963, "test_seen": 600, "test_unseen": 1000,
    }  # fmt: skip
    assert len(exclude) == 600 + 963 + 600 + 1000
    assert "HT-Step test_seen" in exclude["-3CEg4y7mQM"]  # mptva.md 7.4
    everything = [VideoRecord(v, v, s, s) for s, ids in known.items() for v in ids]
    problems = Problems()
    kept = without(everything, exclude, problems)
    assert [r.id for r in kept] == known["train"] and len(kept) == 17472
    assert problems.counts() == {
        f"evaluation video of HT-Step {s}, kept out of training": len(known[s]) for s in known if s != "train"
    }


def test_sets_are_named_together(tmp_path):
    (tmp_path / "htm_align.json").write_text(json.dumps({"-3CEg4y7mQM": [], "aaaaaaaaaaa": []}))
    names = ("train", "val_seen", "val_unseen", "test_seen", "test_unseen")
    ids = {n: ["-3CEg4y7mQM"] if n == "test_seen" else [f"{n[-9:]:_>11}"] for n in names}
    (tmp_path / "video_splits.json").write_text(json.dumps(ids))
    (tmp_path / "anet").write_text("v_bXdq2zI1Ms0\n")
    exclude = evaluation_ids([tmp_path / "htm_align.json", tmp_path, tmp_path / "anet"])
    assert exclude["-3CEg4y7mQM"] == "HTM-Align, HT-Step test_seen"
    assert exclude["aaaaaaaaaaa"] == "HTM-Align" and exclude["bXdq2zI1Ms0"] == "anet"
    assert ids["train"][0] not in exclude and len(exclude) == 6
    records = [VideoRecord(str(i), v, "f:1") for i, v in enumerate(["v_bXdq2zI1Ms0", "bXdq2zI1Ms0", "v_other"])]
    assert [r.id for r in without(records, exclude, Problems())] == ["2"]


def test_keys_and_errors(tmp_path):
    assert video_key("v_bXdq2zI1Ms0") == "bXdq2zI1Ms0" and video_key("v_00000001") == "v_00000001"
    assert evaluation_ids([]) == {}
    (tmp_path / "video_splits.json").write_text('{"train": [], "val_seen": []}')
    with pytest.raises(VtjaxError, match="'val_unseen' is expected"):
        evaluation_ids([tmp_path])
    (tmp_path / "video_splits.json").write_text('{"train": ["a"], "val_seen": ["a"]}')
    with pytest.raises(VtjaxError, match="must be disjoint"):
        splits(tmp_path)
