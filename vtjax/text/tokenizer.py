"""Turns texts into token ids of one static length: what every tokenizer offers, words, and Hugging Face's folders."""

from __future__ import annotations

import abc
import collections
import hashlib
import json
import os
import pathlib
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from vtjax.errors import VtjaxError
from vtjax.files import write_atomically

PAD, UNK, CLS, SEP = range(4)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORD_FILE = "word_tokenizer.json"
CAUSAL_FILE = "vocabulary.json"
_WORD = re.compile(r"\w+(?:'\w+)?|[^\w\s]")
_PART = re.compile(r"\w+|[^\w\s]")
_SETTINGS = "tokenizer_config.json"
_HF_FILES = (
    *("tokenizer.json", _SETTINGS, "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt"),
)


class Tokenizer(Protocol):
    """Is what every text encoder needs; `truncated` counts the texts cut so far. For decoding see `RowTokenizer`."""

    vocab_size: int
    truncated: int

    def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """Gives ids int32 [N, length] and mask bool [N, length], True on tokens, special ones included.

        A text that does not fit is cut, keeping its closing token where texts have one, and counted.

        Raises:
          VtjaxError: an empty text, or a length that leaves no room for a word.
        """

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes what `vtjax.text.assets.load_tokenizer` reads."""

    def fingerprint(self) -> str:
        """Gives a text that is equal where the ids of every text are."""


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


def pad_rows(
    rows: Sequence[Sequence[int]], length: int, pad: int, left: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of unequal length as int32 [B, length] and bool [B, length], True on what is no padding.

    Raises:
      VtjaxError: a row is longer than `length`.
    """
    values = np.full((len(rows), length), pad, np.int32)
    valid = np.zeros((len(rows), length), bool)
    for n, row in enumerate(rows):
        if len(row) > length:
            raise VtjaxError(f"row {n} has {len(row)} tokens; at most {length}")
        at = slice(length - len(row), length) if left else slice(len(row))
        values[n, at] = row
        valid[n, at] = True
    return values, valid


def tokenizer_class(folder: pathlib.Path) -> str:
    """The class that a folder's tokenizer_config.json names, "" where it names none."""
    try:
        settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        return str(settings.get("tokenizer_class", ""))
    except (OSError, ValueError, AttributeError):
        return ""


