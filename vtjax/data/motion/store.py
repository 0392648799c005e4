"""The prepared motion folder: what training, evaluation and search read.

features.npy  float32 [sum T, 263]: every clip, then its swapped motion, in order; read through a memory map
clips.jsonl   one clip per line: key, offset, length, captions, bounds, swapped offset and order, split
meta.json     format version, counts, fingerprint (sha256 over the contents of both), source, fps, world version
mean.npy, std.npy  float32 [263], over the split "train" (over all clips where there is none)

A folder is written beside its place and renamed into it, so that a half-written one is never found.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from vtjax.data.motion.clip import FEATURES, FPS, Caption, MotionClip
from vtjax.data.motion.validate import check_features
from vtjax.errors import MissingSplit, VtjaxError, nearest

VERSION = 1
_FILES = ("meta.json", "clips.jsonl", "features.npy")


def write_store(
    path: str | os.PathLike,
    clips: Iterable[MotionClip],
    *,
    meta: Mapping[str, object] | None = None,
    splits: Mapping[str, str] | None = None,
    subsets: Mapping[str, Sequence[str]] | None = None,
    overwrite: bool = False,
) -> dict[str, object]:
    """Writes clips as a prepared folder and returns its meta data.

    splits: clip key -> split name, read as each clip arrives; meta, and subsets (name -> keys, for lists that overlap
    splits, such as nsim_test), are read after the last one: the iterable may fill all three. Raises VtjaxError where
    the folder exists and overwrite is False, two clips share a key, a clip is not finite float [T, 263], or there is
    no clip.
    """
    path = pathlib.Path(path)
    if path.exists() and not overwrite:
        raise VtjaxError(f"{path}: exists already; name another folder or pass --overwrite")
    if path.exists() and any(path.iterdir()) and not (path / "meta.json").is_file():
        raise VtjaxError(f"{path}: is not a prepared motion folder and is not overwritten")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        # Filled while the clips are read, so an empty one is not replaced.
        splits, subsets = {} if splits is None else splits, {} if subsets is None else subsets
        summary = _write(partial, clips, {} if meta is None else meta, splits, subsets)
        store = MotionStore(partial)
        train = store.split("train") if "train" in store.splits else range(len(store))
        for name, values in zip(("mean", "std"), store.statistics(train), strict=True):
            np.save(partial / f"{name}.npy", values)
        del store
        if path.exists():
            old = path.with_name(f".{path.name}.old-{os.getpid()}")
            os.rename(path, old)
            os.rename(partial, path)
            shutil.rmtree(old)
        else:
            os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return summary


def _write(folder, clips, meta, splits, subsets) -> dict[str, object]:
    rows, keys = 0, set()
    feature_hash, clip_hash = hashlib.sha256(), hashlib.sha256()
    captions = 0
    with open(folder / "features.npy", "wb") as features, open(folder / "clips.jsonl", "wb") as lines:
        _write_header(features, 0)
        start = features.tell()
        for clip in clips:
            if clip.key in keys:
                raise VtjaxError(f"two clips have the key {clip.key!r}")
            keys.add(clip.key)
            captions += len(clip.captions)
            record = _record(clip, rows, splits.get(clip.key, ""))
            for part in (clip.features, clip.swapped):
                if part is None:
                    continue
                check_features(part, clip.key)
                data = np.ascontiguousarray(part, np.float32).tobytes()
                features.write(data)
                feature_hash.update(data)
                rows += len(part)
            line = json.dumps(record, sort_keys=True, ensure_ascii=False).encode() + b"\n"
            lines.write(line)
            clip_hash.update(line)
        if not keys:
            raise VtjaxError("no clips to store")
        features.seek(0)
        _write_header(features, rows)
        if features.tell() != start:
            raise RuntimeError("the npy header changed its length")
        for file in (features, lines):
            file.flush()
            os.fsync(file.fileno())
    unknown = {name: sorted(set(members) - keys) for name, members in subsets.items()}
    meta = dict(meta) | {
        "format": "vtjax motion store",
        "version": VERSION,
        "clips": len(keys),
        "captions": captions,
        "rows": rows,
        "fps": meta.get("fps", FPS),
        "clips_sha256": clip_hash.hexdigest(),
        "features_sha256": feature_hash.hexdigest(),
        "fingerprint": hashlib.sha256((feature_hash.hexdigest() + clip_hash.hexdigest()).encode()).hexdigest(),
        "mean": "mean.npy",
        "std": "std.npy",
        "subsets": {name: [k for k in members if k in keys] for name, members in subsets.items()},
        "subsets_missing": {name: len(members) for name, members in unknown.items() if members},
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return meta


def _write_header(file, rows: int) -> None:
    # numpy pads headers so that the first axis may grow in place.
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, FEATURES)}
    np.lib.format.write_array_header_1_0(file, header)


def _record(clip: MotionClip, offset: int, split: str) -> dict[str, object]:
    record: dict[str, object] = {
        "key": clip.key,
        "offset": offset,
        "length": len(clip.features),
        "captions": [
            {k: v for k, v in dataclasses.asdict(c).items() if v not in ("", (), None)} | {"text": c.text}
            for c in clip.captions
        ],
    }
    if clip.bounds:
        record["bounds"] = [list(map(int, b)) for b in clip.bounds]
    if clip.swapped is not None:
        record["swapped"] = [offset + len(clip.features), len(clip.swapped)]
        record["swapped_order"] = list(map(int, clip.swapped_order))
    if split:
        record["split"] = split
    return record


class MotionStore:
    """A prepared folder as a sequence of MotionClip; picklable, since it re-opens its memory map.

    Opening checks sizes and the clip list's hash; `verify` also hashes the features.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        self.meta = self._read_meta()
        lines = (self.path / "clips.jsonl").read_bytes()
        if hashlib.sha256(lines).hexdigest() != self.meta["clips_sha256"]:
            file = self.path / "clips.jsonl"
            raise VtjaxError(f"{file}: changed or truncated since it was written; prepare the folder again")
        self.records = [json.loads(line) for line in lines.splitlines()]
        self.keys = tuple(r["key"] for r in self.records)
        self._features = self._map()

    def _read_meta(self) -> dict:
        for name in _FILES:
            if not (self.path / name).is_file():
                raise VtjaxError(
                    f"{self.path}: no file {name}; a folder made by `python -m vtjax.prepare --kind=motion` is expected"
                )
        try:
            meta = json.loads((self.path / "meta.json").read_text())
            version = meta["version"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise VtjaxError(f"{self.path / 'meta.json'}: damaged ({error}); prepare the folder again") from None
        if version != VERSION:
            raise VtjaxError(f"{self.path}: format version {version}, this vtjax reads {VERSION}; prepare it again")
        return meta

    def _map(self) -> np.memmap:
        file = self.path / "features.npy"
        try:
            features = np.load(file, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise VtjaxError(f"{file}: truncated npy ({error}); prepare the folder again") from None
        if features.shape != (self.meta["rows"], FEATURES) or features.dtype != np.float32:
            raise VtjaxError(
                f"{file}: {features.dtype} {list(features.shape)}, meta.json promises float32 "
                f"[{self.meta['rows']}, {FEATURES}]; prepare the folder again"
            )
        return features

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k != "_features"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._features = self._map()

    def __len__(self) -> int:
        return len(self.records)

    def captions(self, index: int) -> tuple[Caption, ...]:
        """Captions of clip `index`, without reading its features."""
        return tuple(Caption(**{**c, "events": tuple(c.get("events", ()))}) for c in self.records[index]["captions"])

    def __getitem__(self, index: int) -> MotionClip:
        record = self.records[index]
        offset, length = record.get("swapped", (0, 0))
        return MotionClip(
            record["key"],
            np.array(self._features[record["offset"] : record["offset"] + record["length"]]),
            self.captions(index),
            tuple((b, e) for b, e in record.get("bounds", ())),
            np.array(self._features[offset : offset + length]) if length else None,
            tuple(record.get("swapped_order", ())),
        )

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    @property
    def fingerprint(self) -> str:
        """sha256 over the clip list and all features; equal contents have equal fingerprints wherever they lie."""
        return self.meta["fingerprint"]

    @property
    def splits(self) -> dict[str, int]:
        """Clips per split, the named subsets included."""
        counts: dict[str, int] = {}
        for record in self.records:
            if record.get("split"):
                counts[record["split"]] = counts.get(record["split"], 0) + 1
        return counts | {name: len(keys) for name, keys in self.meta.get("subsets", {}).items()}

    def split(self, name: str) -> list[int]:
        """Indices of the clips of a split or subset, in order. Raises MissingSplit on an unknown one."""
        if name in self.meta.get("subsets", {}):
            position = {key: i for i, key in enumerate(self.keys)}
            return [position[key] for key in self.meta["subsets"][name]]
        indices = [i for i, record in enumerate(self.records) if record.get("split") == name]
        if not indices:
            raise MissingSplit(f"{self.path}: no split {name!r}: {nearest(name, self.splits)}")
        return indices

    def statistics(self, indices: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and unbiased std per dimension over the rows of these clips, float32 [263] each; normalise by
        (x - mean) / (std + 1e-12), as TMR does. A dimension that never changes gets std 1, so that it becomes 0 and a
        later change in it is not blown up."""
        spans = [(r["offset"], r["offset"] + r["length"]) for r in (self.records[i] for i in indices)]
        count = sum(end - begin for begin, end in spans)
        if count < 2:
            raise VtjaxError(f"{self.path}: {count} rows are too few for statistics")
        total = sum(self._features[b:e].sum(0, dtype=np.float64) for b, e in spans)
        mean = total / count
        squares = sum(((self._features[b:e] - mean) ** 2).sum(0) for b, e in spans)
        std = np.sqrt(squares / (count - 1))
        std = np.where(std < 1e-6, 1.0, std)
        return mean.astype(np.float32), std.astype(np.float32)

    def verify(self) -> None:
        """Hashes all features. Raises VtjaxError where they are not those that were written."""
        digest = hashlib.sha256()
        for begin in range(0, len(self._features), 1 << 14):
            digest.update(np.ascontiguousarray(self._features[begin : begin + (1 << 14)]).tobytes())
        if digest.hexdigest() != self.meta["features_sha256"]:
            raise VtjaxError(f"{self.path / 'features.npy'}: corrupt: its contents are not those that were written")
