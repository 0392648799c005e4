"""VTimeLLM: time tokens (pite.md 3.3) and the shipped evaluation log."""

import json

import pytest

from vtjax.data.readers import activitynet_captions
from vtjax.data.readers.vtimellm import frame_token, read, read_log, with_frames
from vtjax.errors import VtjaxError

ENTRY = {
    "source": "internvid",
    "id": "3n3oCNerzV0",
    "conversations": [
        {"from": "human", "value": "<video>\nWhat happens from <s0> to <e0>?"},
        {"from": "gpt", "value": "A man runs."},
        {"from": "human", "value": "When does a dog bark?"},
        {"from": "gpt", "value": "From <s1> to <e1>."},
    ],
    "meta": {"split": [0, 54.2], "duration": 54.2, "token": {"<s0>": 0, "<e0>": 9.4, "<s1>": 49.4, "<e1>": 53.2}},
}


def test_time_tokens_golden(tmp_path):
    assert [frame_token(t, 54.2) for t in (0, 9.4, 49.4, 53.2)] == ["00", "17", "91", "98"]  # pite.md 3.3
    assert frame_token(54.2, 54.2) == "99" and frame_token(0.5, 100) == "00" and frame_token(1.5, 100) == "02"
    (tmp_path / "stage2.json").write_text(json.dumps([ENTRY]))
    (record,), coverage = read(tmp_path)
    assert not coverage.problems and (record.duration, record.span) == (54.2, (0, 54.2))
    assert "<s0>" in record.instruction.turns[0].text
    assert [t.text for t in with_frames(record)] == [
        "<video>\nWhat happens from 00 to 17?", "A man runs.", "When does a dog bark?", "From 91 to 98.",
    ]  # fmt: skip


def test_bad_entries(tmp_path):
    def changed(**meta):
        return {**ENTRY, "meta": {**ENTRY["meta"], **meta}}

    entries = [
        changed(token={"<s0>": 0, "<e0>": 9}), changed(token={"<s0>": "soon"}), changed(duration=0),
        changed(split=[5, 1]),
        changed(token=[]), {**ENTRY, "id": ""}, {**ENTRY, "meta": {"token": ENTRY["meta"]["token"]}},
    ]  # fmt: skip
    (tmp_path / "stage2.json").write_text(json.dumps(entries))
    records, coverage = read(tmp_path)
    assert records == [] and coverage.problems.counts() == {
        "a time token of the text is not in meta.token": 1, "a time token is not a number": 1,
        "the duration is not positive": 1, "the segment ends before it starts": 1, "token is not an object": 1,
        "id is empty": 1, "time tokens without a duration": 1,
    }  # fmt: skip


def test_the_shipped_log(shared_data):
    folder = shared_data / "videollm/vtimellm_eval"
    answers = read_log(folder / "example_log.txt")
    assert [(a.video, a.task, a.sentence) for a in answers[:2]] == [
        ("v_bXdq2zI1Ms0", "captioning", -1), ("v_bXdq2zI1Ms0", "grounding", 0),
    ]  # fmt: skip
    assert [a.iou for a in answers if a.task == "grounding"] == [0.20, 0.20, 0.40, 0.60, 0.82, 0.00]  # pite.md 6.2
    truth = {r.id: r for r in activitynet_captions.read(folder / "data_example.json")[0]}
    assert all(0 <= a.sentence < len(truth[a.video].captions) for a in answers if a.task == "grounding")


def test_bad_log_rows(tmp_path):
    path = tmp_path / "log.txt"
    rows = [
        {"video_id": "a", "task": "grounding", "query_id": 0, "answer": ""}, {"video_id": "a", "task": "qa"},
        {"video_id": "a", "task": "captioning", "query_id": 0, "answer": ""},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(r) + "\n" for r in rows) + "x\n")
    from vtjax.data.readers.coverage import Coverage

    coverage = Coverage("log", "answers", "rows")
    assert [a.where for a in read_log(path, coverage)] == [f"{path}:3"]
    assert coverage.problems.counts() == {
        "grounding without info.sentence_id": 1, "the task is neither captioning nor grounding": 1, "not JSON": 1,
    }  # fmt: skip


def test_frames_need_a_duration(tmp_path):
    import dataclasses

    (tmp_path / "a.json").write_text(json.dumps([ENTRY]))
    record = dataclasses.replace(read(tmp_path)[0][0], duration=None)
    with pytest.raises(VtjaxError, match="need the video's duration"):
        with_frames(record)
