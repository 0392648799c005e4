"""The prepared folder of videos: random access to frames or features, and to their annotations.

plan.json                         what was asked for, with a digest; written first
shard-00000-of-00004.array_record chunks of frames or features (chunks.py)
shard-00000-of-00004.json         the shard's videos: annotation, times, chunks, damage; problems; hash. Written last:
                                  a shard with this file is finished, any other is made again
meta.json                         counts, classes, fingerprint; written when every shard is finished
problems.jsonl                    every video that was left out or is damaged, with its reason
"""

from __future__ import annotations

import base64
import bisect
import collections
import functools
import hashlib
import json
import os
import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vtjax.data.video import chunks
from vtjax.data.video.container import VideoError
from vtjax.data.video.source import ClipSource
from vtjax.data.video.timed import Video
from vtjax.data.video_records import VideoRecord, record_from_json
from vtjax.errors import MissingSplit, VtjaxError, nearest

VERSION = 1
_OPEN = 64  # array_record files held open
_HINT = "a folder made by `python -m vtjax.prepare --kind=video` is expected"


def shard_name(shard: int, shards: int) -> str:
    return f"shard-{shard:05d}-of-{shards:05d}"


def pack_times(times: np.ndarray) -> str:
    """float64 times as text, bit for bit."""
    return base64.b64encode(np.ascontiguousarray(times, "<f8").tobytes()).decode()


def read_json(path: pathlib.Path, missing: str) -> dict[str, Any]:
    """A JSON object. Raises VtjaxError with `missing` where there is no file, and where it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise VtjaxError(f"{path}: no such file; {missing}") from None
    except (OSError, ValueError) as error:
        raise VtjaxError(f"{path}: damaged ({error}); remove it and prepare again") from None
    if not isinstance(value, dict):
        raise VtjaxError(f"{path}: damaged (no JSON object); remove it and prepare again")
    return value


class VideoStore(ClipSource):
    """A prepared folder as a source: `store.open(i)` is a StoredVideo, `store.record(i)` its annotation.

    Raises:
      VtjaxError: no such folder, unfinished, of another version, or damaged.
    """

    def __init__(self, path: str | os.PathLike, *, log: str | os.PathLike | None = None):
        super().__init__(log)
        self.path = pathlib.Path(path)
        if not (self.path / "meta.json").is_file() and (self.path / "plan.json").is_file():
            raise VtjaxError(f"{self.path}: not finished; run the same `python -m vtjax.prepare` again, it goes on")
        self.meta = read_json(self.path / "meta.json", _HINT)
        if self.meta.get("format") != "vtjax video store" or self.meta.get("version") != VERSION:
            kind = f"{self.meta.get('format')!r} version {self.meta.get('version')!r}"
            raise VtjaxError(f"{self.path}: {kind}, this vtjax reads 'vtjax video store' version {VERSION}; {_HINT}")
        self._ends = np.cumsum(self.meta["shard_videos"]).tolist()
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._readers: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._sidecar = functools.lru_cache(maxsize=_OPEN)(self._load_sidecar)

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_readers", "_sidecar")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._reset()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def fingerprint(self) -> str:
        """sha256 over all contents; equal contents have equal fingerprints wherever and by how many they were made."""
        return self.meta["fingerprint"]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a record's and a segment's label is an index into them."""
        return tuple(self.meta["classes"])

    @property
    def splits(self) -> dict[str, int]:
        """Videos per split."""
        return dict(self.meta["splits"])

    @functools.cached_property
    def keys(self) -> tuple[str, ...]:
        """The records' ids, in order."""
        return tuple(v["record"]["id"] for s in range(len(self._ends)) for v in self._sidecar(s)["videos"])

    def split(self, name: str) -> list[int]:
        """Indices of the videos of a split. Raises MissingSplit on an unknown one."""
        if name not in self.meta["splits"]:
            raise MissingSplit(f"{self.path}: no split {name!r}: {nearest(name, self.meta['splits'])}")
        entries = (v for s in range(len(self._ends)) for v in self._sidecar(s)["videos"])
        return [i for i, entry in enumerate(entries) if entry["record"].get("split", "") == name]

    def record(self, index: int) -> VideoRecord:
        return record_from_json(self._entry(index)[1]["record"])

    def open(self, index: int) -> StoredVideo:
        """The stored video. Raises VideoError where its shard is damaged."""
        shard, entry = self._entry(index)
        first = entry["first"]
        return StoredVideo(str(self.path), entry, lambda rows: self.chunks(shard, [first + row for row in rows]))

    def chunks(self, shard: int, rows: Sequence[int]) -> list[bytes]:
        """Chunks of a shard, by position. Raises VideoError where the file is damaged."""
        where = self.path / f"{shard_name(shard, len(self._ends))}.array_record"
        try:
            with self._lock:
                return self._reader(shard, where).read(list(rows))
        except (RuntimeError, ValueError, OSError, IndexError) as error:
            raise VideoError(where, "a shard is damaged or gone", str(error).split("\n")[0][:200]) from None

    def verify(self) -> None:
        """Reads everything. Raises VtjaxError where a shard is not what was written."""
        for shard in range(len(self._ends)):
            sidecar = self._sidecar(shard)
            digest = hashlib.sha256()
            for row in range(sidecar["chunks"]):
                digest.update(self.chunks(shard, [row])[0])
            if digest.hexdigest() != sidecar["data_sha256"]:
                name = shard_name(shard, len(self._ends))
                raise VtjaxError(f"{self.path / name}.array_record: corrupt; remove {name}.json and prepare again")

    def _entry(self, index: int) -> tuple[int, dict[str, Any]]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = bisect.bisect_right(self._ends, index)
        return shard, self._sidecar(shard)["videos"][index - (self._ends[shard - 1] if shard else 0)]

    def _load_sidecar(self, shard: int) -> dict[str, Any]:
        sidecar = read_json(self.path / f"{shard_name(shard, len(self._ends))}.json", "a shard is gone; prepare again")
        if sidecar["sha256"] != self.meta["shard_sha256"][shard]:
            raise VtjaxError(f"{self.path}: shard {shard} changed after meta.json; run the same prepare again")
        return sidecar

    def _reader(self, shard: int, where: pathlib.Path):
        from array_record.python.array_record_module import ArrayRecordReader

        if shard not in self._readers:
            self._readers[shard] = ArrayRecordReader(str(where))
            if len(self._readers) > _OPEN:
                self._readers.popitem(last=False)[1].close()
        self._readers.move_to_end(shard)
        return self._readers[shard]


