"""HMDB51's official splits."""

import pytest

from vtjax.data.readers.action_lists import hmdb51
from vtjax.data.readers.class_lists import class_list
from vtjax.errors import VtjaxError


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_counts_are_the_releases(shared_data, fold):
    archive = shared_data / "recognition/splits/hmdb51_official_splits.tar.gz"
    found = {split: hmdb51(archive, split=split, fold=fold) for split in ("train", "test", "unused")}
    assert [len(records) for records, _ in found.values()] == [3570, 1530, 1666]
    assert not any(c.problems or c.notes for _, c in found.values())
    names = sorted(class_list(shared_data / "recognition/hmdb_51_labels.csv"))
    assert all(names[r.label] == r.class_name for records, _ in found.values() for r in records)
    ids = [r.id for records, _ in found.values() for r in records]
    assert len(set(ids)) == len(ids) == 6766


def test_found_from_the_folder_above_with_real_clips(shared_data):
    records, coverage = hmdb51(shared_data / "recognition/splits", videos=shared_data / "videos/actions")
    assert coverage.annotated == 1530 and coverage.on_disk == sum(r.path is not None for r in records) == 1


def test_bad_rows(tmp_path):
    (tmp_path / "brush_hair_test_split1.txt").write_text("a.avi 1 \nb.avi 2\nc.avi 3\nd e.avi 1\n\nf.avi\n")
    records, coverage = hmdb51(tmp_path, split="train")
    assert [(r.id, r.label, r.class_name) for r in records] == [("a", 0, "brush hair")]
    assert coverage.problems.counts() == {"'file.avi 0|1|2' is expected": 3}
    assert coverage.problems.items[0].where.startswith(f"{tmp_path}/brush_hair_test_split1.txt:3")
    assert coverage.notes.counts() == {"not 70 videos in the class": 1}
    wrong = (({"fold": 2}, "split2.txt"), ({"fold": 4}, "folds 1, 2 and 3"), ({"split": "val"}, "no split"))
    for options, message in wrong:
        with pytest.raises(VtjaxError, match=message):
            hmdb51(tmp_path, **options)
    (tmp_path / "broken.tar.gz").write_bytes(b"\x1f\x8b12345")
    with pytest.raises(VtjaxError, match="damaged archive"):
        hmdb51(tmp_path / "broken.tar.gz")
