"""Instruction data: the conversations of LLaVA, Valley, VTimeLLM and Video-ChatGPT, each a list in one .json file."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from vtjax.data.readers.coverage import BadRow, Coverage, Place, Records, Videos
from vtjax.data.readers.json_stream import json_entries
from vtjax.data.readers.leakage import Exclude, refuse
from vtjax.data.readers.media_folder import stem
from vtjax.data.readers.rows import duration_of, field, find_file, listed, mapping, number, span_of, text
from vtjax.data.video_records import Instruction, Turn, VideoRecord

SPEAKERS = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
MEDIA_TOKENS = {"video": "<video>", "image": "<image>", "text": ""}
_TIME_TOKEN = re.compile(r"<[se]\d+>")


def llava(folder: Place, *, split: str = "train", videos: Videos = None, exclude: Exclude = None) -> Records:
    """Reads LLaVA's entries: {"id", "image" or "video", absent for text only, "conversations": [{"from", "value"}]}."""
    coverage = Coverage(split, "media", "conversations")

    def build(where: str, key: str, entry: Any) -> VideoRecord:
        identity = str(field(entry, "id"))
        media = "video" if entry.get("video") else "image" if entry.get("image") else "text"
        name = stem(text(entry[media], media)) if media != "text" else f"text {identity}"
        turns = _conversation(entry, media, where, coverage)
        return VideoRecord(f"{identity}/{key}", name, where, split, media=media, instruction=Instruction(turns))

    records = _read(find_file(folder, ("llava*.json", "*.json")), build, exclude, coverage)
    located = {r.id: r for r in coverage.finish([r for r in records if r.media != "text"], videos)[0]}
    coverage.used = len(records)
    return [located.get(r.id, r) for r in records], coverage


def valley(folder: Place, *, split: str = "train", videos: Videos = None, exclude: Exclude = None) -> Records:
    """Reads Valley-Instruct (65k, earlier 73k): LLaVA's layout with "video" and, for the sub-folder, "source".

    Record.video is "{source}/{video}" without suffix, found by path, then by name. Many of its videos are gone from the
    web (VATEX, JukinMedia), so look at the coverage before training.
    """
    coverage = Coverage(split, "videos", "conversations")

    def build(where: str, key: str, entry: Any) -> VideoRecord:
        name = stem(field(entry, "video", text))
        source = entry.get("source")
        name = f"{text(source, 'source')}/{name}" if source is not None else name
        turns = _conversation(entry, "video", where, coverage)
        return VideoRecord(f"{entry.get('id', name)}/{key}", name, where, split, instruction=Instruction(turns))

    path = find_file(folder, ("*alley*instruct*.json", "*.json"))
    return coverage.finish(_read(path, build, exclude, coverage), videos)


def vtimellm(folder: Place, *, split: str = "train", videos: Videos = None, exclude: Exclude = None) -> Records:
    """Reads VTimeLLM's entries: {"source", "id", "conversations", "meta": {"split": [t0, t1], "duration", "token"}}.

    Instruction.times are the time tokens {"<s0>": seconds} of meta.token, which are still in the text.
    """
    coverage = Coverage(split, "videos", "conversations")

    def build(where: str, key: str, entry: Any) -> VideoRecord:
        video = field(entry, "id", text)
        meta = mapping(entry.get("meta", {}), "meta")
        duration = duration_of(meta["duration"]) if "duration" in meta else None
        tokens = mapping(meta.get("token", {}), "token")
        times = tuple((name, number(seconds, "a time token")) for name, seconds in tokens.items())
        part = span_of(meta["split"], "split", None, coverage, where) if meta.get("split") is not None else None
        media = "image" if entry.get("image") else "video"
        turns = _conversation(entry, media, where, coverage)
        unknown = [t for turn in turns for t in _TIME_TOKEN.findall(turn.text) if t not in tokens]
        if unknown:
            raise BadRow("a time token of the text is not in meta.token", unknown[0])
        if times and duration is None:
            raise BadRow("time tokens without a duration")
        return VideoRecord(
            f"{video}/{key}", video, where, split, media=media, duration=duration, span=part,
            instruction=Instruction(turns, times),
        )  # fmt: skip

    path = find_file(folder, ("*stage*.json", "*.json"))
    return coverage.finish(_read(path, build, exclude, coverage), videos)


def video_chatgpt(
    folder: Place, *, split: str = "train", videos: Videos = None, exclude: Exclude = None
) -> Records:
    """Reads Video-ChatGPT's VideoInstruct_Dataset.json, a list of {"q", "a", "video_id"}: one question per record.

    The token <video> always comes before the question, as PiTe infers. Its videos are ActivityNet's training part, so
    "zero-shot" results on ActivityNet rest on having seen them.
    """
    coverage = Coverage(split, "videos", "conversations")

    def build(where: str, key: str, entry: Any) -> VideoRecord:
        video = field(entry, "video_id", text)
        turns = (Turn("human", f"<video>\n{field(entry, 'q', text)}"), Turn("gpt", field(entry, "a", text)))
        return VideoRecord(f"{video}/{key}", video, where, split, instruction=Instruction(turns))

    path = find_file(folder, ("VideoInstruct*.json", "*.json"))
    return coverage.finish(_read(path, build, exclude, coverage), videos)


def _read(path: Place, build: Callable[..., VideoRecord], exclude: Exclude, coverage: Coverage) -> list[VideoRecord]:
    """Reads every entry through `build`; entries that raise BadRow and excluded videos are counted."""

    def admitted(where: str, key: str, entry: Any) -> VideoRecord | None:
        record = build(where, key, entry)
        return None if refuse(record.video, where, exclude, coverage.problems) else record

    return coverage.row_entries(json_entries(path), admitted)


def _conversation(entry: Any, media: str, where: str, coverage: Coverage) -> tuple[Turn, ...]:
    """Reads the turns of `conversations`, human and gpt alternately. Raises BadRow.

    A first turn of gpt is dropped and a missing media token is noted (LLaVA's loader does without both as well); a
    media token without a medium, or not in the first turn, makes the entry unusable.
    """
    turns = []
    for item in field(entry, "conversations", listed):
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
