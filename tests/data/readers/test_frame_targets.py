"""LSTR's folders: THUMOS14's real targets written in that layout, the rate of each video, and bad files."""

import json

import numpy as np
import pytest

from vtjax.data.readers import thumos14
from vtjax.data.readers.frame_targets import read
from vtjax.errors import VtjaxError


def test_thumos_in_lstrs_layout(shared_data, tmp_path):
    source = thumos14.frame_targets(shared_data / "detection/thumos14")
    (tmp_path / "target_perframe").mkdir()
    (tmp_path / "rgb").mkdir()
    for video in ("video_test_0001207", "video_test_0000324"):
        np.save(tmp_path / "target_perframe" / f"{video}.npy", source[video].targets.astype(np.float64))
    np.save(tmp_path / "rgb/video_test_0000324.npy", np.zeros((2, 2)))
    info = shared_data / "detection/testra_data_info.json"
    durations = {r.id: r.duration for r in thumos14.read(shared_data / "detection/thumos14", targets=False)[0]}
    records, coverage = read(tmp_path, dataset="THUMOS", info=info, durations=durations, videos=tmp_path / "rgb")
    assert (coverage.listed, coverage.annotated, coverage.on_disk) == (213, 2, 1)
    assert coverage.problems.counts() == {"listed, but the target file is missing": 211}
    for record in records:
        np.testing.assert_array_equal(record.targets.targets, source[record.id].targets)
        # info says 4 for both; the rows say 4 for one and 5 for the other
        assert record.targets.fps == pytest.approx(source[record.id].fps, abs=2e-3)
        assert record.targets.ambiguous == 21 and record.targets.classes == thumos14.CLASSES
    assert sorted(round(r.targets.fps) for r in records) == [4, 5]
    unknown, coverage = read(tmp_path, dataset="THUMOS", info=info)
    assert {r.targets.fps for r in unknown} == {None}
    assert coverage.notes.counts() == {"the rate of the rows is unknown: pass rates or durations": 2}
    rated, _ = read(tmp_path, dataset="THUMOS", info=info, rates={r.id: 3.5 for r in records})
    assert {r.targets.fps for r in rated} == {3.5}


def test_bad_files(tmp_path):
    names = ["Background", "a", "b"]
    arrays = {
        "good": np.eye(3)[[0, 1, 2, 1]], "multi": np.array([[0, 1, 1]]), "wide": np.eye(4), "empty": np.zeros((0, 3)),
        "none": np.array([[0, 0, 0], [1, 0, 0]]), "soft": np.full((2, 3), 0.5), "text": np.array([["a", "b", "c"]]),
        "rate": np.eye(3),
    }  # fmt: skip
    for kind in ("target_perframe", "verb_perframe"):
        (tmp_path / kind).mkdir()
    for name, array in arrays.items():
        np.save(tmp_path / "target_perframe" / f"{name}.npy", array)
    np.save(tmp_path / "target_perframe/pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "target_perframe/cut.npy").write_bytes(b"\x93NUMPY\x01")
    np.save(tmp_path / "verb_perframe/good.npy", np.eye(2))
    sessions = {"train_session_set": ["good"], "test_session_set": [*arrays, "pickle", "cut"]}
    info = tmp_path / "video_list.json"
    info.write_text(json.dumps({"SET": {"class_index": names, **sessions}}))
    records, coverage = read(tmp_path, dataset="set", info=info, rates={"rate": -1, "good": 4.1, "multi": 5})
    assert [r.id for r in records] == ["good", "multi"]
    assert coverage.problems.counts() == {
        "the targets must have the shape [rows, classes]": 2, "unreadable target file": 2,
        "the targets must be zeros and ones": 2, "rows without any class, not even the background": 1,
        "the rate is not positive": 1,
    }  # fmt: skip
    verbs, _ = read(
        tmp_path, dataset="SET", info=info, split="train", kind="verb_perframe", classes=("background", "take")
    )
    assert verbs[0].targets.targets.shape == (2, 2) and verbs[0].targets.ambiguous is None
    with pytest.raises(VtjaxError, match="names of its columns"):
        read(tmp_path, dataset="SET", info=info, kind="verb_perframe")
    with pytest.raises(VtjaxError, match="no such folder"):
        read(tmp_path, dataset="SET", info=info, kind="noun_perframe")
    with pytest.raises(VtjaxError, match="no split 'val'"):
        read(tmp_path, dataset="SET", info=info, split="val")
