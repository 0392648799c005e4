"""The tokenizer of LLaMA and Vicuna, and prompts with media placeholders (pite.md 1.5 and 4).

The reference is the "slow" SentencePiece tokenizer. What it does beside byte-pair merging is written out here, so that
the same ids come from a folder's tokenizer.json and from its tokenizer.model, whatever normaliser the former states:

* a space becomes U+2581; one is put before the text (the "dummy prefix"), so that "\\n" gives two tokens;
* `<s>`, `</s>` and `<unk>` in a text are single tokens; the text after one gets a dummy prefix of its own if `legacy`.

Neither torch nor the sentencepiece package is needed: tokenizer.model is read by `sentencepiece_model`.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from vtjax.errors import VtjaxError
from vtjax.files import write_atomically
from vtjax.text.sentencepiece_model import read_model
from vtjax.text.tokenizer import check_texts
from vtjax.weights.bert import read_json

MEDIA_ID = -200  # stands for one video or image in a list of ids
MEDIA = ("<video>", "<image>")
SPACE = "\u2581"
IGNORE_LABEL = -100
_SPECIAL = ("<unk>", "<s>", "</s>")


class LlamaTokenizer:
    """Text to ids and back.

    folder: with tokenizer.json (a byte-pair model with byte fallback) or tokenizer.model. legacy: default as the
    folder's tokenizer_config.json says, True if it does not. `unk_id`, `bos_id`, `eos_id`; `pad_id` is `unk_id`, as in
    Vicuna's training. `truncated` counts texts cut by `encode`.

    Raises:
      VtjaxError: no tokenizer there, or one of another kind.
    """

    def __init__(self, folder: str | os.PathLike[str], legacy: bool | None = None):
        self.folder = pathlib.Path(folder)
        settings = self.folder / "tokenizer_config.json"
        stated = read_json(settings).get("legacy") if settings.is_file() else None
        self.legacy = legacy if legacy is not None else (True if stated is None else bool(stated))
        self._content = _content(self.folder)
        self._backend = _backend(self._content, self.folder)
        added = {t["content"]: t["id"] for t in self._content["added_tokens"]}
        vocab = self._content["model"]["vocab"]
        lost = [token for token in _SPECIAL if token not in added and token not in vocab]
        if lost:
            raise VtjaxError(f"{self.folder}: no token {', '.join(lost)}; not the tokenizer of a LLaMA model")
        self._added = {token: vocab[token] for token in _SPECIAL if token in vocab} | added
        self.unk_id, self.bos_id, self.eos_id = (self._added[token] for token in _SPECIAL)
        self.pad_id = self.unk_id
        self.special_ids = frozenset(self._added[token] for token in _SPECIAL)
        self.vocab_size = max(*vocab.values(), *self._added.values()) + 1
        longest_first = sorted(self._added, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        self.truncated = 0

    def ids(self, text: str, bos: bool = True, eos: bool = False) -> list[int]:
        """Ids of one text."""
        found = [self.bos_id] if bos else []
        for n, part in enumerate(self._split.split(text)):
            if part in self._added:
                found.append(self._added[part])
            elif part:
                # Without `legacy`, the prefix goes before the whole text, and vanishes where a special token is first.
                prefix = SPACE if self.legacy or n == 0 else ""
                found += self._backend.encode(prefix + part.replace(" ", SPACE), add_special_tokens=False).ids
        return found + [self.eos_id] if eos else found

    def ids_with_media(self, prompt: str, media: Sequence[str] = MEDIA, bos: bool = True) -> list[int]:
        """Ids of a prompt with `MEDIA_ID` where it says "<video>" or "<image>".

        As in the reference, the chunks around a placeholder are tokenized each by itself: "<video>\\nWho" continues
        with the dummy prefix and then the line break, and "USER: <video>" ends with a token for its trailing space.
        """
        ids = [self.bos_id] if bos else []
        for n, chunk in enumerate(re.split("|".join(map(re.escape, media)), prompt)):
            if n:
                ids.append(MEDIA_ID)
            ids += self.ids(chunk, bos=False)
        return ids

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of ids, the first dummy prefix removed; incomplete UTF-8 from byte tokens becomes U+FFFD.

        Raises:
          VtjaxError: an id that the vocabulary does not have, such as a media placeholder.
        """
        ids = [int(i) for i in ids]
        bad = [i for i in ids if not 0 <= i < self.vocab_size]
        if bad:
            raise VtjaxError(f"id {bad[0]} is not in the vocabulary of {self.vocab_size}; take placeholders out first")
        kept = [i for i in ids if not (skip_special and i in self.special_ids)]
        return self._backend.decode(kept, skip_special_tokens=False)

    def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """See `vtjax.text.tokenizer.Tokenizer.encode`: `<s>` and the text, padded on the right, cut at the end."""
        texts = check_texts(texts)
        if length < 2:
            raise VtjaxError(f"token length {length}; at least 2, for <s> and a token")
        rows = [self.ids(text) for text in texts]
        self.truncated += sum(len(row) > length for row in rows)
        return pad_rows([row[:length] for row in rows], length, self.pad_id)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes a tokenizer.json and tokenizer_config.json that this class and transformers read."""
        folder = pathlib.Path(folder)
        write_atomically(folder / "tokenizer.json", json.dumps(self._published(), ensure_ascii=False))
        settings = {
            "tokenizer_class": "LlamaTokenizer",
            "legacy": self.legacy,
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
        }
        write_atomically(folder / "tokenizer_config.json", json.dumps(settings, indent=2))

    def fingerprint(self) -> str:
        """See `vtjax.text.tokenizer.Tokenizer.fingerprint`."""
        model = self._content["model"]
        core = [model["vocab"], model["merges"], sorted(self._added.items()), self.legacy]
        return hashlib.sha256(json.dumps(core).encode()).hexdigest()

    def _published(self) -> dict[str, Any]:
        """tokenizer.json with the prefix in its normaliser and `<s>` in its post-processor."""
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
        if self.legacy:
            normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]}
            before = None
        else:
            normalizer = None
            before = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}
        start = {"SpecialToken": {"id": "<s>", "type_id": 0}}
        a, b = ({"Sequence": {"id": which, "type_id": n}} for n, which in enumerate("AB"))
        post = {
            "type": "TemplateProcessing",
            "single": [start, a],
            "pair": [start, a, {"SpecialToken": {"id": "<s>", "type_id": 1}}, b],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [self.bos_id], "tokens": ["<s>"]}},
        }
        return self._content | {
            "normalizer": normalizer,
            "pre_tokenizer": before,
            "post_processor": post,
            "decoder": _DECODER,
        }


def expand_media(ids: Sequence[int], tokens: int, fill: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Each `MEDIA_ID` spread over the `tokens` places of its soft tokens.

    Returns:
      ids int32 [L], `fill` at the media's places, and media_index int32 [L]: 0 .. tokens - 1 there (the second medium
      of a prompt goes on from there), -1 on text. `vtjax.nn.llama.splice` takes the index.
    """
    out: list[int] = []
    index: list[int] = []
    count = 0
    for i in ids:
        if i == MEDIA_ID:
            out += [fill] * tokens
            index += range(count, count + tokens)
            count += tokens
        else:
            out.append(i)
            index.append(-1)
    return np.array(out, np.int32), np.array(index, np.int32)


