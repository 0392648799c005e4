"""VTimeLLM: instruction files with time tokens (pite.md 3.3).

A list of {"source", "id", "conversations", "meta": {"split": [t0, t1], "duration", "token": {"<s0>":
seconds}}}.
"""

from __future__ import annotations

import os
import re

from vtjax.data.readers.coverage import BadRow, Coverage
from vtjax.data.readers.instructions import conversation, read_conversations
from vtjax.data.readers.rows import duration_of, field, find_file, listed, mapping, number, span, text
from vtjax.data.video_records import Instruction, VideoRecord

_TOKEN = re.compile(r"<[se]\d+>")


def read(
    folder: str | os.PathLike,
    *,
    split: str = "train",
    videos: object | None = None,
    exclude: dict[str, str] | None = None,
) -> tuple[list[VideoRecord], Coverage]:
    """Reads an instruction file. Instruction.times are the time tokens with their seconds, still in the text."""
    coverage = Coverage(split, "videos", "conversations")

    def build(where: str, key: str, entry: object, coverage: Coverage) -> VideoRecord:
        video = text(field(entry, "id"), "id")
        meta = mapping(entry.get("meta", {}), "meta")
        duration = duration_of(meta["duration"]) if "duration" in meta else None
        tokens = mapping(meta.get("token", {}), "token")
        times = tuple((name, number(seconds, "a time token")) for name, seconds in tokens.items())
        part = None
        if meta.get("split") is not None:
            part = span(*listed(meta["split"], "split", 2), None, coverage, where)
        media = "image" if entry.get("image") else "video"
        turns = conversation(entry, media, where, coverage)
        known = {name for name, _ in times}
        unknown = [t for turn in turns for t in _TOKEN.findall(turn.text) if t not in known]
        if unknown:
            raise BadRow("a time token of the text is not in meta.token", unknown[0])
        if times and duration is None:
            raise BadRow("time tokens without a duration")
        return VideoRecord(
            f"{video}/{key}", video, where, split, media=media, duration=duration, span=part,
            instruction=Instruction(turns, times),
        )  # fmt: skip

    path = find_file(folder, ("*stage*.json", "*.json"))
    return coverage.finish(read_conversations(path, coverage, build, exclude), videos), coverage
