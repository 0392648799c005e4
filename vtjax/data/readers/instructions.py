"""Conversations of instruction data: what LLaVA, Valley and VTimeLLM files have in common (pite.md 3.3, 3.6)."""

from __future__ import annotations

import os
from collections.abc import Callable

from vtjax.data.readers.coverage import BadRow, Coverage
from vtjax.data.readers.json_stream import json_entries
from vtjax.data.readers.leakage import refuse
from vtjax.data.readers.rows import field, listed, text
from vtjax.data.video_records import Turn, VideoRecord

SPEAKERS = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
MEDIA_TOKENS = {"video": "<video>", "image": "<image>", "text": ""}


def conversation(entry: object, media: str, where: str, coverage: Coverage) -> tuple[Turn, ...]:
    """Turns of `conversations`, human and gpt alternately. Raises BadRow.

    A first turn of gpt is dropped and a missing media token is noted (LLaVA's loader does without both as well); a
    media token without a medium, or not in the first turn, makes the entry unusable.
    """
    turns = []
    for item in listed(field(entry, "conversations"), "conversations"):
        speaker = field(item, "from")
        if not isinstance(speaker, str) or speaker not in SPEAKERS:
            raise BadRow("a turn is from neither human nor gpt", repr(speaker)[:60])
        turns.append(Turn(SPEAKERS[speaker], text(field(item, "value"), "a turn")))
    if turns and turns[0].speaker == "gpt":
        coverage.notes.add(where, "the conversation starts with gpt, that turn was dropped")
        turns = turns[1:]
    if not turns or len(turns) % 2:
        raise BadRow("a conversation needs pairs of question and answer", f"{len(turns)} turns")
    if any(turn.speaker != ("human", "gpt")[i % 2] for i, turn in enumerate(turns)):
        raise BadRow("human and gpt do not alternate")
    holders = [sum(turn.text.count(p) for p in ("<video>", "<image>")) for turn in turns]
    if sum(holders) > (media != "text"):
        raise BadRow("more media tokens than media", f"{sum(holders)}")
    if sum(holders[1:]):
        raise BadRow("the media token is not in the first turn")
    if media != "text" and not holders[0]:
        coverage.notes.add(where, f"no {MEDIA_TOKENS[media]} in the first turn")
    return tuple(turns)


def read_conversations(
    path: str | os.PathLike,
    coverage: Coverage,
    build: Callable[[str, str, object, Coverage], VideoRecord],
    exclude: dict[str, str] | None,
) -> list[VideoRecord]:
    """Every entry of a JSON list through `build`; entries that raise BadRow and excluded videos are counted."""
    records = []
    for where, key, entry in json_entries(path):
        with coverage.row(where):
            record = build(where, key, entry, coverage)
            if not refuse(record.video, where, exclude, coverage):
                records.append(record)
    return records
