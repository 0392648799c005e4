"""The tokenizer of a run: CLIP's own, or a vocabulary of the training texts' words."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from vtjax.encoders.clip_config import ClipConfig, tokenizer_of
from vtjax.encoders.sizes import carried_of
from vtjax.errors import Problems, VtjaxError
from vtjax.nn.clip import ClipConfig as Sizes
from vtjax.text.assets import FOLDER, kept_tokenizer, load_tokenizer
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

    def make() -> Tokenizer:
        earlier = _kept(initial)
        if earlier is not None:
            return load_tokenizer(earlier)
        if tokenizer_of(config) == "words":
            most = config.text.vocab_size - len(SPECIAL) - _SPREAD
            return WordTokenizer.from_texts(corpus, most, oov_buckets=_SPREAD)
        return ClipTokenizer.load(config.text.vocabulary or carried_of(config.model.pretrained))

    return kept_tokenizer(assets, None if corpus is None else make, sizes.text.vocab_size, "text tower")


def _kept(initial: str) -> pathlib.Path | None:
    """The tokenizer of the run that `initial` is, or is a folder of; None where there is none."""
    if not initial:
        return None
    path = pathlib.Path(initial).absolute()
    places = (place / "assets" / FOLDER for place in (path, *path.parents[:2]))
    return next((folder for folder in places if folder.is_dir()), None)


def check_words(tokenizer: Tokenizer, texts: Sequence[str]) -> Problems:
    """Gives the words of texts that a vocabulary of words lacks; CLIP's own lacks none.

    Raises:
      VtjaxError: a text without any known word: it would have an embedding, but a meaningless one.
    """
    problems = Problems()
    if not isinstance(tokenizer, WordTokenizer):
        return problems
    known = set(tokenizer.vocabulary)
    for text in texts:
        asked = [word for word in words(text) if word[0].isalnum()]
        missing = [word for word in asked if word not in known]
        if missing and len(missing) == len(asked):
            longest = sorted(tokenizer.vocabulary, key=len)[-8:]
            raise VtjaxError(
                f"{text!r}: this run has learnt none of its words; it knows the "
                f"{len(known)} of its training texts ({', '.join(longest)}, ...). A run from "
                "published weights takes any text: configs/clip.py:finetune"
            )
        if missing:
            problems.add(f"{', '.join(missing)} in {text!r}", "words that this run has not learnt")
    return problems
