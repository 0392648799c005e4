"""The tokenizer of a run: CLIP's own, or a vocabulary of the training texts' words."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from vtjax.encoders.clip_config import ClipConfig, tokenizer_of
from vtjax.encoders.sizes import TOKENIZER, carried_of
from vtjax.errors import VtjaxError
from vtjax.nn.clip import ClipConfig as Sizes
from vtjax.text.assets import load_tokenizer
from vtjax.text.clip_tokenizer import ClipTokenizer
from vtjax.text.tokenizer import SPECIAL, Tokenizer, WordTokenizer, words

_SPREAD = 8  # ids that words outside the vocabulary are spread over


def open_tokenizer(
    config: ClipConfig, sizes: Sizes, assets: pathlib.Path, corpus: Sequence[str] | None = None, initial: str = ""
) -> Tokenizer:
    """The tokenizer kept in a run's assets, made there first where `corpus` (the training texts) is given.

    initial: the run that parameters are taken from, config.train.initial: its ids are what they were learnt for, so its
    tokenizer is taken too.

    Raises:
      VtjaxError: no tokenizer, or one with more ids than the text tower has.
    """
    folder = assets / TOKENIZER
    if corpus is not None and not folder.is_dir():
        earlier = _kept(initial)
        if earlier is not None:
            tokenizer: Tokenizer = load_tokenizer(earlier)
        elif tokenizer_of(config) == "words":
            tokenizer = WordTokenizer.from_texts(
                corpus, config.text.vocab_size - len(SPECIAL) - _SPREAD, oov_buckets=_SPREAD
            )
        else:
            tokenizer = ClipTokenizer.load(config.text.vocabulary or carried_of(config.model.pretrained))
        tokenizer.save(folder)
    if not folder.is_dir():
        raise VtjaxError(f"{folder}: missing; vtjax.train writes it at its start")
    tokenizer = load_tokenizer(folder)
    if tokenizer.vocab_size > sizes.text.vocab_size:
        raise VtjaxError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the text tower {sizes.text.vocab_size}: "
            "they do not belong to the same model"
        )
    return tokenizer


def _kept(initial: str) -> pathlib.Path | None:
    """The tokenizer of the run that `initial` is, or is a folder of; None where there is none."""
    if not initial:
        return None
    path = pathlib.Path(initial).absolute()
    places = (place / "assets" / TOKENIZER for place in (path, *path.parents[:2]))
    return next((folder for folder in places if folder.is_dir()), None)


def unknown_words(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, list[str]]:
    """By text, the words that a vocabulary of words lacks; texts without any are left out. CLIP's own lacks none."""
    if not isinstance(tokenizer, WordTokenizer):
        return {}
    known = set(tokenizer.vocabulary)
    unknown = {text: [w for w in words(text) if w[0].isalnum() and w not in known] for text in texts}
    return {text: missing for text, missing in unknown.items() if missing}
