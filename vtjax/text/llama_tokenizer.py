"""The tokenizer of LLaMA and Vicuna, and prompts with media placeholders (PiTe, arXiv 2409.07239).

The reference is the "slow" SentencePiece tokenizer. What it does beside byte-pair merging is written out here, so that
the same ids come from a folder's tokenizer.json and from its tokenizer.model, whatever normaliser the former states:

* a space becomes U+2581; one is put before the text (the "dummy prefix"), so that "\\n" gives two tokens;
* `<s>`, `</s>` and `<unk>` in a text are single tokens; the text after one gets a dummy prefix of its own if `legacy`.

Neither torch nor the sentencepiece package is needed: transformers has the message types of tokenizer.model.
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
import tokenizers

from vtjax.errors import VtjaxError
from vtjax.files import write_atomically
from vtjax.text.tokenizer import RowTokenizer, read_backend, tokenizer_class
from vtjax.weights.files import read_json

MEDIA_ID = -200  # stands for one video or image in a list of ids
MEDIA = ("<video>", "<image>")
SPACE = "\u2581"
_SPECIAL = ("<unk>", "<s>", "</s>")
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}


class LlamaTokenizer(RowTokenizer):
    """Turns texts into ids and back. `pad_id` is `unk_id`, as in Vicuna's training.

    Args:
      folder: with tokenizer.json (a byte-pair model with byte fallback) or tokenizer.model.
      legacy: default as the folder's tokenizer_config.json says, True if it does not.

    Raises:
      VtjaxError: no tokenizer there, or one of another kind.
    """

    closes, room = False, (2, "<s> and a token")

    def __init__(self, folder: str | os.PathLike[str], legacy: bool | None = None):
        self.folder = pathlib.Path(folder)
        settings = self.folder / "tokenizer_config.json"
        stated = read_json(settings).get("legacy") if settings.is_file() else None
        self.legacy = legacy if legacy is not None else (True if stated is None else bool(stated))
        self._content = _content(self.folder)
        vocab = self._content["model"]["vocab"]
        added = {t["content"]: t["id"] for t in self._content["added_tokens"]}
        self._added = {token: vocab[token] for token in _SPECIAL if token in vocab} | added
        lost = [token for token in _SPECIAL if token not in self._added]
        if lost:
            raise VtjaxError(f"{self.folder}: no token {', '.join(lost)}; not the tokenizer of a LLaMA model")
        self.unk_id, self.bos_id, self.eos_id = (self._added[token] for token in _SPECIAL)
        self.pad_id = self.unk_id
        self.special_ids = frozenset(self._added[token] for token in _SPECIAL)
        self.vocab_size = max(*vocab.values(), *self._added.values()) + 1
        self._backend = self._merging()

    def token_ids(self, text: str) -> list[int]:
        """See `RowTokenizer.token_ids`."""
        # Without `legacy`, the prefix goes before the whole text, and vanishes where a special token is first.
        if text and not self.legacy and not text.startswith(tuple(self._added)):
            text = SPACE + text
        return self._backend.encode(text, add_special_tokens=False).ids

    def ids_with_media(self, prompt: str, media: Sequence[str] = MEDIA, bos: bool = True) -> list[int]:
        """Gives the ids of a prompt, `MEDIA_ID` where it says "<video>" or "<image>".

        As in the reference, the chunks around a placeholder are tokenized each by itself: "<video>\\nWho" continues
        with the dummy prefix and then the line break, and "USER: <video>" ends with a token for its trailing space.
        """
        ids = [self.bos_id] if bos else []
        for n, chunk in enumerate(re.split("|".join(map(re.escape, media)), prompt)):
            if n:
                ids.append(MEDIA_ID)
            ids += self.token_ids(chunk)
        return ids

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Gives the text of ids, the first dummy prefix removed; incomplete UTF-8 from byte tokens becomes U+FFFD.

        Raises:
          VtjaxError: an id that the vocabulary does not have, such as a media placeholder.
        """
        ids = [int(i) for i in ids]
        bad = [i for i in ids if not 0 <= i < self.vocab_size]
        if bad:
            raise VtjaxError(f"id {bad[0]} is not in the vocabulary of {self.vocab_size}; take placeholders out first")
        kept = [i for i in ids if not (skip_special and i in self.special_ids)]
        return self._backend.decode(kept, skip_special_tokens=False)

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
        start = {"SpecialToken": {"id": "<s>", "type_id": 0}}
        a, b = ({"Sequence": {"id": which, "type_id": n}} for n, which in enumerate("AB"))
        post = {
            "type": "TemplateProcessing",
            "single": [start, a],
            "pair": [start, a, {"SpecialToken": {"id": "<s>", "type_id": 1}}, b],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [self.bos_id], "tokens": ["<s>"]}},
        }
        prefixed = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, _REPLACE]}
        first = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}
        return self._content | {
            "normalizer": prefixed if self.legacy else None,
            "pre_tokenizer": None if self.legacy else first,
            "post_processor": post,
            "decoder": _DECODER,
        }

    def _merging(self):
        """The backend: as published, but that Metaspace would put no prefix before a text that starts with a space."""
        content = self._published() | {"truncation": None, "padding": None}
        content["added_tokens"] = [{"id": i, "content": t, **_FLAGS} for t, i in self._added.items()]
        content["model"] = content["model"] | {"vocab": content["model"]["vocab"] | self._added}  # else ids are made up
        if not self.legacy:
            content |= {"normalizer": _REPLACE, "pre_tokenizer": None}
        return read_backend(self.folder, lambda: tokenizers.Tokenizer.from_str(json.dumps(content)))


