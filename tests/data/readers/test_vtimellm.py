"""VTimeLLM: time tokens of instruction files."""

import json

from vtjax.data.readers.instructions import vtimellm

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


def test_time_tokens(tmp_path):
    (tmp_path / "stage2.json").write_text(json.dumps([ENTRY]))
    (record,), coverage = vtimellm(tmp_path)
    assert not coverage.problems and (record.duration, record.span) == (54.2, (0, 54.2))
    assert "<s0>" in record.instruction.turns[0].text


def test_bad_entries(tmp_path):
    def changed(**meta):
        return {**ENTRY, "meta": {**ENTRY["meta"], **meta}}

    entries = [
        changed(token={"<s0>": 0, "<e0>": 9}), changed(token={"<s0>": "soon"}), changed(duration=0),
        changed(split=[5, 1]),
        changed(token=[]), {**ENTRY, "id": ""}, {**ENTRY, "meta": {"token": ENTRY["meta"]["token"]}},
    ]  # fmt: skip
    (tmp_path / "stage2.json").write_text(json.dumps(entries))
    records, coverage = vtimellm(tmp_path)
    assert records == [] and coverage.problems.counts() == {
        "a time token of the text is not in meta.token": 1, "a time token is not a number": 1,
        "the duration is not positive": 1, "the segment ends before it starts": 1, "token is not an object": 1,
        "id is empty": 1, "time tokens without a duration": 1,
    }  # fmt: skip
