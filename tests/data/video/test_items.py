"""Lists and folders of a user's own videos."""

import json

import pytest

from vtjax.data.video.items import read_items
from vtjax.errors import Problems, VtjaxError


@pytest.fixture
def folder(tmp_path):
    for name in ("cook/a.mp4", "cook/b.mp4", "play/a.mp4", "play/c.avi", "play/c.mkv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_a_folder(folder):
    (folder / "notes.txt").write_text("x")
    (folder / "list.csv").write_text("x")
    (folder / ".hidden.mp4.part").write_text("x")
    problems = Problems()
    records, classes = read_items(folder, problems, label_from_folder=True)
    assert [r.id for r in records] == ["cook/a", "cook/b", "play/a", "play/c.avi", "play/c.mkv"]
    assert classes == ("cook", "play") and [r.label for r in records] == [0, 0, 1, 1, 1]
    assert all(r.path.is_file() for r in records)
    assert problems.counts() == {
        "its name is not that of a video": 1, "a list beside the videos is read only when --input names it": 1,
    }  # fmt: skip
    assert read_items(folder, Problems())[1] == ()


def test_a_table_by_video(folder):
    (folder / "list.csv").write_text(
        "video,label,start,end,caption,narration,split\n"
        "cook/a.mp4,cook,,,A whole video.,,train\n"
        "cook/a.mp4,cut,1.5,0:03,,now I cut,train\n"
        "cook/a,pour,1:02.5,63,Pouring.,,\n"
        "b,play,,,,,test\n"
    )
    problems = Problems()
    records, classes = read_items(folder / "list.csv", problems)
    assert not len(problems), problems.report()
    assert classes == ("cook", "cut", "play", "pour")
    a, short, b = records
    assert (a.id, a.label, a.class_name, a.split) == ("cook/a.mp4", 0, "cook", "train")
    assert [(s.start, s.end, s.text, s.label) for s in a.segments] == [(1.5, 3.0, "cut", 1)]
    assert [(n.start, n.end, n.text) for n in a.narrations] == [(1.5, 3.0, "now I cut")]
    assert [(c.text, c.start) for c in a.captions] == [("A whole video.", None)]
    assert short.id == "cook/a" and short.path == folder / "cook/a.mp4"
    assert short.split == "train"  # others have one
    assert short.segments[0].start == 62.5 and short.captions[0].start == 62.5
    assert b.path == folder / "cook/b.mp4" and b.split == "test"


def test_a_table_by_segment(folder):
    (folder / "list.tsv").write_text(
        "video\tstart\tend\tlabel\tnarration\n"
        "cook/a.mp4\t1\t2\tcut\tI cut\n"
        "cook/a.mp4\t1\t2\t\tand again\n"
        "cook/a.mp4\t4\t6.5\tpour\t\n"
        "cook/b.mp4\t\t\tpour\t\n"
    )
    records, classes = read_items(folder / "list.tsv", Problems(), unit="segment")
    assert [(r.id, r.span, r.class_name) for r in records] == [
        ("cook/a@1-2", (1.0, 2.0), "cut"), ("cook/a@4-6.5", (4.0, 6.5), "pour"), ("cook/b", None, "pour"),
    ]  # fmt: skip
    assert [n.text for n in records[0].narrations] == ["I cut", "and again"]
    assert records[0].narrations[0].start == 1.0  # the clock of the whole video


def test_json_with_nested_segments(folder):
    row = {"video": "cook/a.mp4", "label": "cook", "segments": [{"start": 0, "end": 2.5, "caption": "x"}]}
    (folder / "list.jsonl").write_text(json.dumps(row) + "\n\n{oops\n[1]\n")
    problems = Problems()
    (record,), classes = read_items(folder / "list.jsonl", problems)
    assert record.class_name == "cook" and record.captions[0].end == 2.5 and classes == ("cook",)
    assert [(p.where.rsplit("/", 1)[1], p.reason) for p in problems.items] == [
        ("list.jsonl:3", "not JSON"), ("list.jsonl:4", "not a JSON object"),
    ]  # fmt: skip
    (folder / "list.json").write_text(json.dumps([row]))
    assert read_items(folder / "list.json", Problems())[0][0].captions == record.captions


def test_bad_rows_are_counted_by_line(folder):
    rows = ["1,,x,,", "3,2,x,,", ",,,talk,", "a,2,x,,", None, "1", "1,2,ok,,train", "1,2,ok,,test"]
    lines = [",1,2,x,," if row is None else f"cook/a.mp4,{row}" for row in rows]
    (folder / "list.csv").write_text("\n".join(["video,start,end,label,narration,split", *lines]))
    problems = Problems()
    (record,), _ = read_items(folder / "list.csv", problems)
    assert len(record.segments) == 1 and record.split == "train"
    assert {int(p.where.split("list.csv:")[1].split(":")[0]): p.reason for p in problems.items} == {
        2: "start without end, or end without start", 3: "start and end do not rise from 0 on",
        4: "a narration without start and end", 5: "start is not a number", 6: "no video is named",
        7: "wrong number of columns; a text that holds ',' needs double quotes", 9: "a video is in two splits",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text, encoding",
    [("Video;Caption\ncook/a.mp4;é, b\n", "utf-8"), ("video\tcaption\ncook/a.mp4\té, b\n", "utf-16"),
     ('video,caption\ncook/a.mp4,"é, b"\n', "utf-8-sig")],
)  # fmt: skip
def test_what_spreadsheets_write(text, encoding, folder):
    (folder / "list.csv").write_text(text, encoding=encoding)
    problems = Problems()
    (record,), _ = read_items(folder / "list.csv", problems)
    assert record.captions[0].text == "é, b" and not problems.items


def test_text_of_another_encoding_is_not_altered_silently(folder):
    (folder / "list.csv").write_text("video,caption\ncook/a.mp4,fine\ncook/b.mp4,café\n", encoding="latin-1")
    problems = Problems()
    (record,), _ = read_items(folder / "list.csv", problems)
    assert record.id == "cook/a"
    assert problems.items[0].where.endswith("list.csv:3: caption")
    assert problems.counts() == {"not UTF-8 text; save the list as UTF-8": 1}


def test_a_fixed_list_of_classes(folder):
    (folder / "list.csv").write_text("video,label\ncook/a.mp4,b\ncook/b.mp4,z\n")
    problems = Problems()
    records, classes = read_items(folder / "list.csv", problems, classes=("b", "a"))
    assert classes == ("b", "a") and [r.label for r in records] == [0, -1]
    assert problems.counts() == {"its label is not in the list of classes": 1}


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("list.csv", "video,lable\n", "unknown column 'lable': did you mean 'label'"),
        ("list.csv", "clip,label\n", "'video' is needed, found: clip, label"),
        ("list.csv", "", "'video' is needed, found: nothing"),
        ("list.csv", '"video,label\n', "list.csv:1: a row cannot be read"),
        ("list.csv", "video,id\n", "unknown column 'id'.*none of video, start, end, .* must be taken out"),
        ("list.csv", "video,label,label\n", "a column is there twice"),
        ("list.csv", 'video,caption\na.mp4,fine\nb.mp4,"open\nc.mp4,x\nd.mp4,"shut"\n', "list.csv:3: a row cannot"),
        ("list.csv", 'video,caption\na.mp4,"open\nb.mp4,x\n', "list.csv:2: a row cannot be read"),
        ("list.csv", 'video,caption\na.mp4,"one" and more\n', "must be closed at its end"),
        ("list.json", "{}", "a list of objects is expected"),
        ("list.docx", "x", "a folder of videos, a video, or a list"),
        (None, None, "no such file or folder"),
    ],
)
def test_lists_that_cannot_be_read(name, text, words, tmp_path):
    if name:
        (tmp_path / name).write_text(text)
    with pytest.raises(VtjaxError, match=words):
        read_items(tmp_path / (name or "absent.csv"), Problems())


def test_an_empty_folder(tmp_path):
    with pytest.raises(VtjaxError, match="no videos in it"):
        read_items(tmp_path, Problems())
