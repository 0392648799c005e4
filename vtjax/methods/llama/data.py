"""Questions with answers: lines of JSON, or questions about the order of events in the motion world's captions."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from vtjax.errors import Problems, VtjaxError
from vtjax.methods.llama.config import LlamaConfig, LlamaDataConfig
from vtjax.text.tokenizer import RowTokenizer
from vtjax.worlds.motion_captions import make_caption
from vtjax.worlds.motion_world import MOTION_WORLD_VERSION, MotionWorld

_ASKED = ("first", "last")
_SHARES = 2**32


@dataclasses.dataclass(frozen=True)
class Item:
    """prompt: read, not learnt; "" where all of the text is learnt. answer: learnt. key: names its place."""

    prompt: str
    answer: str
    key: str


@dataclasses.dataclass(frozen=True)
class Items:
    """Both sides of a source; no prompt is on both. problems: lines that were left out."""

    train: Sequence[Item]
    test: Sequence[Item]
    fingerprint: str
    problems: Problems


def open_items(config: LlamaDataConfig) -> Items:
    """All items of a configuration, split by their prompt (or text).

    Raises:
      VtjaxError: no such file, or nothing to train or to test on.
    """
    problems = Problems()
    items = _world(config) if config.source == "world" else _lines(pathlib.Path(config.source), problems)
    sides: tuple[list[Item], list[Item]] = ([], [])
    digest = hashlib.sha256()
    for item in items:
        place = int.from_bytes(hashlib.blake2b((item.prompt or item.answer).encode(), digest_size=4).digest(), "big")
        sides[place < config.test * _SHARES].append(item)
        digest.update(json.dumps([item.prompt, item.answer]).encode())
    if not all(sides):
        empty = "test" if sides[0] else "train"
        raise VtjaxError(
            f"config.method.data.source={config.source}: of {len(items)} items none is left to {empty} on "
            f"(config.method.data.test={config.test})" + (f"\n{problems.report()}" if len(problems) else "")
        )
    return Items(*sides, digest.hexdigest(), problems)


def _world(config: LlamaDataConfig) -> list[Item]:
    world = MotionWorld(config.world_seed, config.world_size)
    items = []
    for i in range(len(world)):
        caption = make_caption(world.actions(i), np.random.default_rng((config.world_seed, i)))
        asked = i % 2
        answer = caption.events[-asked]
        prompt = f"{caption.text} What happens {_ASKED[asked]}?"
        items.append(Item(prompt, answer, f"motion{MOTION_WORLD_VERSION}-{i}"))
    return items


def _lines(path: pathlib.Path, problems: Problems) -> list[Item]:
    if not path.is_file():
        raise VtjaxError(f"config.method.data.source={path}: no such file; lines of JSON, or world")
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            problems.add(where, "not JSON")
            continue
        fields = ("prompt", "answer") if isinstance(record, dict) and "answer" in record else ("text",)
        if not isinstance(record, dict) or not all(isinstance(record.get(f), str) for f in fields):
            problems.add(where, 'neither "prompt" and "answer" nor "text", each a string')
        elif not record[fields[-1]].strip():
            problems.add(where, "empty")
        else:
            items.append(Item(record["prompt"] if len(fields) > 1 else "", record[fields[-1]], where))
    return items


@dataclasses.dataclass(frozen=True)
class Transform:
    """An item to the arrays of `task.example_spec`; what is too long loses its end."""

    config: LlamaConfig
    tokenizer: RowTokenizer

    def __call__(self, item: Item, rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        length = self.config.text.max_tokens
        prompt = self.tokenizer.ids(item.prompt)
        row = (prompt + self.tokenizer.ids(item.answer, bos=False, eos=True))[:length]
        ids = np.full(length, self.tokenizer.pad_id, np.int32)
        ids[: len(row)] = row
        places = np.arange(length)
        valid = places < len(row)
        return {"ids": ids, "valid": valid, "counted": valid & (places >= len(prompt))}


def too_long(items: Sequence[Item], transform: Transform) -> tuple[int, int]:
    """(items whose end is cut, items of which nothing is left to learn)."""
    length, cut, lost = transform.config.text.max_tokens, 0, 0
    for item in items:
        prompt = len(transform.tokenizer.ids(item.prompt))
        whole = prompt + len(transform.tokenizer.ids(item.answer, bos=False, eos=True))
        cut += whole > length
        lost += prompt >= length
    return cut, lost
