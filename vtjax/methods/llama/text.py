"""Sizes and tokenizer of a configuration."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Protocol

from vtjax.errors import VtjaxError
from vtjax.files import write_atomically
from vtjax.methods.llama.config import LlamaConfig
from vtjax.nn import llama

FOLDER = "tokenizer"  # in a run's assets
_FILE = "vocabulary.json"
_PARTS = re.compile(r"\w+|[^\w\s]")


class TextTokenizer(Protocol):
    """What the method needs of a tokenizer; `vtjax.text.llama_tokenizer.LlamaTokenizer` is one."""

    eos_id: int
    pad_id: int
    vocab_size: int

    def ids(self, text: str, bos: bool = True, eos: bool = False) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def fingerprint(self) -> str: ...


class WordIds:
    """Words and marks, lower case, by the vocabulary of the training texts; ids 0 to 2 are unknown, start and end."""

    pad_id, bos_id, eos_id = 0, 1, 2

    def __init__(self, words: Sequence[str]):
        self.words = tuple(words)
        self._ids = {word: i for i, word in enumerate(self.words, 3)}
        self.vocab_size = len(self.words) + 3

    @classmethod
    def from_texts(cls, texts: Sequence[str], most: int) -> WordIds:
        """The `most` commonest words, ties by spelling."""
        counts: dict[str, int] = {}
        for text in texts:
            for word in _PARTS.findall(text.lower()):
                counts[word] = counts.get(word, 0) + 1
        return cls(sorted(counts, key=lambda w: (-counts[w], w))[:most])

    def ids(self, text: str, bos: bool = True, eos: bool = False) -> list[int]:
        """Ids of one text."""
        inner = [self._ids.get(word, self.pad_id) for word in _PARTS.findall(text.lower())]
        return [self.bos_id] * bos + inner + [self.eos_id] * eos

    def decode(self, ids: Sequence[int]) -> str:
        """Words joined by spaces, none before a mark; the three special ids are left out."""
        text = " ".join(self.words[i - 3] for i in ids if i >= 3)
        return re.sub(r" ([^\w\s])", r"\1", text)

    def fingerprint(self) -> str:
        return " ".join(self.words)


def sizes_of(config: LlamaConfig) -> llama.LlamaConfig:
    """As published, or of a preset, long enough for the texts.

    Raises:
      VtjaxError: no readable model.
    """
    if config.model.pretrained:
        from vtjax.weights.bert import read_json
        from vtjax.weights.hub import local_folder
        from vtjax.weights.llama import config_from_hf

        path = local_folder(config.model.pretrained) / "config.json"
        return config_from_hf(read_json(path), str(path))
    sizes = llama.PRESETS[config.model.preset]
    return dataclasses.replace(sizes, positions=max(sizes.positions, config.text.max_tokens))


def open_tokenizer(
    config: LlamaConfig, sizes: llama.LlamaConfig, assets: pathlib.Path, corpus: Sequence[str] | None = None
) -> TextTokenizer:
    """The tokenizer kept in a run's assets, made there first where `corpus` (the training texts) is given.

    Raises:
      VtjaxError: no tokenizer, or one with more ids than the model has.
    """
    from vtjax.text.llama_tokenizer import LlamaTokenizer

    folder, source = assets / FOLDER, config.text.vocabulary or config.model.pretrained
    if corpus is not None and not folder.is_dir():
        if source:
            from vtjax.weights.hub import local_folder

            LlamaTokenizer(local_folder(source)).save(folder)
        else:
            words = WordIds.from_texts(corpus, sizes.vocab_size - 3).words
            write_atomically(folder / _FILE, json.dumps(words, ensure_ascii=False, indent=0) + "\n")
    if not folder.is_dir():
        raise VtjaxError(f"{folder}: missing; vtjax.train writes it at its start")
    file = folder / _FILE
    tokenizer = WordIds(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else LlamaTokenizer(folder)
    if tokenizer.vocab_size > sizes.vocab_size:
        raise VtjaxError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model {sizes.vocab_size}: they do not belong together"
        )
    return tokenizer
