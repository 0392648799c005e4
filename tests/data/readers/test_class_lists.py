"""Class lists: the shipped files' lengths and order, and what a broken list says."""

import json

import pytest

from vtjax.data.readers.class_lists import class_list, data_info, index_of
from vtjax.data.readers.coverage import BadRow
from vtjax.errors import VtjaxError


def test_shipped_lists(shared_data):
    root = shared_data / "recognition"
    lengths = {"kinetics_400": 400, "kinetics_600": 600, "hmdb_51": 51, "ucf_101": 101}
    lists = {name: class_list(root / f"{name}_labels.csv") for name in lengths}
    assert {name: len(found) for name, found in lists.items()} == lengths
    assert lists["kinetics_400"][0] == "abseiling" and lists["hmdb_51"][0] == "brush hair"
    assert class_list(root / "splits/ucf101/classInd.txt") == lists["ucf_101"]


def test_shipped_detection_lists(shared_data):
    root = shared_data / "detection"
    verbs, nouns = (class_list(root / f"EPIC_100_{kind}_classes.csv") for kind in ("verb", "noun"))
    assert (len(verbs), len(nouns)) == (97, 300)
    official = "take put wash open close insert turn-on cut turn-off pour mix".split()  # ovoad.md 8.4
    assert list(verbs[:11]) == official
    name, info = data_info(root / "testra_data_info.json", "thumos")
    assert (name, len(info["classes"]), info["ignore"]) == ("THUMOS", 22, 21)
    assert {k: len(v) for k, v in info["sessions"].items()} == {"train": 200, "test": 213}
    _, series = data_info(root / "testra_data_info.json", "TVSeries")
    assert (len(series["classes"]), series["ignore"], len(series["sessions"]["test"])) == (31, None, 7)
    _, fine = data_info(root / "miniroad_video_list_fineaction.json", "FINEACTION")
    assert len(fine["classes"]) == 107 and len(fine["sessions"]["test"]) == 4174
    _, ours = data_info(root / "ovoad_new_data_info.json", "FINEACTION")
    assert ours["classes"] == fine["classes"] and len(ours["sessions"]["test"]) == 4115  # ovoad.md 8.4
    _, anet = data_info(root / "ovoad_new_data_info.json", "Anet")
    assert len(anet["classes"]) == 201 and [len(v) for v in anet["sessions"].values()] == [10024, 4926]


def test_the_released_epic_verb_order_of_ovoad_is_not_the_official_one(shared_data):
    root = shared_data / "detection"
    with open(root / "ovoad_new_data_info.json", encoding="utf-8") as file:
        released = json.load(file)["EK100"]["verb_class"][1:]
    official = class_list(root / "EPIC_100_verb_classes.csv")
    assert sum(a == b for a, b in zip(released, official, strict=True)) == 1  # ovoad.md 0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "id,name\n0,x\n2,y\n", "without gaps or repeats: see 1"),
        ("a.csv", "id,name\n0,x\n0,y\n", "without gaps or repeats"),
        ("a.csv", "id,name\n0,x\nz,y\n", r"a\.csv:3: a class index"),
        ("a.csv", "id,name\n0,x,extra\n", r"a\.csv:2: .*columns"),
        ("a.csv", "id,title\n0,x\n", "column 'name'"),
        ("a.csv", "id,name\n0,x\n1,x\n", "'x' is listed twice"),
        ("a.csv", "id,name\n", "empty"),
        ("a.txt", "1 x\n3 y\n", "without gaps"),
        ("a.json", "3", "is expected"),
    ],
)
def test_broken_lists_are_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(VtjaxError, match=message):
        class_list(tmp_path / name)


def test_layouts(tmp_path):
    (tmp_path / "a.csv").write_text('id,name\n1,"b, c"\n0,a\n')
    (tmp_path / "b.txt").write_text("2 b, c\n1 a\n")
    (tmp_path / "c.json").write_text('{"b, c": "1", "a": "0"}')
    (tmp_path / "d.txt").write_text("a\nb, c\n")
    assert {class_list(p) for p in tmp_path.iterdir()} == {("a", "b, c")}


def test_names():
    with pytest.raises(BadRow, match="unknown class") as bad:
        index_of("runing", ("running", "walking"))
    assert "did you mean 'running'" in bad.value.detail


def test_data_info_errors(tmp_path):
    path = tmp_path / "i.json"
    entry = {"class_names": ["a"], "num_classes": 2, "train_session_set": [], "test_session_set": []}
    path.write_text(json.dumps({"THUMOS": entry}))
    with pytest.raises(VtjaxError, match="num_classes is 2"):
        data_info(path, "THUMOS")
    with pytest.raises(VtjaxError, match="did you mean 'THUMOS'"):
        data_info(path, "THUMSO")
    path.write_text('{"THUMOS": {"class_names": ["a"]}}')
    with pytest.raises(VtjaxError, match="session_set"):
        data_info(path, "THUMOS")
