"""MSVD-QA, MSRVTT-QA and ActivityNet-QA, as Video-ChatGPT's evaluation reads them and as released.

Two files: test_q.json [{"video_name", "question", "question_id"}] and test_a.json [{"answer", "type", "question_id"}],
aligned by position. One file: [{"question", "answer", "video_id", "id"}], the videos being "vid{n}" of MSVD and
"video{n}" of MSRVTT.
"""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

from vtjax.data.readers.coverage import BadRow, Coverage, Place, Records, Videos
from vtjax.data.readers.json_stream import json_entries
from vtjax.data.readers.media_folder import stem
from vtjax.data.readers.rows import field, find_file, number, text
from vtjax.data.video_records import Question, VideoRecord
from vtjax.errors import VtjaxError

PUBLISHED = {"msvd": 13157, "msrvtt": 72821, "activitynet": 8000}  # test questions
_NAMES = {"msvd": "vid{}", "msrvtt": "video{}"}


def read(folder: Place, *, split: str = "test", videos: Videos = None, dataset: str = "") -> Records:
    """Reads {split}_q.json with {split}_a.json, or {split}_qa.json / {split}.json, of a folder; or one file of both.

    One record per video with all its questions. dataset: "msvd", "msrvtt" or "activitynet" names the videos that the
    file numbers, and notes a test set that is not of the published size.
    """
    folder = pathlib.Path(folder)
    if dataset not in ("", *PUBLISHED):
        raise VtjaxError(f"unknown data set {dataset!r}: msvd, msrvtt or activitynet")
    coverage = Coverage(split, "videos", "questions")
    listed = [] if folder.is_file() else sorted(folder.glob(f"*{split}_q.json"))
    if len(listed) == 1:
        answers = listed[0].with_name(listed[0].name.replace("_q.json", "_a.json"))
        pairs = itertools.zip_longest(json_entries(listed[0]), json_entries(answers))
        rows = (((question or answer)[0], question, answer) for question, answer in pairs)
        questions = coverage.row_entries(rows, _pair)
    else:
        entries = json_entries(find_file(folder, (f"*{split}_qa.json", f"*{split}.json")))
        questions = coverage.row_entries(entries, lambda where, key, entry: _single(where, key, entry, dataset))
    gathered: dict[str, tuple[str, list[Question]]] = {}
    for where, name, item in questions:
        gathered.setdefault(name, (where, []))[1].append(item)
    if split == "test" and dataset and coverage.rows != PUBLISHED[dataset]:
        coverage.notes.add(f"{coverage.rows} of {PUBLISHED[dataset]}", "not the published number of test questions")
    records = [VideoRecord(name, name, where, split, questions=tuple(q)) for name, (where, q) in gathered.items()]
    return coverage.finish(records, videos)


def _pair(where: str, question: Any, answer: Any) -> tuple[str, str, Question]:
    if question is None or answer is None:
        raise BadRow("a question without an answer, or the reverse")
    question, answer = question[2], answer[2]
    identity = str(field(question, "question_id"))
    if str(field(answer, "question_id")) != identity:
        raise BadRow("question and answer at one position differ in id", f"{identity}, {answer['question_id']}")
    kind = answer.get("type")
    words = field(question, "question", text), _answer(field(answer, "answer"))
    name = stem(field(question, "video_name", text))
    return where, name, Question(identity, *words, "" if kind is None else str(kind))


def _single(where: str, key: str, entry: Any, dataset: str) -> tuple[str, str, Question]:
    video = entry.get("video_name", entry.get("video", entry.get("video_id"))) if isinstance(entry, dict) else None
    if video is None:
        raise BadRow("no 'video_name', 'video' or 'video_id'")
    if isinstance(video, int) and not isinstance(video, bool):
        name = _NAMES.get(dataset, "{}").format(video)
    else:
        name = stem(text(video, "the video"))
    identity = str(entry.get("question_id", entry.get("id", key)))
    words = field(entry, "question", text), _answer(field(entry, "answer"))
    return where, name, Question(identity, *words, str(entry.get("type", "")))


def _answer(value: Any) -> str:
    """Answers may be numbers in JSON."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        return str(number(value, "answer"))
    return text(value, "answer")
