"""YouCook2: the file of 415 videos and its clocks; the official layout."""

import json
import math
import re

import pytest

from vtjax.data.readers.youcook2 import read
from vtjax.errors import VtjaxError


def test_the_file_with_speech(shared_data):
    folder = shared_data / "instructional/youcook2"
    records, coverage = read(folder)
    assert len(records) == 415 and (coverage.rows, coverage.rows_used) == (3187, 3186)
    assert coverage.problems.counts() == {"the segment starts after the video": 1}
    assert coverage.notes.counts() == {
        "the video has no speech": 13,
        "the time tokens are scaled by another duration": 2,
    }
    first = records[0]
    assert (first.id, first.duration, len(first.segments)) == ("xHr8X2Wpmno", 207, 6)
    assert (first.segments[0].start, first.segments[0].text) == (47, "pick the ends off the verdalago")
    assert first.narrations[0].text.startswith("Hi, this is Vera")


def test_steps_fall_into_the_interval_that_their_tokens_give(shared_data):
    """The rule that turns the speech's tokens into seconds, applied to the steps, whose seconds are known."""
    path = shared_data / "instructional/youcook2/asr_and_steps_415.json"
    with open(path, encoding="utf-8") as file:
        entries = json.load(file)["annotations"]
    inside = total = other = 0
    for entry in entries:
        scale = int(entry["seg_prompt"].split(";")[0])
        tokens = [int(t) for t in re.findall(r"<time_token_(\d+)>", entry["caption"])]
        seconds = [t for segment in entry["segments"] for t in segment]
        for token, second in zip(tokens, seconds, strict=True):
            slack = max(1.0, entry["duration"] - scale) if abs(scale - entry["duration"]) <= 2 else 1.0
            inside += token * scale / 99 - slack <= second <= (token + 1) * scale / 99 + slack
            other += token == math.floor(100 * second / entry["duration"])  # percent, the obvious reading
            total += 1
    assert total == 6374 and inside == total and other < 0.6 * total


OFFICIAL = {
    "database": {
        "a": {
            "duration": 100.5, "subset": "training", "recipe_type": "101", "video_url": "u",
            "annotations": [
                {"segment": [40, 60], "id": 1, "sentence": "fry"},
                {"segment": [10, 20], "id": 0, "sentence": " chop "},
                {"segment": [10, 5], "id": 2, "sentence": "x"},
                {"segment": [10], "id": 3, "sentence": "x"},
            ],
        },
        "b": {"duration": 10, "subset": "validation", "recipe_type": "102", "annotations": []},
        "c": {"duration": 10, "subset": "validation", "annotations": [{"segment": [1, 2], "id": 0, "sentence": "mix"}]},
    }
}  # fmt: skip


def test_official_layout(tmp_path):
    (tmp_path / "youcookii_annotations_trainval.json").write_text(json.dumps(OFFICIAL))
    records, coverage = read(tmp_path)
    assert [r.id for r in records] == ["a", "c"]
    assert [(s.start, s.text, s.label) for s in records[0].segments] == [(10, "chop", 0), (40, "fry", 1)]
    assert [s.text for s in records[0].script.steps] == ["chop", "fry"] and records[0].class_name == "101"
    assert coverage.problems.counts() == {
        "the segment ends before it starts": 1, "segment has not 2 entries": 1, "no usable segment": 1,
    }  # fmt: skip
    assert [r.id for r in read(tmp_path, split="validation")[0]] == ["c"]


def test_neither_layout(tmp_path):
    (tmp_path / "asr_and_steps.json").write_text('{"rows": []}')
    with pytest.raises(VtjaxError, match="'annotations' is expected"):
        read(tmp_path)