def pad_rows(
    rows: Sequence[Sequence[int]], length: int, pad: int, left: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of unequal length as int32 [B, length] and bool [B, length], True on what is no padding.

    Raises:
      VtjaxError: a row is longer than `length`.
    """
    long = [n for n, row in enumerate(rows) if len(row) > length]
    if long:
        raise VtjaxError(f"row {long[0]} has {len(rows[long[0]])} tokens; at most {length}")
    values = np.full((len(rows), length), pad, np.int32)
    valid = np.zeros((len(rows), length), bool)
    for n, row in enumerate(rows):
        at = slice(length - len(row), length) if left else slice(0, len(row))
        values[n, at] = row
        valid[n, at] = True
    return values, valid


_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}


def _content(folder: pathlib.Path) -> dict[str, Any]:
    """tokenizer.json, or the same made of tokenizer.model."""
    if (folder / "tokenizer.json").is_file():
        content = read_json(folder / "tokenizer.json")
        model = content.get("model") or {}
        if model.get("type", "BPE") != "BPE" or not model.get("byte_fallback") or "vocab" not in model:
            raise VtjaxError(f"{folder / 'tokenizer.json'}: not a byte-pair model with byte fallback, as LLaMA-2's is")
        return content | {"added_tokens": content.get("added_tokens") or []}
    if (folder / "tokenizer.model").is_file():
        return read_model(folder / "tokenizer.model")
    raise VtjaxError(f"{folder}: no tokenizer; expected tokenizer.json or tokenizer.model")


def _backend(content: dict[str, Any], folder: pathlib.Path):
    """The merging alone: nothing is put before a text, split off or replaced."""
    import tokenizers

    bare = content | {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": _DECODER}
    # Special tokens are found here, not by the backend: it is only given the others, so that it can decode them.
    bare["added_tokens"] = [t for t in bare["added_tokens"] if t["content"] not in content["model"]["vocab"]]
    bare |= {"truncation": None, "padding": None}
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(bare))
    except Exception as error:  # tokenizers raises bare Exception
        raise VtjaxError(f"{folder}: its tokenizer cannot be read ({error})") from error
