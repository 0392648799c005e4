"""ActivityNet 1.3 and FineAction in the official layout."""

import json

import pytest

from vtjax.data.readers.activitynet import activitynet, fineaction
from vtjax.errors import VtjaxError

DATA = {
    "version": "VERSION 1.3",
    "taxonomy": [
        {"nodeId": 0, "nodeName": "Root", "parentId": None},
        {"nodeId": 1, "nodeName": "Sports", "parentId": 0},
        {"nodeId": 2, "nodeName": "Skiing", "parentId": 1},
        {"nodeId": 3, "nodeName": "Archery", "parentId": 1},
    ],
    "database": {
        "a": {
            "duration": 50.0, "subset": "training", "resolution": "320x240", "url": "u", "fps": 25,
            "annotations": [
                {"label": "Skiing", "segment": [20, 50.3]}, {"label": "Archery", "segment": [1.5, 7]},
                {"label": "Sking", "segment": [1, 2]}, {"label": "Skiing", "segment": [3, 3]}, {"label": "Skiing"},
            ],
        },
        "b": {"duration": 5, "subset": "testing", "annotations": []},
        "c": {"duration": "long", "subset": "training", "annotations": []},
        "d": {"duration": 5, "subset": "validation", "annotations": [{"label": "Skiing", "segment": [0, 9]}]},
    },
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "activity_net.v1-3.min.json").write_text(json.dumps(DATA, indent=0))
    return tmp_path


def test_layout_and_bad_rows(folder):
    records, coverage = activitynet(folder)
    assert [(r.id, r.split, r.duration) for r in records] == [
        ("a", "training", 50), ("b", "testing", 5), ("d", "validation", 5),
    ]  # fmt: skip
    assert [(s.start, s.end, s.text, s.label) for s in records[0].segments] == [
        (1.5, 7, "Archery", 0), (20, 50, "Skiing", 1),
    ]  # fmt: skip
    assert records[0].fps == 25 and records[1].fps is None
    assert coverage.problems.counts() == {
        "unknown class": 1, "the segment ends before it starts": 1, "no 'segment'": 1, "duration is not a number": 1,
    }  # fmt: skip
    assert coverage.notes.counts() == {"the segment ends after the video, cut": 1}
    unknown = coverage.problems.items[0].where
    assert unknown.startswith(f"{folder}/activity_net.v1-3.min.json:") and "did you mean 'Skiing'" in unknown
    assert [r.id for r in activitynet(folder, split="validation")[0]] == ["d"]


def test_classes_in_another_order(folder, shared_data):
    records, _ = activitynet(folder, classes=("Skiing", "Archery"))
    assert [s.label for s in records[0].segments] == [1, 0]
    del (data := json.loads(json.dumps(DATA)))["taxonomy"]
    (folder / "activity_net.v1-3.min.json").write_text(json.dumps(data))
    records, coverage = activitynet(folder)
    assert [s.label for s in records[0].segments] == [2, 0, 1]
    assert "alphabetical order" in coverage.report()
    with pytest.raises(VtjaxError, match="activity_net"):
        activitynet(folder / "..")


def test_fineaction_with_the_published_order(tmp_path, shared_data):
    data = {
        "version": "1.0",
        "database": {
            "v_00000001": {
                "filename": "v_00000001.mp4", "subset": "training", "duration": 30.0, "fps": 29.97,
                "annotations": [{"label": "play the drums", "label_id": 1, "segment": [1, 2]}],
            },
            "v_00000002": {"subset": "training", "duration": 3.0, "fps": 0, "annotations": []},
        },
    }  # fmt: skip
    (tmp_path / "annotations_gt.json").write_text(json.dumps(data))
    info = shared_data / "detection/miniroad_video_list_fineaction.json"
    (record,), coverage = fineaction(tmp_path, info=info)
    assert (record.fps, record.segments[0].label) == (29.97, 2)
    assert coverage.problems.counts() == {"the frame rate is not positive": 1}
    assert fineaction(tmp_path)[0][0].segments[0].label == 0
