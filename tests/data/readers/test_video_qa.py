"""Video question answering: Video-ChatGPT's pair of files, and the released ones."""

import json

import pytest

from vtjax.data.readers.video_qa import read
from vtjax.data.video_records import Question
from vtjax.errors import VtjaxError


def test_pair_of_files(tmp_path):
    questions = [("v_a", "is it red", "a_1"), ("v_b.mp4", "who runs", "b_1"), ("v_a", "what", "a_2")]
    questions += [("v_a", "", "a_3"), ("v_a", "q", "a_4")]
    answers = [("yes", 3, "a_1"), ("man", None, "b_1"), ("dog", 1, "other"), ("x", 1, "a_3")]
    (tmp_path / "test_q.json").write_text(
        json.dumps([dict(zip(("video_name", "question", "question_id"), q, strict=True)) for q in questions])
    )
    (tmp_path / "test_a.json").write_text(
        json.dumps([dict(zip(("answer", "type", "question_id"), a, strict=True)) for a in answers])
    )
    records, coverage = read(tmp_path, dataset="activitynet")
    assert {r.id: r.questions for r in records} == {
        "v_a": (Question("a_1", "is it red", "yes", "3"),), "v_b": (Question("b_1", "who runs", "man"),),
    }  # fmt: skip
    assert coverage.problems.counts() == {
        "question and answer at one position differ in id": 1, "question is empty": 1,
        "a question without an answer, or the reverse": 1,
    }  # fmt: skip
    assert "not the published number of test questions" in coverage.notes.counts()


@pytest.mark.parametrize(("dataset", "name"), [("msvd", "vid1201"), ("msrvtt", "video1201"), ("", "1201")])
def test_released_files_number_their_videos(tmp_path, dataset, name):
    rows = [
        {"answer": "cook", "category_id": 14, "id": 158581, "question": "what does a man do?", "video_id": 1201},
        {"answer": 2, "id": 3, "question": "how many?", "video_id": 1201},
        {"answer": "x", "question": "no video?"},
    ]
    (tmp_path / "test_qa.json").write_text(json.dumps(rows))
    (record,), coverage = read(tmp_path, dataset=dataset)
    assert record.id == name
    assert record.questions == (Question("158581", "what does a man do?", "cook"), Question("3", "how many?", "2"))
    assert coverage.problems.counts() == {"no 'video_name', 'video' or 'video_id'": 1}
    assert coverage.problems.items[0].where.endswith("test_qa.json:1: entry 2")


def test_errors(tmp_path):
    with pytest.raises(VtjaxError, match="unknown data set 'tgif'"):
        read(tmp_path, dataset="tgif")
    with pytest.raises(VtjaxError, match="_qa.json"):
        read(tmp_path)
    (tmp_path / "test_q.json").write_text("[]")
    with pytest.raises(VtjaxError, match="test_a.json: no such file"):
        read(tmp_path)
