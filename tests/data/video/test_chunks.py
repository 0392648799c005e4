"""Chunks: what is written is what is read, and damage is told."""

import numpy as np
import pytest

from vtjax.data.video import chunks
from vtjax.errors import VtjaxError


def frames(count=5):
    return np.random.default_rng(0).integers(0, 256, (count, 24, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("codec", ["png", "webp", "raw"])
def test_lossless_frames(codec):
    clip = frames()
    chunk = chunks.frames_chunk([chunks.encode_frame(f, codec) for f in clip], clip.shape[1:], codec)
    got = chunks.read_chunk(chunk, [4, 0, 0])
    assert all(np.array_equal(a, clip[i]) for a, i in zip(got, [4, 0, 0], strict=True))
    assert chunks.chunk_shape(chunk) == [24, 32, 3]


def test_jpeg_is_close_and_small(video):
    frame = video.picture(3, 96, 128)
    data = chunks.encode_frame(frame, "jpeg", 95)
    assert len(data) < frame.nbytes / 4
    got = chunks.decode_frame(data, frame.shape, "jpeg")
    assert np.abs(got.astype(int) - frame).mean() < 3


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_features(dtype):
    rows = np.random.default_rng(0).normal(size=(3, 2, 5)).astype(dtype)
    got = chunks.read_chunk(chunks.array_chunk(rows), [2, 0])
    assert got[0].dtype == dtype and np.array_equal(np.stack(got), rows[[2, 0]])


def test_damaged_chunks():
    clip = frames(2)
    chunk = chunks.frames_chunk([chunks.encode_frame(f, "png") for f in clip], clip.shape[1:], "png")
    for bad in (b"", b"VTV1", chunk[:-9], b"XXXX" + chunk[4:], chunk[:20] + b"\x00\x00" + chunk[22:]):
        with pytest.raises(VtjaxError):
            chunks.read_chunk(bad, [0])
    with pytest.raises(VtjaxError):
        chunks.read_chunk(chunk, [2])
