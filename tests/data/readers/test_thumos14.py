"""THUMOS14: the facts of ovoad.md 8.3, the rate of every video, and damaged files."""

import collections
import json

import numpy as np
import pytest

from vtjax.data.readers.class_lists import data_info
from vtjax.data.readers.thumos14 import CLASSES, frame_targets, read
from vtjax.errors import VtjaxError

POSITIVES = [
    584, 4522, 1230, 5312, 3669, 1417, 1138, 2750, 827, 1295,
    8249, 4322, 5534, 5318, 13860, 4232, 761, 1634, 2475, 2091,
]  # fmt: skip


@pytest.fixture(scope="module")
def records(shared_data):
    return read(shared_data / "detection/thumos14")


def test_counts_are_the_sheets(records):
    found, coverage = records
    by_split = collections.defaultdict(list)
    for record in found:
        by_split[record.split].append(record.targets.targets)
    rows = {split: np.concatenate(t) for split, t in by_split.items()}
    assert {s: len(t) for s, t in by_split.items()} == {"val": 200, "test": 213} and len(found) == 413
    assert {s: len(t) for s, t in rows.items()} == {"val": 203363, "test": 225222}
    assert all((t.sum(axis=1) == 1).all() for t in rows.values())
    test = rows["test"].sum(axis=0, dtype=int)
    assert test[1:21].tolist() == POSITIVES and sum(POSITIVES) == 71220
    assert (test[0], test[21]) == (150368, 3634)
    assert (coverage.rows, coverage.rows_used) == (6553, 6523)
    assert coverage.problems.counts() == {"the segment starts after the video": 30}
    assert not coverage.notes


def test_the_rate_is_each_videos_own(records):
    found, _ = records
    rates = np.array([r.targets.fps for r in found])
    assert collections.Counter(np.round(rates, 0)) == {5: 400, 4: 13}
    for record in found:
        frames = record.targets
        assert len(frames.targets) / frames.fps == pytest.approx(record.duration, abs=0.05)
        assert frames.times[-1] == pytest.approx(record.duration - 0.5 / frames.fps, abs=0.05)


def test_rows_and_segments_agree_at_that_rate_and_at_no_other(records):
    """A rate read wrongly would shift the rows: the segments cover the rows of their class only at the right one."""

    def agreement(rate_of):
        hits = total = 0
        for record in records[0]:
            frames, drawn = record.targets, np.zeros(len(record.targets.targets), int)
            times = (np.arange(len(drawn)) + 0.5) / rate_of(frames)
            for segment in record.segments:
                drawn[(times >= segment.start) & (times < segment.end)] = segment.label
            truth = frames.targets.argmax(axis=1)
            hits += int(((drawn == truth) & (truth > 0)).sum())
            total += int((truth > 0).sum())
        return hits / total

    own = agreement(lambda frames: frames.fps)
    assert own > 0.9 and agreement(lambda frames: 4.0) < own - 0.3
    fours = [r for r in records[0] if r.targets.fps < 4.5]
    assert len(fours) == 13 and own > agreement(lambda frames: 5.0) > 0.5


def test_sessions_are_testras(shared_data, records):
    _, info = data_info(shared_data / "detection/testra_data_info.json", "THUMOS")
    assert info["classes"] == CLASSES and info["ignore"] == 21
    for split, session in (("val", "train"), ("test", "test")):
        assert {r.id for r in records[0] if r.split == split} == set(info["sessions"][session])


def test_coverage_of_a_video_folder(shared_data, tmp_path):
    (tmp_path / "video_test_0000004.mp4").write_bytes(b"x")
    found, coverage = read(shared_data / "detection/thumos14", split="test", videos=tmp_path)
    assert [r.id for r in found if r.path] == ["video_test_0000004"]
    assert (coverage.annotated, coverage.on_disk, len(coverage.missing)) == (213, 1, 212)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "val/Diving_val.txt").write_text(
        "video_validation_0000001  1.0 2.5\nvideo_test_0000001  1 2\nvideo_validation_0000001 3 2\n"
        "video_validation_0000001 x 2\nvideo_validation_0000001 2\nvideo_validation_0000001  99 100\n"
    )
    (tmp_path / "th14_val_durations.txt").write_text("a/b/video_validation_0000001.mp4\n4.0\nother.mp4\n-1\n")
    rows = np.zeros((16, 22), np.uint8)
    rows[:, 0] = 1
    save(tmp_path, {"video_validation_0000001": np.packbits(rows, axis=1)}, {"video_validation_0000001": 2.0})
    return tmp_path


def save(folder, arrays, rates, classes=CLASSES):
    np.savez(folder / "thumos14_frame_targets.npz", class_names=np.array(classes), fps=json.dumps(rates), **arrays)


def test_bad_rows(folder):
    (record,), coverage = read(folder, split="val")
    assert [(s.start, s.end, s.label, s.text) for s in record.segments] == [(1, 2.5, 8, "Diving")]
    assert coverage.problems.counts() == {
        "the video is not of this split": 1, "the segment ends before it starts": 1, "start is not a number": 1,
        "'video start end' is expected": 1, "the segment starts after the video": 1, "the duration is not positive": 1,
    }  # fmt: skip
    assert coverage.problems.items[1].where.startswith(f"{folder}/val/Diving_val.txt:2")
    assert coverage.notes.counts()["rows and duration disagree"] == 1
    assert coverage.notes.counts()["no segment file of this class"] == 20


def test_damaged_targets(folder):
    packed = np.zeros((4, 3), np.uint8)
    save(folder, {"v": packed}, {"v": 5.0}, CLASSES[::-1])
    with pytest.raises(VtjaxError, match="not THUMOS14's in its order"):
        frame_targets(folder)
    for arrays, rates in (({"v": packed}, {}), ({"v": packed}, {"v": 0}), ({"v": packed[:, :2]}, {"v": 5})):
        save(folder, arrays, rates)
        with pytest.raises(VtjaxError, match=r"npz\[v\]"):
            frame_targets(folder)
    path = folder / "thumos14_frame_targets.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(VtjaxError, match="packed rows are expected"):
        frame_targets(folder)
    path.unlink()
    (record,), coverage = read(folder, split="val")
    assert record.targets is None and coverage.notes.counts()["no frame targets beside the segments"] == 1
    (folder / "th14_val_durations.txt").write_text("a\n")
    with pytest.raises(VtjaxError, match="pairs of lines"):
        read(folder, split="val")
    with pytest.raises(VtjaxError, match="no split 'train'"):
        read(folder, split="train")
