"""VTimeLLM: instruction files with time tokens, and the log its evaluation reads (pite.md 3.3, 6.2).

Instructions: a list of {"source", "id", "conversations", "meta": {"split": [t0, t1], "duration", "token": {"<s0>":
seconds}}}. Log: JSON rows {"video_id", "task": "captioning" or "grounding", "query_id", "answer", "info"}.
"""

from __future__ import annotations

import dataclasses
import os
import re

from vtjax.data.readers.coverage import BadRow, Coverage
from vtjax.data.readers.instructions import conversation, read_conversations
from vtjax.data.readers.json_stream import json_lines
from vtjax.data.readers.rows import duration_of, field, find_file, integer, listed, mapping, number, span, text
from vtjax.data.video_records import Instruction, Turn, VideoRecord
from vtjax.errors import VtjaxError

FRAMES = 100
TASKS = ("captioning", "grounding")
_TOKEN = re.compile(r"<[se]\d+>")


@dataclasses.dataclass(frozen=True)
class Answer:
    """One row of the evaluation log. sentence: the caption asked for, -1 in dense captioning. iou: as logged."""

    video: str
    task: str
    query: int
    answer: str
    sentence: int
    iou: float | None
    where: str


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


def frame_token(seconds: float, duration: float) -> str:
    """The two digits that stand for a time: min(round(100 t / duration), 99), round half to even (pite.md 3.3)."""
    return f"{min(round(seconds / duration * FRAMES), FRAMES - 1):02d}"


def with_frames(record: VideoRecord) -> tuple[Turn, ...]:
    """The turns with every time token replaced by its two digits. Raises VtjaxError without a duration."""
    if record.instruction.times and record.duration is None:
        raise VtjaxError(f"{record.where}: time tokens need the video's duration")
    digits = {name: frame_token(seconds, record.duration) for name, seconds in record.instruction.times}
    return tuple(
        Turn(turn.speaker, _TOKEN.sub(lambda match: digits.get(match[0], match[0]), turn.text))
        for turn in record.instruction.turns
    )


def read_log(path: str | os.PathLike, coverage: Coverage | None = None) -> list[Answer]:
    """Reads an evaluation log; rows that cannot be used are counted in `coverage`."""
    coverage = Coverage("log", "answers", "rows") if coverage is None else coverage
    answers = []
    for where, row in json_lines(path):
        with coverage.row(where):
            if isinstance(row, ValueError):
                raise BadRow("not JSON", str(row))
            video, task = text(field(row, "video_id"), "video_id"), field(row, "task")
            if task not in TASKS:
                raise BadRow("the task is neither captioning nor grounding", repr(task)[:60])
            answer = field(row, "answer")
            if not isinstance(answer, str):
                raise BadRow("the answer is not text", repr(answer)[:60])
            info = mapping(row.get("info", {}), "info")
            if task == "grounding" and "sentence_id" not in info:
                raise BadRow("grounding without info.sentence_id")
            sentence = integer(info["sentence_id"], "sentence_id") if "sentence_id" in info else -1
            iou = number(info["iou"], "iou") if "iou" in info else None
            query = integer(field(row, "query_id"), "query_id")
            answers.append(Answer(video, task, query, answer, sentence, iou, where))
    return answers
