"""Video-ChatGPT's VideoInstruct_Dataset.json: a list of {"q", "a", "video_id"} (pite.md 3.6).

Its videos are ActivityNet's training part, so "zero-shot" results on ActivityNet rest on having seen them.
"""

from __future__ import annotations

import os

from vtjax.data.readers.coverage import Coverage
from vtjax.data.readers.instructions import read_conversations
from vtjax.data.readers.rows import field, find_file, text
from vtjax.data.video_records import Instruction, Turn, VideoRecord


def read(
    folder: str | os.PathLike,
    *,
    split: str = "train",
    videos: object | None = None,
    exclude: dict[str, str] | None = None,
) -> tuple[list[VideoRecord], Coverage]:
    """Reads one question and answer per record; the token <video> always comes before the question, as PiTe infers."""
    coverage = Coverage(split, "videos", "conversations")

    def build(where: str, key: str, entry: object, coverage: Coverage) -> VideoRecord:
        video = text(field(entry, "video_id"), "video_id")
        question, answer = text(field(entry, "q"), "q"), text(field(entry, "a"), "a")
        turns = (Turn("human", f"<video>\n{question}"), Turn("gpt", answer))
        return VideoRecord(f"{video}/{key}", video, where, split, instruction=Instruction(turns))

    path = find_file(folder, ("VideoInstruct*.json", "*.json"))
    return coverage.finish(read_conversations(path, coverage, build, exclude), videos), coverage
