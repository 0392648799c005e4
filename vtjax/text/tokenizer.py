"""Text to token ids of one static length: a built-in word tokenizer, and those that published models come with."""

from __future__ import annotations

import collections
import hashlib
import json
import os
import pathlib
import re
import shutil
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from vtjax.errors import VtjaxError
from vtjax.files import write_atomically

PAD, UNK, CLS, SEP = range(4)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORD_FILE = "word_tokenizer.json"
_WORD = re.compile(r"\w+(?:'\w+)?|[^\w\s]")
_HF_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)


class Tokenizer(Protocol):
    """What every text encoder needs. `truncated` counts the texts cut so far."""

    vocab_size: int
    truncated: int

    def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids int32 [N, length] and mask bool [N, length], True on tokens, special ones included. A text that does
        not fit is cut, keeping its closing token, and counted.

        Raises:
          VtjaxError: an empty text, or a length that leaves no room for a word.
        """

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes what `load_tokenizer` reads."""

    def fingerprint(self) -> str:
        """Hexadecimal digest, equal where the ids of every text are."""


def words(text: str) -> list[str]:
    """Lower-cased words (with an apostrophe's tail) and single punctuation marks, after compatibility normalisation."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def stable_hash(text: str) -> int:
    """64-bit hash that is the same in every process and version, unlike `hash`."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def check_texts(texts: Sequence[str]) -> list[str]:
    """The texts as a list.

    Raises:
      VtjaxError: one string instead of a sequence, or an item that is empty or not a string; its position is named.
    """
    if isinstance(texts, str):
        raise VtjaxError("expected a sequence of texts, found one string; wrap it in a list")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise VtjaxError(f"text {i} of {len(texts)} is a {type(text).__name__}, not a string")
        if not text.strip():
            raise VtjaxError(f"text {i} of {len(texts)} is empty; leave it out or write what it stands for")
    return texts


