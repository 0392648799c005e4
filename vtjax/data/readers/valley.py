"""Valley-Instruct (65k, earlier 73k): LLaVA's layout with "video" and, for the sub-folder, "source" (pite.md 3.6).

Many of its videos are gone from the web (VATEX, JukinMedia), so look at the coverage before training.
"""

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
    """Reads the instruction file. Record.video is "{source}/{video}" without suffix, found by path, then by name."""
    coverage = Coverage(split, "videos", "conversations")

    def build(where: str, key: str, entry: object, coverage: Coverage) -> VideoRecord:
        name = stem(text(field(entry, "video"), "video"))
        source = entry.get("source")
        name = f"{text(source, 'source')}/{name}" if source is not None else name
        turns = conversation(entry, "video", where, coverage)
        return VideoRecord(f"{entry.get('id', name)}/{key}", name, where, split, instruction=Instruction(turns))

    path = find_file(folder, ("*alley*instruct*.json", "*.json"))
    return coverage.finish(read_conversations(path, coverage, build, exclude), videos), coverage
