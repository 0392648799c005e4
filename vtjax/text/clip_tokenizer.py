"""CLIP's byte-level BPE (arXiv 2103.00020, section 2.4; BPE, arXiv 1508.07909), with the reference's exact ids.

A text is repaired (ftfy), html entities are resolved twice, white space becomes single blanks, letters lower case.
It is then cut into words by a pattern, each word into bytes, and neighbours are merged by the published ranks.

transformers' CLIPTokenizer is not the same: it applies NFC instead of ftfy and leaves html entities alone, so ids
differ for texts with entities, curly quotes, ligatures, wide characters or a final sigma. The ids here are those that
OpenAI's and open_clip's models were trained with.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import html
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import ftfy
import numpy as np
import regex

from vtjax.errors import VtjaxError
from vtjax.files import write_atomically
from vtjax.text.tokenizer import check_texts

START, END = "<|startoftext|>", "<|endoftext|>"
CONTEXT = 77
PUBLISHED_MERGES = 48894  # lines of bpe_simple_vocab_16e6 that are used; the file has five times as many
VOCABULARY_FILE = "bpe_simple_vocab_16e6.txt.gz"
SETTINGS_FILE = "clip_tokenizer.json"
_ON_LONG = ("truncate", "error")
_WORD_END = "</w>"
_WORDS = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)


def clean(text: str) -> str:
    """The text as the pattern sees it: repaired, entities resolved, single blanks, lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return regex.sub(r"\s+", " ", text).strip().lower()