class WordTokenizer:
    """[CLS] words [SEP], by a vocabulary of whole words.

    Ids: 0..3 are `SPECIAL`, then `vocabulary` in order, then `oov_buckets` ids that unknown words are spread over by
    a stable hash ([UNK] where there are none). `unknown` counts the unknown words met so far.
    """

    def __init__(self, vocabulary: Sequence[str], oov_buckets: int = 8):
        self.vocabulary = tuple(vocabulary)
        self.oov_buckets = oov_buckets
        self._ids = {word: i for i, word in enumerate(self.vocabulary, len(SPECIAL))}
        if len(self._ids) != len(self.vocabulary) or oov_buckets < 0:
            raise VtjaxError("WordTokenizer: words must be unique and oov_buckets 0 or more")
        self.truncated = self.unknown = 0

    @classmethod
    def from_texts(
        cls, texts: Iterable[str], max_words: int | None = None, min_count: int = 1, oov_buckets: int = 8
    ) -> WordTokenizer:
        """The most frequent words of `texts` that occur `min_count` times or more; ties are alphabetical."""
        counts = collections.Counter(word for text in texts for word in words(text))
        ranked = sorted((w for w, n in counts.items() if n >= min_count), key=lambda w: (-counts[w], w))
        if not ranked:
            raise VtjaxError(f"WordTokenizer: the texts hold no word that occurs {min_count} times")
        return cls(ranked[:max_words], oov_buckets)

    @property
    def vocab_size(self) -> int:
        return len(SPECIAL) + len(self.vocabulary) + self.oov_buckets

    def _id(self, word: str) -> int:
        if word in self._ids:
            return self._ids[word]
        self.unknown += 1
        if not self.oov_buckets:
            return UNK
        return len(SPECIAL) + len(self.vocabulary) + stable_hash(word) % self.oov_buckets

    def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Tokenizer.encode`."""
        texts = check_texts(texts)
        if length < 3:
            raise VtjaxError(f"token length {length}; at least 3, for [CLS], a word and [SEP]")
        ids = np.full((len(texts), length), PAD, np.int32)
        mask = np.zeros((len(texts), length), bool)
        for i, text in enumerate(texts):
            body = [self._id(word) for word in words(text)]
            self.truncated += len(body) > length - 2
            row = [CLS, *body[: length - 2], SEP]
            ids[i, : len(row)] = row
            mask[i, : len(row)] = True
        return ids, mask

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes `WORD_FILE`, whole or not at all."""
        path = pathlib.Path(folder) / WORD_FILE
        content = {"version": 1, "oov_buckets": self.oov_buckets, "vocabulary": self.vocabulary}
        write_atomically(path, json.dumps(content, ensure_ascii=False, indent=0))

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> WordTokenizer:
        """Reads what `save` wrote."""
        path = pathlib.Path(folder) / WORD_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(content["vocabulary"], content["oov_buckets"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise VtjaxError(f"{path}: not a word tokenizer ({type(error).__name__}: {error})") from error

    def fingerprint(self) -> str:
        """See `Tokenizer.fingerprint`."""
        return hashlib.sha256(json.dumps([self.vocabulary, self.oov_buckets]).encode()).hexdigest()


class HFTokenizer:
    """The tokenizer of a Hugging Face folder: its tokenizer.json, or what transformers makes of older files."""

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = pathlib.Path(folder)
        self._backend = _backend(self.folder)
        self._backend.no_padding()
        self._backend.no_truncation()
        pads = [self._backend.token_to_id(token) for token in _pad_tokens(self.folder)]
        if pads == [None] * len(pads):
            raise VtjaxError(f"{self.folder}: no padding token; set pad_token in its tokenizer_config.json")
        self.pad_id = next(pad for pad in pads if pad is not None)
        self.vocab_size = self._backend.get_vocab_size(with_added_tokens=True)
        self.truncated = 0
        self._length = 0

    def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Tokenizer.encode`. A text's ids equal transformers' with truncation and padding to `length`."""
        texts = check_texts(texts)
        special = self._backend.num_special_tokens_to_add(False)
        if length <= special:
            raise VtjaxError(f"token length {length}; {special} are special, so at least {special + 1}")
        if length != self._length:
            self._backend.enable_truncation(length)
            self._length = length
        ids = np.full((len(texts), length), self.pad_id, np.int32)
        mask = np.zeros((len(texts), length), bool)
        for i, encoding in enumerate(self._backend.encode_batch(texts)):
            self.truncated += bool(encoding.overflowing)
            ids[i, : len(encoding.ids)] = encoding.ids
            mask[i, : len(encoding.ids)] = True
        return ids, mask

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Copies the tokenizer's files, so that `load_tokenizer` and transformers read the same."""
        target = pathlib.Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        for name in _HF_FILES:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, target / name)
        if not (target / "tokenizer.json").is_file():
            self._backend.no_truncation()
            self._length = 0
            self._backend.save(str(target / "tokenizer.json"))

    def fingerprint(self) -> str:
        """See `Tokenizer.fingerprint`."""
        self._backend.no_truncation()
        self._length = 0
        return hashlib.sha256(f"{self.pad_id} {self._backend.to_str()}".encode()).hexdigest()


def load_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer saved in `folder`: a word tokenizer, CLIP's with OpenAI's ids, or any of Hugging Face's.

    Raises:
      VtjaxError: no tokenizer there.
    """
    from vtjax.text import clip_tokenizer

    folder = pathlib.Path(folder)
    if clip_tokenizer.is_clip_folder(folder):
        return clip_tokenizer.ClipTokenizer.load(folder)
    return WordTokenizer.load(folder) if (folder / WORD_FILE).is_file() else HFTokenizer(folder)


def _backend(folder: pathlib.Path):
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "vocab.json")):
        raise VtjaxError(f"{folder}: no tokenizer; expected {WORD_FILE}, tokenizer.json, vocab.txt or vocab.json")
    try:
        if (folder / "tokenizer.json").is_file():
            import tokenizers

            return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        import transformers

        return transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True).backend_tokenizer
    except Exception as error:  # tokenizers raises bare Exception
        raise VtjaxError(f"{folder}: its tokenizer cannot be read ({error})") from error


def _pad_tokens(folder: pathlib.Path) -> tuple[str, ...]:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        try:
            token = json.loads((folder / name).read_text(encoding="utf-8")).get("pad_token")
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise VtjaxError(f"{folder / name}: not JSON ({error})") from error
        if token:
            return (token if isinstance(token, str) else token["content"],)
    return "[PAD]", "<pad>"