def is_llama_folder(folder: pathlib.Path) -> bool:
    """Whether a folder's own files say that its tokenizer is LLaMA's."""
    return tokenizer_class(folder).startswith("LlamaTokenizer")


def expand_media(ids: Sequence[int], tokens: int, fill: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Spreads each `MEDIA_ID` over the `tokens` places of its soft tokens.

    Returns:
      ids int32 [L], `fill` at the media's places, and media_index int32 [L]: 0 .. tokens - 1 there (the second medium
      of a prompt goes on from there), -1 on text. `vtjax.nn.llama.splice` takes the index.
    """
    row = np.asarray(ids, np.int32)
    counts = np.where(row == MEDIA_ID, tokens, 1)
    media = np.repeat(row == MEDIA_ID, counts)
    index = np.where(media, np.cumsum(media) - 1, -1).astype(np.int32)
    return np.where(media, np.int32(fill), np.repeat(row, counts)), index


def _content(folder: pathlib.Path) -> dict[str, Any]:
    """tokenizer.json, or the same made of tokenizer.model."""
    if (folder / "tokenizer.json").is_file():
        content = read_json(folder / "tokenizer.json")
        model = content.get("model") or {}
        if model.get("type", "BPE") != "BPE" or not model.get("byte_fallback") or "vocab" not in model:
            raise VtjaxError(f"{folder / 'tokenizer.json'}: not a byte-pair model with byte fallback, as LLaMA-2's is")
        return content | {"added_tokens": content.get("added_tokens") or []}
    if (folder / "tokenizer.model").is_file():
        return _read_model(folder / "tokenizer.model")
    raise VtjaxError(f"{folder}: no tokenizer; expected tokenizer.json or tokenizer.model")


def _read_model(path: pathlib.Path) -> dict[str, Any]:
    """SentencePiece's tokenizer.model as the content of the tokenizer.json (version 1.0) with its pieces and merges.

    Raises:
      VtjaxError: not a SentencePiece model, damaged, or not like LLaMA's: byte-pair merging with byte fallback, no
        text normalisation.
    """
    from google.protobuf.message import DecodeError
    from transformers.convert_slow_tokenizer import import_protobuf

    messages = import_protobuf()
    kinds, model = messages.ModelProto.SentencePiece, messages.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise VtjaxError(f"{path}: not a SentencePiece model, or damaged ({type(error).__name__}: {error})") from error
    if not model.HasField("trainer_spec"):
        raise VtjaxError(f"{path}: not a SentencePiece model, or damaged (no settings of its training)")
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    if trainer.model_type != messages.TrainerSpec.BPE or not trainer.byte_fallback:
        raise VtjaxError(f"{path}: not a byte-pair model with byte fallback, as LLaMA's is")
    if normalizer.name not in ("", "identity") or normalizer.remove_extra_whitespaces:
        name = normalizer.name or "extra spaces"
        raise VtjaxError(f"{path}: it normalises its text ({name}), which LLaMA's does not")
    vocab = {piece.piece: i for i, piece in enumerate(model.pieces)}
    if len(vocab) != len(model.pieces):
        raise VtjaxError(f"{path}: a piece is listed twice")
    merges = _merges([p for p in model.pieces if p.type == kinds.NORMAL], vocab)
    unknown = next((p.piece for p in model.pieces if p.type == kinds.UNKNOWN), "<unk>")
    pairs = tokenizers.models.BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    backend = tokenizers.Tokenizer(pairs)
    special = [p.piece for p in model.pieces if p.type in (kinds.UNKNOWN, kinds.CONTROL, kinds.USER_DEFINED)]
    backend.add_special_tokens([tokenizers.AddedToken(piece, normalized=False) for piece in special])
    return json.loads(backend.to_str())


def _merges(pieces: Sequence[Any], vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Every pair of pieces whose union is a piece, best piece first: SentencePiece merges by the score of the union."""
    merges = []
    for piece in (p.piece for p in sorted(pieces, key=lambda p: -p.score)):
        halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        merges += [pair for pair in halves if pair[0] in vocab and pair[1] in vocab]
    return merges
