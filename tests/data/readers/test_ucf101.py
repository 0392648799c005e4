"""UCF101's official lists."""

import pytest

from vtjax.data.readers.action_lists import ucf101
from vtjax.errors import VtjaxError


def test_counts_are_the_releases(shared_data):
    root = shared_data / "recognition/splits/ucf101"
    found = [ucf101(root, fold=fold) for fold in (1, 2, 3)]
    assert [len(records) for records, _ in found] == [3783, 3734, 3696]
    assert not any(c.problems for _, c in found)
    ids = [r.id for records, _ in found for r in records]
    assert len(set(ids)) == len(ids)  # the three tests share no video
    assert {len({r.label for r in records}) for records, _ in found} == {101}


def test_train_lists_and_bad_rows(tmp_path):
    (tmp_path / "classInd.txt").write_text("1 Archery\n2 YoYo\n")
    (tmp_path / "trainlist01.txt").write_text(
        "YoYo/v_YoYo_g08_c01.avi 2\nArchery/v_Archery_g08_c01.avi 2\nYoyo/v.avi 2\nv.avi 1\nYoYo/x.avi z\n"
    )
    records, coverage = ucf101(tmp_path, split="train")
    assert [(r.id, r.label, r.class_name) for r in records] == [("v_YoYo_g08_c01", 1, "YoYo")]
    assert coverage.problems.counts() == {
        "the label is not that of the folder": 1, "unknown class": 1,
        "'Class/file.avi' with an optional label is expected": 1, "the label is not a number": 1,
    }  # fmt: skip
    assert coverage.problems.items[0].where.startswith(f"{tmp_path}/trainlist01.txt:2")
    with pytest.raises(VtjaxError, match="trainlist02.txt: no such file"):
        ucf101(tmp_path, split="train", fold=2)
