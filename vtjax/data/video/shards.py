"""One shard of a prepared folder: videos in, chunks and a list of what became of each video out."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vtjax.data.options import flag
from vtjax.data.video import chunks
from vtjax.data.video.container import MAX_PIXELS, VideoError
from vtjax.data.video.decode import VideoReader
from vtjax.data.video.excerpt import excerpt
from vtjax.data.video.sampling import rate_grid
from vtjax.data.video.store import pack_times, read_json, shard_name
from vtjax.data.video.towers import NAMED, Tower, load_tower
from vtjax.data.video_records import VideoRecord, record_to_json
from vtjax.encoders.image import ImageTransform
from vtjax.errors import VtjaxError
from vtjax.files import write_atomically

_IN_MEMORY = 32 << 20  # bytes of a video's chunks held before they go to a file
Send = Callable[[tuple], None]


@dataclasses.dataclass(frozen=True)
class Making:
    """What decides the contents of a prepared folder; each field is the flag of the same name (see prepare.py)."""

    fps: float = flag("float", 4.0, "Frames per second that are kept; 0 keeps every frame.", lower_bound=0)
    offset: float = flag(
        "float", 0.5, "Place of a frame in its step of 1/fps: 0.5 its middle.", lower_bound=0, upper_bound=0.99
    )
    size: int = flag(
        "integer", 256, "Pixels, see --fit; 0 keeps the size, or leaves it to a tower that knows its own, which is the "
        "default with a named tower; else 256.", default=None, lower_bound=0
    )  # fmt: skip
    fit: str = flag(
        "enum", "short", "short: the shorter side becomes --size, never enlarged; crop: and the centre is cut out; "
        "squash: both sides become --size.", enum_values=("short", "crop", "squash")
    )  # fmt: skip
    codec: str = flag("enum", "jpeg", "How frames are kept; all but jpeg keep every bit.", enum_values=chunks.CODECS)
    quality: int = flag("integer", 95, "Of jpeg.", lower_bound=1, upper_bound=100)
    features: str = flag(
        "string", "", f"Keep these of a tower instead of frames: {', '.join(NAMED)}, or module:function from uint8 "
        "[batch, H, W, 3] (RGB) to floats [batch, ...]; see vtjax/data/video/towers.py."
    )  # fmt: skip
    weights: str = flag("string", "", "Of the tower: a published CLIP (folder, file, hub id) or a run of vtjax.train.")
    feature_dtype: str = flag("enum", "float16", "Type of the features on disk.", enum_values=chunks.DTYPES)
    frames_per_feature: int = flag(
        "integer", 1, "With more than 1 the tower sees [batch, frames, H, W, 3].", lower_bound=1
    )
    batch: int = flag("integer", 64, "Items that the tower sees at once, always as many.", lower_bound=1)
    chunk_rows: int = flag("integer", 16, "Frames or features that are stored together.", lower_bound=1)
    min_decoded: float = flag(
        "float", 0.5, "Share of a damaged video that must be intact.", lower_bound=0, upper_bound=1
    )
    max_pixels: int = flag("integer", MAX_PIXELS, "Largest frame, in pixels.", lower_bound=1)

    def fit_frame(self, frame: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] to its stored size, bicubically by PIL. "short" never enlarges."""
        if not self.size:
            return frame
        if self.fit != "short":
            return ImageTransform(self.size, resize="shortest" if self.fit == "crop" else "squash").pixels(frame)
        height, width = frame.shape[:2]
        scale = self.size / min(height, width)
        if scale >= 1:
            return frame
        # Rounded down as CLIP's own resizing, so that its later crop finds the same pixels.
        size = (max(int(width * scale + 1e-9), self.size), max(int(height * scale + 1e-9), self.size))
        return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


