"""Chunks and annotations: what is written is what is read, and damage is told."""

import pathlib

import numpy as np
import pytest

from vtjax.data.video import records
from vtjax.data.video_records import (
    Caption, FrameTargets, Instruction, Narration, Narrative, Question, Segment, Step, StepScript, Turn, Utterance,
    VideoRecord,
)  # fmt: skip
from vtjax.errors import VtjaxError


def frames(count=5):
    return np.random.default_rng(0).integers(0, 256, (count, 24, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("codec", ["png", "webp", "raw"])
def test_lossless_frames(codec):
    clip = frames()
    chunk = records.frames_chunk([records.encode_frame(f, codec) for f in clip], clip.shape[1:], codec)
    got = records.read_chunk(chunk, [4, 0, 0])
    assert all(np.array_equal(a, clip[i]) for a, i in zip(got, [4, 0, 0], strict=True))
    assert records.chunk_shape(chunk) == [24, 32, 3]


def test_jpeg_is_close_and_small(video):
    frame = video.picture(3, 96, 128)
    data = records.encode_frame(frame, "jpeg", 95)
    assert len(data) < frame.nbytes / 4
    got = records.decode_frame(data, frame.shape, "jpeg")
    assert np.abs(got.astype(int) - frame).mean() < 3


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_features(dtype):
    rows = np.random.default_rng(0).normal(size=(3, 2, 5)).astype(dtype)
    got = records.read_chunk(records.array_chunk(rows), [2, 0])
    assert got[0].dtype == dtype and np.array_equal(np.stack(got), rows[[2, 0]])


def test_damaged_chunks():
    clip = frames(2)
    chunk = records.frames_chunk([records.encode_frame(f, "png") for f in clip], clip.shape[1:], "png")
    for bad in (b"", b"VTV1", chunk[:-9], b"XXXX" + chunk[4:], chunk[:20] + b"\x00\x00" + chunk[22:]):
        with pytest.raises(VtjaxError):
            records.read_chunk(bad, [0])
    with pytest.raises(VtjaxError):
        records.read_chunk(chunk, [2])


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
    import json

    back = records.record_from_json(json.loads(json.dumps(records.record_to_json(record))))
    for name in ("id", "path", "span", "script", "segments", "narrations", "captions", "questions", "instruction"):
        assert getattr(back, name) == getattr(record, name), name
    assert np.array_equal(back.narratives[0].traces[0], record.narratives[0].traces[0])
    assert back.narratives[0].words == record.narratives[0].words
    assert back.targets.targets.dtype == np.float32 and np.array_equal(back.targets.targets, targets)
    assert back.targets.classes == ("bg", "x", "y")
    with pytest.raises(VtjaxError, match="not a stored video record"):
        records.record_from_json({"type": "Turn", "speaker": "a", "text": "b"})