class StoredVideo(Video):
    """A video of a store; its times are on the source's clock.

    where: for messages. entry: of the sidecar. chunks: its chunks by their places, the first is 0.
    features: False where its rows are uint8 [H, W, 3] frames, True where they are feature arrays. damage: of the
    source.
    """

    def __init__(self, where: str, entry: dict[str, Any], chunks: Callable[[Sequence[int]], list[bytes]]):
        self._entry, self._chunks = entry, chunks
        self.times = np.frombuffer(base64.b64decode(entry["times"]), "<f8")
        self.key = entry["record"]["id"]
        self.path = f"{where}: {self.key}"  # for messages
        self.start, self.end = map(float, entry["range"])
        self.fps = float(entry["fps"])
        self.shape = tuple(entry["shape"])
        self.features = entry["codec"] == "array"

    @property
    def damage(self) -> str:
        return self._entry.get("damage", "")

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, 3], or features [n, ...] in their stored type; only the chunks they lie in are read.

        Raises VtjaxError where an index is out of range, VideoError where the shard is damaged.
        """
        indices = np.asarray(indices, np.int64).reshape(-1)
        if len(indices) == 0:
            return np.zeros((0, *self.shape), self._entry["dtype"])
        if indices.min() < 0 or indices.max() >= len(self):
            raise VtjaxError(f"{self.key}: rows {indices.min()} to {indices.max()} of {len(self)} were asked for")
        size = self._entry["chunk_rows"]
        unique = np.unique(indices)
        needed = np.unique(unique // size)
        rows: dict[int, np.ndarray] = {}
        for chunk, data in zip(needed, self._chunks(needed.tolist()), strict=True):
            mine = unique[unique // size == chunk]
            try:
                rows |= zip(mine.tolist(), chunks.read_chunk(data, (mine - chunk * size).tolist()), strict=True)
            except VtjaxError as error:
                raise VideoError(self.path, "a stored chunk is damaged", str(error)) from None
        return np.stack([rows[i] for i in indices.tolist()])
