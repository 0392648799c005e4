"""TMR's annotations: KIT-ML's published counts, and the slicing rule on made-up motions."""

import json

import numpy as np
import pytest

from vtjax.data.motion.validate import caption_rows
from vtjax.data.readers.humanml3d import Coverage, read_split
from vtjax.data.readers.tmr_annotations import load_annotations, read_tmr, select
from vtjax.errors import Problems, VtjaxError


def test_kit_counts_are_the_sheets(shared_data):
    root = shared_data / "motion/kitml_text"
    entries = load_annotations(root)
    assert len(entries) == 5766
    assert sum(len(e.annotations) for e in entries.values()) == 12164
    ids = {split: read_split(root / f"{split}.txt") for split in ("train", "val", "test", "nsim_test")}
    assert [len(ids[s]) for s in ("train", "val", "test", "nsim_test")] == [4688, 292, 786, 101]
    assert sorted(k for k in ids["nsim_test"] if k not in entries) == ["01639", "03532", "M03532"]
    kept = {split: select(entries, ids[split], split, problems=Problems()) for split in ids}
    assert {s: len(k) for s, k in kept.items()} == {"train": 3846, "val": 252, "test": 786, "nsim_test": 98}
    durations = [entries[k].duration for k in entries]
    assert np.mean(durations) == pytest.approx(7.96, abs=0.005)
    assert sum(int(20 * entries[k].duration) > 224 for k in ids["test"]) == 114


def test_kit_coverage_without_motions(shared_data):
    problems, coverage = Problems(), Coverage("val")
    assert list(read_tmr(shared_data / "motion/kitml_text", "val", problems=problems, coverage=coverage)) == []
    assert (coverage.listed, coverage.annotated, coverage.on_disk, coverage.rows) == (292, 292, 0, 626)
    assert problems.counts()["annotated, but the motion is not on disk"] == 252


def folder(tmp_path, annotations, rows=200, duration=10.05):
    made = [{"seg_id": f"k_{i}", "text": t, "start": s, "end": e} for i, (t, s, e) in enumerate(annotations)]
    data = {"k": {"path": "KIT/3/walk", "duration": duration, "annotations": made}}
    (tmp_path / "annotations.json").write_text(json.dumps(data))
    (tmp_path / "train.txt").write_text("k\n")
    (tmp_path / "test.txt").write_text("k\nunknown\n")
    (tmp_path / "vecs/KIT/3").mkdir(parents=True)
    features = np.arange(rows, dtype=np.float32)[:, None] * np.ones((1, 263), np.float32)
    np.save(tmp_path / "vecs/KIT/3/walk.npy", features)
    return tmp_path


def test_rows_are_int_of_20_times_seconds(tmp_path):
    spans = [("a", 1.237, 5.999), ("b", 3.0, 9.99), ("c", 1.237, 2.0)]
    root = folder(tmp_path, spans)
    problems = Problems()
    (clip,) = read_tmr(root, "train", features=root / "vecs", problems=problems)
    assert [c.index for c in clip.captions] == [0, 1]
    for caption, (_, start, end) in zip(clip.captions, spans, strict=False):
        begin, stop = caption_rows(caption, len(clip.features))
        np.testing.assert_array_equal(clip.features[begin:stop, 0], np.arange(int(start * 20), int(end * 20)))
    assert problems.counts() == {"train caption outside 2 to 10 s": 1}


def test_test_split_keeps_all_and_reports_unknown_ids(tmp_path):
    root = folder(tmp_path, [("a", 0.0, 0.5), ("b", 0.0, 10.05)])
    problems, coverage = Problems(), Coverage("test")
    (clip,) = read_tmr(root, "test", features=root / "vecs", problems=problems, coverage=coverage)
    assert len(clip.captions) == 2 and len(clip.features) == 200
    assert (clip.captions[1].start, clip.captions[1].end) == (None, None)
    assert problems.counts() == {"listed in test, but not annotated": 1}
    assert (coverage.listed, coverage.annotated, coverage.on_disk, coverage.used) == (2, 1, 1, 1)


def test_wrong_entries(tmp_path):
    root = folder(tmp_path, [("", 0.0, 5.0), ("a", 5.0, 3.0), ("b", 12.0, 15.0)], duration=20)
    problems = Problems()
    assert list(read_tmr(root, "train", features=root / "vecs", problems=problems)) == []
    assert problems.counts() == {
        "empty caption": 1,
        "segment ends before it starts": 1,
        "segment outside the motion on disk": 1,
    }
    for data, words in (
        ('{"k": {"path": "p", "duration": 1, "annotations": [{"seg_id": "k_1", "text": "", "start": 0, "end": 1}]}}',
         "'k': annotation 0 has the seg_id 'k_1'"),
        ('{"k": {"path": "p", "annotations": []}}', "'k': path, duration"),
        ('{"k": {"path": "p', "truncated"),
    ):  # fmt: skip
        (tmp_path / "annotations.json").write_text(data)
        with pytest.raises(VtjaxError, match=words):
            load_annotations(tmp_path)
