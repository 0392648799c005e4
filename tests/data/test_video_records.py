"""Annotations as JSON: every kind comes back as it was."""

import json
import pathlib

import numpy as np
import pytest

from vtjax.data.video_records import (
    Caption,
    FrameTargets,
    Instruction,
    Narration,
    Narrative,
    Question,
    Segment,
    Step,
    StepScript,
    Turn,
    Utterance,
    VideoRecord,
    record_from_json,
    record_to_json,
)  # fmt: skip
from vtjax.errors import VtjaxError


def test_every_kind_of_annotation_survives():
    targets = np.zeros((4, 3), np.float32)
    targets[:, 0] = 1
    record = VideoRecord(
        "a", "b", "list:3", split="val", path=pathlib.Path("x/y.mp4"), duration=3.25, span=(1.0, 2.0), label=3,
        class_name="cut", script=StepScript("t", "title", (Step(1, "one", "more"), Step(2, "two"))),
        segments=(Segment(0.1, 0.2, "s", 1, 2, "tag"),), narrations=(Narration(1.0, 2.0, "n", True),),
        captions=(Caption("c"), Caption("d", 1.0, 2.0, 0.5)),
        narratives=(Narrative("w", (Utterance("u", 0.0, 1.0, (0, 1)),), (np.random.rand(3, 4),), "actor", ((0, 2),)),),
        questions=(Question("1", "q?", "yes", "k"),), instruction=Instruction((Turn("human", "x"),), (("<s0>", 1.5),)),
        targets=FrameTargets(targets, ("bg", "x", "y"), 5.0),
    )  # fmt: skip
    back = record_from_json(json.loads(json.dumps(record_to_json(record))))
    for name in ("id", "path", "span", "script", "segments", "narrations", "captions", "questions", "instruction"):
        assert getattr(back, name) == getattr(record, name), name
    assert np.array_equal(back.narratives[0].traces[0], record.narratives[0].traces[0])
    assert back.narratives[0].words == record.narratives[0].words
    assert back.targets.targets.dtype == np.float32 and np.array_equal(back.targets.targets, targets)
    assert back.targets.classes == ("bg", "x", "y")
    with pytest.raises(VtjaxError, match="not a stored video record"):
        record_from_json({"type": "Turn", "speaker": "a", "text": "b"})