class RowTokenizer(abc.ABC):
    """Does what tokenizers share that can give the ids of one text at their own length, by `token_ids`.

    Attributes:
      pad_id, bos_id, eos_id: ids of padding, start and end.
      closes: whether `encode` ends each text with `eos_id`.
      room: the least length and what it is for, in messages.
      on_long: a text that does not fit is cut ("truncate") or refused ("error").
      truncated: see `Tokenizer`.
    """

    pad_id: int
    bos_id: int
    eos_id: int
    vocab_size: int
    closes = True
    room = (3, "[CLS], a word and [SEP]")
    on_long = "truncate"
    truncated = 0

    @abc.abstractmethod
    def token_ids(self, text: str) -> list[int]:
        """Gives all ids of one text, without start and end."""

    def decode(self, ids: Sequence[int]) -> str:
        """Gives the text of ids, special ones left out.

        Raises:
          VtjaxError: a tokenizer whose ids do not lead back to texts.
        """
        raise VtjaxError(f"{type(self).__name__}: its ids do not lead back to texts")

    def ids(self, text: str, bos: bool = True, eos: bool = False) -> list[int]:
        """Gives the ids of one text, after the start id if `bos`, before the end id if `eos`."""
        return [self.bos_id] * bos + self.token_ids(text) + [self.eos_id] * eos

    def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Tokenizer.encode`.

        Raises:
          VtjaxError: also a text that does not fit, with on_long="error"; its place and size are named.
        """
        texts = check_texts(texts)
        if length < self.room[0]:
            raise VtjaxError(f"token length {length}; at least {self.room[0]}, for {self.room[1]}")
        rows = [self.ids(text, eos=self.closes) for text in texts]
        for i, row in enumerate(rows):
            if len(row) > length:
                if self.on_long == "error":
                    raise VtjaxError(
                        f"text {i} of {len(texts)} has {len(row)} tokens, {length} fit: {texts[i][:60]!r}; "
                        'shorten it, or set on_long="truncate"'
                    )
                self.truncated += 1
                rows[i] = [*row[: length - 1], self.eos_id] if self.closes else row[:length]
        return pad_rows(rows, length, self.pad_id)


class WordTokenizer(RowTokenizer):
    """Gives [CLS] words [SEP], by a vocabulary of whole words.

    Ids: 0..3 are `SPECIAL`, then `vocabulary` in order, then `oov_buckets` ids that unknown words are spread over by
    a stable hash ([UNK] where there are none). `unknown` counts the unknown words met so far.
    """

    pad_id, unk_id, bos_id, eos_id = PAD, UNK, CLS, SEP
    specials = len(SPECIAL)
    split: Callable[[str], list[str]] = staticmethod(words)

    def __init__(self, vocabulary: Sequence[str], oov_buckets: int = 8):
        self.vocabulary = tuple(vocabulary)
        self.oov_buckets = oov_buckets
        self._ids = {word: i for i, word in enumerate(self.vocabulary, self.specials)}
        if len(self._ids) != len(self.vocabulary) or oov_buckets < 0:
            raise VtjaxError(f"{type(self).__name__}: words must be unique and oov_buckets 0 or more")
        self.vocab_size = self.specials + len(self.vocabulary) + oov_buckets
        self.unknown = 0

    @classmethod
    def from_texts(
        cls, texts: Iterable[str], max_words: int | None = None, min_count: int = 1, oov_buckets: int = 8
    ) -> WordTokenizer:
        """Takes the most frequent words of `texts` that occur `min_count` times or more; ties are alphabetical."""
        counts = collections.Counter(word for text in texts for word in cls.split(text))
        ranked = sorted((w for w, n in counts.items() if n >= min_count), key=lambda w: (-counts[w], w))
        if not ranked:
            raise VtjaxError(f"{cls.__name__}: the texts hold no word that occurs {min_count} times")
        return cls(ranked[:max_words], oov_buckets)

    def _id(self, word: str) -> int:
        if word in self._ids:
            return self._ids[word]
        self.unknown += 1
        if not self.oov_buckets:
            return self.unk_id
        return self.vocab_size - self.oov_buckets + stable_hash(word) % self.oov_buckets

    def token_ids(self, text: str) -> list[int]:
        """See `RowTokenizer.token_ids`."""
        return [self._id(word) for word in self.split(text)]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes `WORD_FILE`, whole or not at all."""
        content = {"version": 1, "oov_buckets": self.oov_buckets, "vocabulary": self.vocabulary}
        write_atomically(pathlib.Path(folder) / WORD_FILE, json.dumps(content, ensure_ascii=False, indent=0))

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


class CausalWordTokenizer(WordTokenizer):
    """Gives start, words and marks for a language model: lower case, not normalised otherwise.

    Ids: 0 to 2 are unknown (and padding), start and end; then `vocabulary` in order.
    """

    pad_id, unk_id, bos_id, eos_id = 0, 0, 1, 2
    specials, closes, room = 3, False, (2, "start and a word")
    split = staticmethod(lambda text: _PART.findall(text.lower()))

    def __init__(self, vocabulary: Sequence[str], oov_buckets: int = 0):
        super().__init__(vocabulary, oov_buckets)

    def decode(self, ids: Sequence[int]) -> str:
        """Words joined by spaces, none before a mark; the three special ids are left out."""
        text = " ".join(self.vocabulary[i - self.specials] for i in ids if i >= self.specials)
        return re.sub(r" ([^\w\s])", r"\1", text)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes `CAUSAL_FILE`, whole or not at all."""
        content = json.dumps(self.vocabulary, ensure_ascii=False, indent=0) + "\n"
        write_atomically(pathlib.Path(folder) / CAUSAL_FILE, content)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> CausalWordTokenizer:
        """Reads what `save` wrote."""
        return cls(json.loads((pathlib.Path(folder) / CAUSAL_FILE).read_text(encoding="utf-8")))

    def fingerprint(self) -> str:
        """Gives the words themselves, as earlier versions did."""
        return " ".join(self.vocabulary)


class HFTokenizer:
    """Uses the tokenizer of a Hugging Face folder: its tokenizer.json, or what transformers makes of older files.

    Raises:
      VtjaxError: no tokenizer there, an unreadable one, or one without a padding token.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = pathlib.Path(folder)
        if not any((self.folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "vocab.json")):
            raise VtjaxError(f"{folder}: no tokenizer; expected {WORD_FILE}, tokenizer.json, vocab.txt or vocab.json")
        self._backend = read_backend(self.folder, lambda: _backend(self.folder))
        self._backend.no_padding()
        self._backend.no_truncation()
        pads = [self._backend.token_to_id(token) for token in _pad_tokens(self.folder)]
        self.pad_id = next((pad for pad in pads if pad is not None), None)
        if self.pad_id is None:
            raise VtjaxError(f"{self.folder}: no padding token; set pad_token in its tokenizer_config.json")
        self.vocab_size = self._backend.get_vocab_size(with_added_tokens=True)
        self.truncated = 0

    def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Tokenizer.encode`. A text's ids equal transformers' with truncation and padding to `length`."""
        texts = check_texts(texts)
        special = self._backend.num_special_tokens_to_add(False)
        if length <= special:
            raise VtjaxError(f"token length {length}; {special} are special, so at least {special + 1}")
        rows = []
        for encoding in self._backend.encode_batch(texts, add_special_tokens=False):
            self.truncated += len(encoding) > length - special
            encoding.truncate(length - special)
            rows.append(self._backend.post_process(encoding).ids)
        return pad_rows(rows, length, self.pad_id)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Copies the tokenizer's files, so that `load_tokenizer` and transformers read the same."""
        target = pathlib.Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        for name in _HF_FILES:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, target / name)
        if not (target / "tokenizer.json").is_file():
            self._backend.save(str(target / "tokenizer.json"))

    def fingerprint(self) -> str:
        """See `Tokenizer.fingerprint`."""
        return hashlib.sha256(f"{self.pad_id} {self._backend.to_str()}".encode()).hexdigest()


def read_backend(folder: pathlib.Path, read: Callable[[], Any]) -> Any:
    """What `read` makes of the files of a folder by a library, whose errors become those of a user's input.

    Raises:
      VtjaxError: an unreadable or malformed file. The package tokenizers raises bare Exceptions for these.
    """
    try:
        return read()
    except Exception as error:
        if type(error) is Exception or isinstance(error, OSError | ValueError):
            raise VtjaxError(f"{folder}: its tokenizer cannot be read ({error})") from error
        raise


def _backend(folder: pathlib.Path) -> Any:
    if (folder / "tokenizer.json").is_file():
        import tokenizers

        return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    import transformers

    return transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True).backend_tokenizer


def _pad_tokens(folder: pathlib.Path) -> tuple[str, ...]:
    for name in (_SETTINGS, "special_tokens_map.json"):
        try:
            token = json.loads((folder / name).read_text(encoding="utf-8")).get("pad_token")
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise VtjaxError(f"{folder / name}: not JSON ({error})") from error
        if token:
            return (token if isinstance(token, str) else token["content"],)
    return "[PAD]", "<pad>"