@functools.cache
def byte_symbols() -> tuple[str, ...]:
    """The printable character that stands for each of the 256 bytes in a vocabulary of byte-level BPE.

    Printable Latin-1 characters stand for themselves, the others in order for 256, 257, ...
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [b for b in range(256) if b not in printable]
    return tuple(chr(b if b in printable else 256 + others.index(b)) for b in range(256))


def published_order(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """The ids that follow from the merges: bytes (printable ones first), the same at a word's end, merged pairs in
    order, start and end of text."""
    symbols = sorted(byte_symbols())
    tokens = [*symbols, *(s + _WORD_END for s in symbols), *(a + b for a, b in merges), START, END]
    return {token: i for i, token in enumerate(tokens)}


class ClipTokenizer:
    """See `vtjax.text.tokenizer.Tokenizer`; `encode(texts)` gives the ids that OpenAI's `tokenize` gives.

    merges: pairs in order of rank; none at all is a working tokenizer of bytes (514 ids), for trials.
    vocabulary: token -> id; None for `published_order`. pad_id: OpenAI pads with 0, transformers with the end of text;
    the model does not see the difference. on_long: a text that does not fit is cut and its last id made the end of
    text ("truncate"), or is refused ("error", OpenAI's default).

    A text that itself holds "<|endoftext|>" gets that special id, as in the reference.
    """

    def __init__(
        self,
        merges: Sequence[tuple[str, str]] = (),
        vocabulary: Mapping[str, int] | None = None,
        pad_id: int = 0,
        on_long: str = "truncate",
    ):
        self.merges = tuple(map(tuple, merges))
        self.vocabulary = dict(published_order(self.merges) if vocabulary is None else vocabulary)
        self.pad_id, self.on_long = pad_id, on_long
        if on_long not in _ON_LONG:
            raise VtjaxError(f"on_long={on_long!r}; expected one of {', '.join(_ON_LONG)}")
        needed = published_order(self.merges)
        lost = [token for token in needed if token not in self.vocabulary]
        if lost:
            raise VtjaxError(f"the vocabulary lacks {len(lost)} tokens that the merges make, first {lost[:5]}")
        self.start_id, self.end_id = self.vocabulary[START], self.vocabulary[END]
        self.vocab_size = max(self.vocabulary.values()) + 1
        if not 0 <= pad_id < self.vocab_size:
            raise VtjaxError(f"pad_id={pad_id} is not one of the {self.vocab_size} ids")
        self.truncated = 0
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self._cache: dict[str, tuple[int, ...]] = {START: (self.start_id,), END: (self.end_id,)}

    @classmethod
    def load(cls, source: str | os.PathLike[str], pad_id: int | None = None, on_long: str | None = None):
        """From `bpe_simple_vocab_16e6.txt.gz` (or its text), or a folder or hub id of a CLIP model in the Hugging Face
        layout (vocab.json and merges.txt, or tokenizer.json) or what `save` wrote.

        pad_id, on_long: as saved, else 0 and "truncate".

        Raises:
          VtjaxError: no such file or folder, or no CLIP vocabulary in it.
        """
        path = pathlib.Path(source).expanduser()
        settings = {}
        try:
            if path.is_file():
                merges, vocabulary = _read_published(path), None
            else:
                folder = _folder(source)
                merges, vocabulary = _read_folder(folder)
                if (folder / SETTINGS_FILE).is_file():
                    settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, VtjaxError):
                raise
            raise VtjaxError(f"{source}: not a CLIP vocabulary ({type(error).__name__}: {error})") from error
        given = {k: v for k, v in (("pad_id", pad_id), ("on_long", on_long)) if v is not None}
        return cls(merges, vocabulary, **(settings | given))

    def encode(self, texts: Sequence[str], length: int = CONTEXT) -> tuple[np.ndarray, np.ndarray]:
        """See `Tokenizer.encode`.

        Raises:
          VtjaxError: also a text that does not fit, with on_long="error"; its place and size are named.
        """
        texts = check_texts(texts)
        if length < 3:
            raise VtjaxError(f"token length {length}; at least 3, for start of text, a token and end of text")
        ids = np.full((len(texts), length), self.pad_id, np.int32)
        mask = np.zeros((len(texts), length), bool)
        for i, text in enumerate(texts):
            row = [self.start_id, *self.token_ids(text), self.end_id]
            if len(row) > length:
                if self.on_long == "error":
                    raise VtjaxError(
                        f"text {i} of {len(texts)} has {len(row)} tokens, {length} fit: {text[:60]!r}; "
                        'shorten it, or set on_long="truncate"'
                    )
                self.truncated += 1
                row = [*row[: length - 1], self.end_id]
            ids[i, : len(row)] = row
            mask[i, : len(row)] = True
        return ids, mask

    def token_ids(self, text: str) -> list[int]:
        """All ids of one text, without start and end."""
        return [i for word in _WORDS.findall(clean(text)) for i in self._word_ids(word)]

    def _word_ids(self, word: str) -> tuple[int, ...]:
        if word not in self._cache:
            symbols = byte_symbols()
            parts = [symbols[byte] for byte in word.encode("utf-8")]
            parts[-1] += _WORD_END
            self._cache[word] = tuple(self.vocabulary[part] for part in self._merge(parts))
        return self._cache[word]

    def _merge(self, parts: list[str]) -> list[str]:
        """Merges the pair of the lowest rank, everywhere and from the left, until no pair has a rank."""
        while True:
            ranked = [self._ranks[pair] for pair in zip(parts, parts[1:], strict=False) if pair in self._ranks]
            if not ranked:
                return parts
            first, second = self.merges[min(ranked)]
            merged, i = [], 0
            while i < len(parts):
                pair = parts[i] == first and i + 1 < len(parts) and parts[i + 1] == second
                merged.append(first + second if pair else parts[i])
                i += 1 + pair
            parts = merged

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes vocab.json, merges.txt and settings, read by `load`, `load_tokenizer` and transformers."""
        folder = pathlib.Path(folder)
        merges = "".join(f"{a} {b}\n" for a, b in self.merges)
        write_atomically(folder / "merges.txt", "#version: 0.2\n" + merges)
        write_atomically(folder / "vocab.json", json.dumps(self.vocabulary, ensure_ascii=False))
        settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": CONTEXT}
        settings |= {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
        write_atomically(folder / "tokenizer_config.json", json.dumps(settings, indent=2))
        write_atomically(folder / SETTINGS_FILE, json.dumps({"pad_id": self.pad_id, "on_long": self.on_long}))

    def fingerprint(self) -> str:
        """See `Tokenizer.fingerprint`."""
        content = [self.merges, sorted(self.vocabulary.items()), self.pad_id]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def is_clip_folder(folder: pathlib.Path) -> bool:
    """Whether a folder's own files say that its tokenizer is CLIP's."""
    if (folder / SETTINGS_FILE).is_file() or (folder / VOCABULARY_FILE).is_file():
        return True
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        return str(settings.get("tokenizer_class", "")).startswith("CLIPTokenizer")
    except (OSError, ValueError, AttributeError):
        return False


def _folder(source: str | os.PathLike[str]) -> pathlib.Path:
    from vtjax.weights.hub import local_folder

    return local_folder(source)


def _pairs(lines: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [tuple(line.split()) for line in lines]
    wrong = next((i for i, pair in enumerate(pairs) if len(pair) != 2), None)
    if wrong is not None:
        raise VtjaxError(f"merge {wrong + 1} is {lines[wrong]!r}; expected two symbols")
    return pairs


def _read_published(path: pathlib.Path) -> list[tuple[str, str]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    return _pairs(text.split("\n")[1:][:PUBLISHED_MERGES])  # the first line is a title


def _read_folder(folder: pathlib.Path) -> tuple[list[tuple[str, str]], dict[str, int] | None]:
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        lines = lines[1:] if lines[0].startswith("#version") else lines
        vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        return _pairs([line for line in lines if line]), vocabulary
    if (folder / "tokenizer.json").is_file():
        content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        added = {token["content"]: token["id"] for token in content.get("added_tokens", ())}
        merges = [m if isinstance(m, str) else " ".join(m) for m in content["model"]["merges"]]
        return _pairs(merges), content["model"]["vocab"] | added
    if (folder / VOCABULARY_FILE).is_file():
        return _read_published(folder / VOCABULARY_FILE), None
    raise VtjaxError(
        f"{folder}: no CLIP vocabulary; expected vocab.json and merges.txt, tokenizer.json, or {VOCABULARY_FILE}"
    )
