"""The bytes of a prepared video: chunks of frames or features in array_record files.

A chunk is one array_record entry: b"VTV1", uint32 little-endian length of a JSON header, the header, the payload.
  frames    {"codec": "jpeg" | "png" | "webp" | "raw", "shape": [n, H, W, 3], "sizes": [bytes of each frame]}
  features  {"codec": "array", "shape": [n, ...], "dtype": "float16" | "float32"}, C order, little-endian
A video is a run of chunks of the same number of rows (the last may be shorter), so that a window of a long video costs
the chunks that it touches and no more.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vtjax.errors import VtjaxError

MAGIC = b"VTV1"
CODECS = ("jpeg", "png", "webp", "raw")
DTYPES = ("float16", "float32")
_OPTIONS = {"raw": {}, "png": {"compress_level": 3}, "webp": {"lossless": True, "method": 2}}


def writer_options(codec: str) -> str:
    """array_record's options for chunks: one per block, compressed only where the codec does not do so itself."""
    return "group_size:1,zstd:1" if codec in ("raw", "array") else "group_size:1,uncompressed"


def encode_frame(frame: np.ndarray, codec: str, quality: int = 95) -> bytes:
    """One uint8 [H, W, 3] frame; "png", "webp" and "raw" keep every bit, "jpeg" has the quality of PIL."""
    if codec == "raw":
        return np.ascontiguousarray(frame).tobytes()
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, codec, **(_OPTIONS.get(codec) or {"quality": quality}))
    return buffer.getvalue()


def decode_frame(data: bytes, shape: Sequence[int], codec: str) -> np.ndarray:
    """uint8 [H, W, 3]. Raises VtjaxError where the bytes are not a frame of that shape."""
    try:
        if codec == "raw":
            return np.frombuffer(data, np.uint8).reshape(shape)
        with Image.open(io.BytesIO(data), formats=[codec]) as image:
            frame = np.asarray(image.convert("RGB"))
    except (OSError, ValueError) as error:
        raise VtjaxError(f"a stored {codec} frame is damaged: {error}") from None
    if frame.shape != tuple(shape):
        raise VtjaxError(f"a stored frame is {list(frame.shape)}, its header says {list(shape)}")
    return frame


def frames_chunk(encoded: Sequence[bytes], shape: Sequence[int], codec: str) -> bytes:
    """A chunk of frames that are already encoded; shape: [H, W, 3]."""
    header = {"codec": codec, "shape": [len(encoded), *map(int, shape)], "sizes": [len(e) for e in encoded]}
    return _chunk(header, b"".join(encoded))


def array_chunk(rows: np.ndarray) -> bytes:
    """A chunk of float16 or float32 rows [n, ...]."""
    header = {"codec": "array", "shape": list(rows.shape), "dtype": rows.dtype.name}
    return _chunk(header, np.ascontiguousarray(rows.astype(rows.dtype.newbyteorder("<"))).tobytes())


def _chunk(header: Mapping[str, Any], payload: bytes) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    return MAGIC + struct.pack("<I", len(text)) + text + payload


def read_chunk(data: bytes, rows: Iterable[int]) -> list[np.ndarray]:
    """The rows asked for, uint8 [H, W, 3] each, or one feature array each. Only these frames are decoded.

    Raises VtjaxError where the chunk is damaged.
    """
    if data[:4] != MAGIC or len(data) < 8:
        raise VtjaxError("not a chunk of a prepared video")
    (length,) = struct.unpack("<I", data[4:8])
    try:
        header = json.loads(data[8 : 8 + length])
        shape, codec = header["shape"], header["codec"]
        payload = memoryview(data)[8 + length :]
        if codec == "array":
            array = np.frombuffer(payload, np.dtype(header["dtype"]).newbyteorder("<")).reshape(shape)
            return [array[row].astype(array.dtype.newbyteorder("=")) for row in rows]
        ends = np.cumsum(header["sizes"])
        if codec not in CODECS or ends[-1] != len(payload):
            raise VtjaxError(f"a chunk of codec {codec!r} with {len(payload)} bytes, its header says {ends[-1]}")
        begins = ends - header["sizes"]
        return [decode_frame(bytes(payload[begins[row] : ends[row]]), shape[1:], codec) for row in rows]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        if isinstance(error, VtjaxError):
            raise
        raise VtjaxError(f"a chunk of a prepared video is damaged: {error}") from None


def chunk_shape(chunk: bytes) -> list[int]:
    """Shape of one row of a chunk."""
    (length,) = struct.unpack("<I", chunk[4:8])
    return json.loads(chunk[8 : 8 + length])["shape"][1:]
