"""Localized Narratives' rows on a made-up file."""

import json

import numpy as np
import pytest

from vtjax.data.readers.narratives import localized_narratives
from vtjax.errors import VtjaxError


def row(**more):
    base = {
        "dataset_id": "mscoco_val2017",
        "image_id": "137576",
        "annotator_id": 93,
        "caption": "In this image there are cows. Cows are eating.",
        "timed_caption": [
            {"utterance": "In this", "start_time": 0.0, "end_time": 0.4},
            {"utterance": "image there are", "start_time": 0.4, "end_time": 1.2},
            {"utterance": "cows.", "start_time": 1.2, "end_time": 1.6},
            {"utterance": "cows", "start_time": 2.0, "end_time": 2.3},
            {"utterance": "not in it", "start_time": 2.5, "end_time": 2.6},
        ],
        "traces": [
            [{"x": 0.2, "y": -0.01, "t": 0.02}, {"x": 1.03, "y": 0.5, "t": 0.04}], [], [{"x": 0, "y": 1, "t": 2}],
        ],
        "voice_recording": "coco_val/coco_val_137576_93.ogg",
    }
    return {**base, **more}


def test_layout(tmp_path):
    (tmp_path / "coco_val_localized_narratives.jsonl").write_text(json.dumps(row()) + "\n")
    (tmp_path / "flickr30k_train_x.jsonl").write_text(
        json.dumps(row(dataset_id="Flickr30k_train", image_id="77", annotator_id=1)) + "\n"
    )
    (tmp_path / "000000137576.jpg").write_bytes(b"x")
    (record,), coverage = localized_narratives(tmp_path, split="coco_val", videos=tmp_path)
    assert (record.id, record.video) == ("mscoco_val2017/137576/93", "000000137576")
    assert (record.media, record.split) == ("image", "val")
    assert record.path == tmp_path / "000000137576.jpg" and coverage.on_disk == 1
    (narrative,) = record.narratives
    spans = [w.span for w in narrative.words]
    assert [narrative.caption[slice(*s)] for s in spans[:4]] == ["In this", "image there are", "cows.", "Cows"]
    assert spans[3] == (30, 34) and spans[4] is None
    np.testing.assert_array_equal(narrative.traces[0], [[0.02, 0.2, -0.01, -1], [0.04, 1.03, 0.5, -1]])
    assert len(narrative.traces) == 2
    assert [(r.video, r.split) for r in localized_narratives(tmp_path)[0]] == [("000000137576", "val"), ("77", "train")]


def test_bad_rows(tmp_path):
    rows = [
        row(), row(caption=""), row(image_id=None), row(traces=[[{"x": "left", "y": 0, "t": 0}]]),
        row(timed_caption={}),
        row(timed_caption=[{"utterance": "x", "start_time": 2, "end_time": 1}]), row(),
    ]  # fmt: skip
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows) + "{broken\n")
    records, coverage = localized_narratives(path)
    assert len(records) == 1
    assert coverage.problems.counts() == {
        "caption is empty": 1, "image_id is neither text nor a number": 1, "x is not a number": 1,
        "timed_caption is not a list": 1, "an utterance ends before it starts": 1, "not JSON": 1,
        "the id is listed twice": 1,
    }  # fmt: skip
    assert any(p.where.startswith(f"{path}:8") for p in coverage.problems.items)
    with pytest.raises(VtjaxError, match=r"no file open_images\*.jsonl"):
        localized_narratives(tmp_path, split="open_images")
