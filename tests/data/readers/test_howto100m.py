"""HowTo100M: both layouts of speech, the side files, evaluation videos kept out."""

import json

import pytest

from vtjax.data.readers.howto100m import read
from vtjax.data.readers.rows import id_list
from vtjax.data.video_records import Narration
from vtjax.errors import VtjaxError

SPEECH = {
    "aaaaaaaaaaa": {"text": ["hello", "cut the onion"], "start": [0.5, 4], "end": [3.25, 9.0]},
    "bbbbbbbbbbb": {"text": ["stir", " ", "x", "y"], "start": [1, 2, 9, None], "end": [2, 3, 4, 5]},
    "ccccccccccc": {"text": ["a"], "start": [1, 2], "end": [3]},
    "ddddddddddd": {"text": ["serve"], "start": [1], "end": [2]},
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sentencified_htm_370k.json").write_text(json.dumps(SPEECH))
    (tmp_path / "HowTo100M_v1.csv").write_text(
        "video_id,category_1,category_2,rank,task_id\n"
        "aaaaaaaaaaa,Food and Entertaining,Drinks,1,7\nbbbbbbbbbbb,Food and Entertaining,Drinks,2,7\n"
        "ddddddddddd,Health,Sleep,1,8\n"
    )
    (tmp_path / "htm_vlen.csv").write_text("vid,vlen\naaaaaaaaaaa,120\nbbbbbbbbbbb,nan\n")
    return tmp_path


def test_json_speech(folder):
    records, coverage = read(folder)
    assert [r.id for r in records] == ["aaaaaaaaaaa", "bbbbbbbbbbb", "ddddddddddd"]
    assert records[0].narrations == (Narration(0.5, 3.25, "hello"), Narration(4, 9, "cut the onion"))
    assert (records[0].duration, records[0].class_name, records[1].duration) == (120, "Food and Entertaining", None)
    assert coverage.problems.counts() == {
        "duration is not finite": 1,
        "text is empty": 1,
        "the sentence ends before it starts, or starts before the video": 1,
        "start is not a number": 1,
        "text, start and end differ in length": 1,
    }
    assert (coverage.rows, coverage.rows_used) == (7, 4)
    where = f"{folder}/sentencified_htm_370k.json:1: bbbbbbbbbbb sentence 1"
    assert where in [p.where for p in coverage.problems.items]
    assert "no evaluation videos were taken out" in coverage.report()


def test_choice_and_evaluation_videos(folder):
    exclude = {"aaaaaaaaaaa": "HT-Step test_seen"}
    records, coverage = read(folder, categories={"Food and Entertaining"}, exclude=exclude)
    assert [r.id for r in records] == ["bbbbbbbbbbb"]
    assert coverage.problems.counts()["evaluation video of HT-Step test_seen, kept out of training"] == 1
    assert not coverage.notes
    (folder / "ids.txt").write_text("ddddddddddd\nzzzzzzzzzzz\n")
    records, coverage = read(folder, ids=id_list(folder / "ids.txt"))
    assert [r.id for r in records] == ["ddddddddddd"] and (coverage.listed, coverage.annotated) == (2, 1)


def test_csv_speech_is_the_same(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("csv")
    for video in ("aaaaaaaaaaa", "ddddddddddd"):
        rows = zip(*(SPEECH[video][c] for c in ("start", "end", "text")), strict=True)
        lines = "".join(f"{s},{e},{t}\n" for s, e, t in rows)
        (other / f"{video}.csv").write_text(f"start,end,text\n{lines}1,2\n")
    records, coverage = read(other)
    expected = {r.id: r.narrations for r in read(folder)[0]}
    assert [r.narrations for r in records] == [expected["aaaaaaaaaaa"], expected["ddddddddddd"]]
    assert coverage.problems.counts() == {"wrong number of columns": 2}
    assert coverage.problems.items[0].where.startswith(f"{other}/aaaaaaaaaaa.csv:4")


def test_missing_files(folder, tmp_path_factory):
    with pytest.raises(VtjaxError, match="sentencified_htm_370k.json"):
        read(tmp_path_factory.mktemp("none"))
    (folder / "HowTo100M_v1.csv").unlink()
    with pytest.raises(VtjaxError, match="choose categories"):
        read(folder, categories={"Health"})
