"""What a run of `vtjax.prepare --kind=video` is to make, cut into shards, and the account of it when all are there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence

from vtjax.data.video.shards import Making, write_shard
from vtjax.data.video.store import VERSION, read_json, shard_name
from vtjax.data.video_records import VideoRecord, record_to_json
from vtjax.errors import VtjaxError
from vtjax.files import write_atomically

_FORMAT = "vtjax video store"
_SHARDS = 16  # at least, so that a few videos still spread over processes


@dataclasses.dataclass(frozen=True)
class Plan:
    """Videos in order, `per_shard` to a shard. The same input and settings give the same plan on every host."""

    folder: pathlib.Path
    videos: tuple[VideoRecord, ...]
    classes: tuple[str, ...]
    making: Making
    per_shard: int

    @property
    def shards(self) -> int:
        return -(-len(self.videos) // self.per_shard)

    def of(self, shard: int) -> tuple[VideoRecord, ...]:
        return self.videos[shard * self.per_shard : (shard + 1) * self.per_shard]

    def __call__(self, shard: int, excluded, send) -> None:
        """Makes one shard: what a worker process does."""
        write_shard(self.folder, shard, self.shards, self.of(shard), self.making, excluded, send)

    def sidecar(self, shard: int) -> pathlib.Path:
        return self.folder / f"{shard_name(shard, self.shards)}.json"

    def unfinished(self) -> list[int]:
        return [shard for shard in range(self.shards) if not self.sidecar(shard).is_file()]

    def describe(self) -> dict[str, object]:
        """plan.json. Its digest covers the videos by name and size, their annotations and all settings."""
        digest = hashlib.sha256()
        for video in self.videos:
            size = video.path.stat().st_size if video.path.is_file() else -1
            same = dataclasses.replace(video, path=None, where=pathlib.PurePath(video.where).name)
            digest.update(json.dumps([record_to_json(same), size], sort_keys=True).encode())
        making = dataclasses.asdict(self.making)
        digest.update(json.dumps([making, self.per_shard, self.classes], sort_keys=True).encode())
        return {
            "format": _FORMAT,
            "version": VERSION,
            "digest": digest.hexdigest(),
            "videos": len(self.videos),
            "videos_per_shard": self.per_shard,
            "shards": self.shards,
            "making": making,
            "classes": list(self.classes),
        }


def make_plan(
    folder: pathlib.Path, videos: Sequence[VideoRecord], classes: Sequence[str], making: Making, per_shard: int = 0
) -> Plan:
    """per_shard: 0 chooses 64 at most, and 16 shards or more where there are as many videos."""
    chosen = per_shard or max(1, min(64, -(-len(videos) // _SHARDS)))
    return Plan(folder, tuple(videos), tuple(classes), making, chosen)


def begin(plan: Plan, overwrite: bool) -> None:
    """Writes plan.json, or takes up the work where it stands.

    Raises VtjaxError where the folder holds something else, or was begun with other videos or settings.
    """
    path, described = plan.folder / "plan.json", plan.describe()
    if overwrite and path.is_file():
        if read_json(path, "").get("format") != _FORMAT:
            raise VtjaxError(f"{plan.folder}: is not a prepared video folder and is not overwritten")
        for name in ("meta.json", "problems.jsonl", "plan.json"):
            (plan.folder / name).unlink(missing_ok=True)
        for old in plan.folder.glob("*shard-*-of-*"):
            old.unlink()
    if path.is_file():
        begun = read_json(path, "")
        if begun.get("digest") != described["digest"]:
            raise VtjaxError(
                f"{plan.folder}: begun with {_difference(begun, described)}; name another --output or pass --overwrite"
            )
        return
    if plan.folder.exists() and (not plan.folder.is_dir() or any(plan.folder.iterdir())):
        raise VtjaxError(f"{plan.folder}: exists and is not a prepared video folder; name another --output")
    write_atomically(path, json.dumps(described, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def _difference(found: dict, now: dict) -> str:
    old, new = found.get("making", {}), now["making"]
    changed = [f"{name} {old.get(name)!r} (now {new[name]!r})" for name in new if old.get(name) != new[name]]
    for name in ("videos", "videos_per_shard"):
        if found.get(name) != now[name]:
            changed.append(f"{found.get(name)} {name} (now {now[name]})")
    return ", ".join(changed) or "other videos or annotations"


def finish(plan: Plan, listed: Sequence[dict]) -> dict | None:
    """Writes problems.jsonl and meta.json when every shard is there and returns the latter; None when not.

    listed: problems of the list itself. Any number of hosts may do this at once: they write the same.
    """
    if plan.unfinished():
        return None
    sidecars = [read_json(plan.sidecar(shard), "") for shard in range(plan.shards)]
    problems = list(listed) + [p for sidecar in sidecars for p in sidecar["problems"]]
    entries = [entry for sidecar in sidecars for entry in sidecar["videos"]]
    digest = hashlib.sha256()
    splits: dict[str, int] = {}
    rows = 0
    for entry in entries:
        digest.update(bytes.fromhex(entry["sha256"]))
        split = entry["record"].get("split", "")
        splits[split] = splits.get(split, 0) + 1
        rows += len(entry["times"]) * 3 // 4 // 8
    meta = {
        "format": _FORMAT,
        "version": VERSION,
        "videos": len(entries),
        "rows": rows,
        "classes": list(plan.classes),
        "splits": {name: count for name, count in sorted(splits.items()) if name},
        "making": dataclasses.asdict(plan.making),
        "shard_videos": [len(sidecar["videos"]) for sidecar in sidecars],
        "shard_sha256": [sidecar["sha256"] for sidecar in sidecars],
        "left_out": sum(not p["kept"] for p in problems),
        "damaged": sum(bool(entry["damage"]) for entry in entries),
        "fingerprint": digest.hexdigest(),
    }
    lines = [json.dumps(p, sort_keys=True, ensure_ascii=False) + "\n" for p in problems]
    write_atomically(plan.folder / "problems.jsonl", "".join(lines))
    write_atomically(plan.folder / "meta.json", json.dumps(meta, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return meta