def write_shard(
    folder: pathlib.Path,
    shard: int,
    shards: int,
    videos: Sequence[VideoRecord],
    making: Making,
    excluded: Mapping[int, tuple[str, str]],
    send: Send = lambda event: None,
) -> None:
    """Writes a shard's two files. excluded: position -> (reason, detail) of videos that ended an earlier attempt.

    Sends ("video", position, id), ("beat",) while at it, and ("ready", position). A bad video is listed in the sidecar
    and costs nothing else. Raises VtjaxError on an error of the tower.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    name = shard_name(shard, shards)
    for old in folder.glob(f".{name}.*"):
        old.unlink(missing_ok=True)
    tower = load_tower(making.features, making.weights) if making.features else None
    fingerprint = getattr(tower, "fingerprint", "")
    _same_tower(folder, shards, fingerprint)
    partial = folder / f".{name}.{os.getpid()}.partial"
    writer = ArrayRecordWriter(str(partial), chunks.writer_options("array" if tower else making.codec))
    entries: list[dict[str, Any]] = []
    problems: list[dict[str, Any]] = []
    digest, written = hashlib.sha256(), 0
    try:
        for position, record in enumerate(videos):
            send(("video", position, record.id))
            try:
                if position in excluded:
                    raise VideoError(record.path, *excluded[position])
                with made_video(record, making, tower, lambda: send(("beat",))) as (entry, made):
                    for chunk in made:
                        writer.write(chunk)
                        digest.update(chunk)
                entries.append(entry | {"first": written})
                written += entry["chunks"]
                if entry["damage"]:
                    problems.append(_problem(record.path, "kept, but damaged", entry["damage"], True))
                if entry["outside"]:
                    reason = "kept without the annotations that lie after its end"
                    problems.append(_problem(record.path, reason, entry["outside"], True))
            except VideoError as error:
                problems.append(_problem(error.where, error.reason, error.detail, False))
            except MemoryError:
                problems.append(_problem(record.path, "needs more memory than is allowed", "", False))
            send(("ready", position))
    except BaseException:
        writer.close()
        partial.unlink(missing_ok=True)
        raise
    writer.close()
    os.replace(partial, folder / f"{name}.array_record")
    sidecar = {"videos": entries, "chunks": written, "data_sha256": digest.hexdigest(), "problems": problems}
    sidecar["tower"] = fingerprint
    text = json.dumps(sidecar, sort_keys=True)
    sidecar["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    write_atomically(folder / f"{name}.json", json.dumps(sidecar, sort_keys=True, ensure_ascii=False) + "\n")


def _same_tower(folder: pathlib.Path, shards: int, fingerprint: str) -> None:
    """Raises VtjaxError where finished shards were made with other weights."""
    for shard in range(shards):
        path = folder / f"{shard_name(shard, shards)}.json"
        if path.is_file():
            if read_json(path, "")["tower"] != fingerprint:
                raise VtjaxError(f"{path}: made with other weights than --weights has now; --overwrite begins anew")
            return


def _problem(where: object, reason: str, detail: str, kept: bool) -> dict[str, Any]:
    return {"where": str(where), "reason": reason, "detail": detail, "kept": kept}


@contextlib.contextmanager
def made_video(
    record: VideoRecord, making: Making, tower: Tower | None = None, beat: Callable[[], None] = lambda: None
) -> Iterator[tuple[dict[str, Any], Iterator[bytes]]]:
    """Decodes one video to (entry, chunks), the chunks in a temporary file where they are many.

    The entry holds all but "first", the place of its first chunk. Raises VideoError where the video cannot be used,
    VtjaxError on an error of the tower.
    """
    index = None
    while True:
        with VideoReader(record.path, index=index, max_pixels=making.max_pixels) as reader:
            _enough(reader, making)
            with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as spool:
                entry, sizes = _video(record, reader, making, tower, spool, beat)
                _enough(reader, making)
                if reader.actual is not reader.index:
                    index = reader.actual  # its frames are others than its packets promise: once more, by those
                    continue
                spool.seek(0)
                digest = hashlib.sha256(json.dumps(entry, sort_keys=True).encode())
                for size in sizes:
                    digest.update(spool.read(size))
                spool.seek(0)
                entry |= {"chunks": len(sizes), "sha256": digest.hexdigest()}
                yield entry, (spool.read(size) for size in sizes)
                return


def _enough(reader: VideoReader, making: Making) -> None:
    if reader.intact < making.min_decoded:
        cut = len(reader.actual) < reader.actual.expected
        reason = "ends early, or much of it cannot be decoded" if cut else "most of it is spoilt"
        raise VideoError(reader.path, reason, reader.damage)


def _video(record, reader, making: Making, tower, spool, beat) -> tuple[dict[str, Any], list[int]]:
    """Writes the chunks to the spool. Returns the entry, and the chunks' sizes in bytes."""
    video = excerpt(reader, record.span)
    if making.fps:
        times, picks = rate_grid(video, making.fps, making.offset)
    else:
        times, picks = video.times, np.arange(len(video))
    pixels = getattr(tower, "pixels", None)
    fit = pixels if pixels is not None and not making.size else making.fit_frame
    frames = (fit(frame) for frame in _repeated(video, picks))
    fps = making.fps or reader.fps
    if tower is not None:
        group = making.frames_per_feature
        times = np.array([times[i : i + group].mean() for i in range(0, len(times), group)])
        fps /= group
        rows = _features(record, frames, making, tower, beat)
        made: Iterator[bytes] = (chunks.array_chunk(np.stack(chunk)) for chunk in _grouped(rows, making.chunk_rows))
    else:
        made = _encoded(frames, making, beat)
    sizes, shape = [], None
    for chunk in made:
        spool.write(chunk)
        sizes.append(len(chunk))
        shape = shape or chunks.chunk_shape(chunk)
    # Where the folder lies must not change what is stored.
    kept, outside = _inside(record, reader.end)
    kept = dataclasses.replace(kept, path=None, where=pathlib.PurePath(record.where).name)
    kept = kept if kept.duration is not None else dataclasses.replace(kept, duration=reader.end)
    return {
        "record": record_to_json(kept),
        "times": pack_times(times),
        "range": [video.start, video.end],
        "fps": fps,
        "shape": list(shape),
        "dtype": making.feature_dtype if tower else "uint8",
        "codec": "array" if tower else making.codec,
        "chunk_rows": making.chunk_rows,
        "source_duration": reader.end,
        "damage": reader.damage,
        "outside": outside,
    }, sizes


