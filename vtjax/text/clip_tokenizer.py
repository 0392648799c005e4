"""CLIP's byte-level BPE (arXiv 2103.00020, section 2.4; BPE, arXiv 1508.07909), with the reference's exact ids.

A text is repaired (ftfy), html entities are resolved twice, white space becomes single blanks, letters lower case.
It is then cut into words by a pattern; the `tokenizers` library merges the bytes of each word by the published ranks.

transformers' CLIPTokenizer is not the same: it applies NFC instead of ftfy and leaves html entities alone, so ids
differ for texts with entities, curly quotes, ligatures, wide characters or a final sigma. The ids here are those that
OpenAI's and open_clip's models were trained with.
"""

from __future__ import annotations

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
import tokenizers

from vtjax.errors import VtjaxError
from vtjax.files import write_atomically
from vtjax.text.tokenizer import RowTokenizer, tokenizer_class
from vtjax.weights.hub import local_folder

START, END = "<|startoftext|>", "<|endoftext|>"
CONTEXT = 77
PUBLISHED_MERGES = 48894  # lines of bpe_simple_vocab_16e6 that are used; the file has five times as many
VOCABULARY_FILE = "bpe_simple_vocab_16e6.txt.gz"
SETTINGS_FILE = "clip_tokenizer.json"
_ON_LONG = ("truncate", "error")
_WORD_END = "</w>"
# As in the reference by the package regex: a special token counts only where the pattern reaches it at its first sign.
_WORDS = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)


def clean(text: str) -> str:
    """Makes of a text what the pattern sees: repaired, entities resolved, single blanks, lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return regex.sub(r"\s+", " ", text).strip().lower()


def published_order(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Numbers the tokens that merges make: bytes (printable ones first), the same at a word's end, merged pairs in
    order, start and end of text."""
    symbols = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokens = [*symbols, *(s + _WORD_END for s in symbols), *(a + b for a, b in merges), START, END]
    return {token: i for i, token in enumerate(tokens)}


class ClipTokenizer(RowTokenizer):
    """Gives the ids that OpenAI's `tokenize` gives; see `vtjax.text.tokenizer.Tokenizer`.

    A text that itself holds "<|endoftext|>" gets that special id, as in the reference.

    Args:
      merges: pairs in order of rank; none at all is a working tokenizer of bytes (514 ids), for trials.
      vocabulary: token -> id; None for `published_order`.
      pad_id: OpenAI pads with 0, transformers with the end of text; the model does not see the difference.
      on_long: a text that does not fit is cut and its last id made the end of text ("truncate"), or is refused
        ("error", OpenAI's default).

    Raises:
      VtjaxError: a vocabulary without a token that the merges make, or an unknown pad_id or on_long.
    """

    room = (3, "start of text, a token and end of text")

    def __init__(
        self,
        merges: Sequence[tuple[str, str]] = (),
        vocabulary: Mapping[str, int] | None = None,
        pad_id: int = 0,
        on_long: str = "truncate",
    ):
        self.merges = tuple((first, second) for first, second in merges)
        needed = published_order(self.merges)
        self.vocabulary = dict(needed if vocabulary is None else vocabulary)
        self.pad_id, self.on_long = pad_id, on_long
        if on_long not in _ON_LONG:
            raise VtjaxError(f"on_long={on_long!r}; expected one of {', '.join(_ON_LONG)}")
        lost = [token for token in needed if token not in self.vocabulary]
        if lost:
            raise VtjaxError(f"the vocabulary lacks {len(lost)} tokens that the merges make, first {lost[:5]}")
        self.bos_id, self.eos_id = self.start_id, self.end_id = self.vocabulary[START], self.vocabulary[END]
        self.vocab_size = max(self.vocabulary.values()) + 1
        if not 0 <= pad_id < self.vocab_size:
            raise VtjaxError(f"pad_id={pad_id} is not one of the {self.vocab_size} ids")
        model = tokenizers.models.BPE(self.vocabulary, list(self.merges), end_of_word_suffix=_WORD_END)
        self._backend = tokenizers.Tokenizer(model)
        self._backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._backend.add_special_tokens([START, END])

    @classmethod
    def load(cls, source: str | os.PathLike[str], pad_id: int | None = None, on_long: str | None = None):
        """Reads a vocabulary.

        Args:
          source: `bpe_simple_vocab_16e6.txt.gz` (or its text), what `save` wrote, or a folder or hub id of a CLIP model
            in the Hugging Face layout (vocab.json and merges.txt, or tokenizer.json).
          pad_id, on_long: see the class; None: as saved, else 0 and "truncate".

        Raises:
          VtjaxError: no such file or folder, or no CLIP vocabulary in it.
        """
        path = pathlib.Path(source).expanduser()
        settings = {}
        try:
            if path.is_file():
                merges, vocabulary = _read_published(path), None
            else:
                folder = local_folder(source)
                merges, vocabulary = _read_folder(folder)
                if (folder / SETTINGS_FILE).is_file():
                    settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        except VtjaxError:
            raise
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise VtjaxError(f"{source}: not a CLIP vocabulary ({type(error).__name__}: {error})") from error
        given = {k: v for k, v in (("pad_id", pad_id), ("on_long", on_long)) if v is not None}
        return cls(merges, vocabulary, **(settings | given))

    def encode(self, texts: Sequence[str], length: int = CONTEXT) -> tuple[np.ndarray, np.ndarray]:
        """See `RowTokenizer.encode`."""
        return super().encode(texts, length)

    def token_ids(self, text: str) -> list[int]:
        """See `RowTokenizer.token_ids`."""
        return self._backend.encode(_WORDS.findall(clean(text)), is_pretokenized=True).ids

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
    return tokenizer_class(folder).startswith("CLIPTokenizer")


def _pairs(lines: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(lines, 1):
        symbols = line.split()
        if len(symbols) != 2:
            raise VtjaxError(f"merge {number} is {line!r}; expected two symbols")
        pairs.append((symbols[0], symbols[1]))
    return pairs


def _read_published(path: pathlib.Path) -> list[tuple[str, str]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    return _pairs(text.split("\n")[1:][:PUBLISHED_MERGES])  # the first line is a title


def _read_folder(folder: pathlib.Path) -> tuple[list[tuple[str, str]], dict[str, int] | None]:
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        return _pairs([line for line in lines[lines[0].startswith("#version") :] if line]), vocabulary
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
