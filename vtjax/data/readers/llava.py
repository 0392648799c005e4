"""LLaVA's instruction files: a list of {"id", "image" (absent for text only), "conversations": [{"from", "value"}]}."""

from __future__ import annotations

import os

from vtjax.data.readers.coverage import Coverage
from vtjax.data.readers.instructions import conversation, read_conversations
from vtjax.data.readers.media_folder import stem
from vtjax.data.readers.rows import field, find_file, text
from vtjax.data.video_records import Instruction, VideoRecord


def read(
    folder: str | os.PathLike,
    *,
    split: str = "train",
    videos: object | None = None,
    exclude: dict[str, str] | None = None,
) -> tuple[list[VideoRecord], Coverage]:
    """Reads one .json file. Entries have a picture ("image"), a video ("video") or neither (media "text")."""
    coverage = Coverage(split, "media", "conversations")

    def build(where: str, key: str, entry: object, coverage: Coverage) -> VideoRecord:
        identity = str(field(entry, "id"))
        media = "video" if entry.get("video") else "image" if entry.get("image") else "text"
        name = stem(text(entry[media], media)) if media != "text" else f"text {identity}"
        turns = conversation(entry, media, where, coverage)
        return VideoRecord(f"{identity}/{key}", name, where, split, media=media, instruction=Instruction(turns))

    records = read_conversations(find_file(folder, ("llava*.json", "*.json")), coverage, build, exclude)
    with_media = coverage.finish([r for r in records if r.media != "text"], videos)
    located = {r.id: r for r in with_media}
    coverage.used = len(records)
    return [located.get(r.id, r) for r in records], coverage