def _inside(record: VideoRecord, end: float) -> tuple[VideoRecord, str]:
    """The record without what is said of times that the video does not have, and what that was, "" for nothing."""
    kept: dict[str, Any] = {}
    lost = []
    for name in ("segments", "narrations", "captions"):
        items = getattr(record, name)
        kept[name] = tuple(item for item in items if item.start is None or item.start < end)
        if len(kept[name]) < len(items):
            lost.append(f"{len(items) - len(kept[name])} of {len(items)} {name}")
    return dataclasses.replace(record, **kept), f"{', '.join(lost)}, it ends at {end:.2f} s" if lost else ""


def _repeated(video, picks: np.ndarray) -> Iterator[np.ndarray]:
    """Frames of indices that rise or stay, each decoded once."""
    unique, counts = np.unique(picks, return_counts=True)
    for (_, frame), count in zip(video.iterate(unique), counts.tolist(), strict=True):
        for _ in range(count):
            yield frame


def _grouped(items: Iterator, size: int) -> Iterator[list]:
    group: list = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _encoded(frames: Iterator[np.ndarray], making: Making, beat) -> Iterator[bytes]:
    for group in _grouped(frames, making.chunk_rows):
        encoded = [chunks.encode_frame(frame, making.codec, making.quality) for frame in group]
        beat()
        yield chunks.frames_chunk(encoded, group[0].shape, making.codec)


def _features(record, frames: Iterator[np.ndarray], making: Making, tower: Tower, beat) -> Iterator[np.ndarray]:
    """Rows of the tower, which always sees `batch` items: the last batch is filled up with its last item."""
    items: Iterator[np.ndarray] = frames
    if making.frames_per_feature > 1:
        items = (_filled(group, making.frames_per_feature) for group in _grouped(frames, making.frames_per_feature))
    for group in _grouped(items, making.batch):
        batch = np.stack(group + [group[-1]] * (making.batch - len(group)))
        try:
            features = np.asarray(tower(batch))
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise VtjaxError(f"--features={making.features}: failed on uint8 {list(batch.shape)}: {what}") from error
        if features.ndim < 2 or len(features) != making.batch or features.dtype.kind != "f":
            raise VtjaxError(
                f"--features={making.features}: gave {features.dtype}{list(features.shape)} for uint8 "
                f"{list(batch.shape)}; floats [{making.batch}, ...] are expected"
            )
        rows = features[: len(group)].astype(making.feature_dtype)
        if not np.isfinite(rows).all():
            raise VideoError(record.path, f"its features are not finite in {making.feature_dtype}")
        beat()
        yield from rows


def _filled(group: list[np.ndarray], size: int) -> np.ndarray:
    """[size, H, W, 3]; missing frames at the end of a video are zero, as MPTVA has them."""
    return np.stack(group + [np.zeros_like(group[0])] * (size - len(group)))
