"""The tokenizer of a run: CLIP's own, or a vocabulary of the training texts' words."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from vtjax.errors import VtjaxError
from vtjax.methods.clip.config import ClipConfig, tokenizer_of
from vtjax.nn.clip import ClipConfig as Sizes
from vtjax.text.clip_tokenizer import ClipTokenizer
from vtjax.text.tokenizer import SPECIAL, Tokenizer, WordTokenizer, load_tokenizer

FOLDER = "tokenizer"  # in a run's assets
_SPREAD = 8  # ids that words outside the vocabulary are spread over


def open_tokenizer(
    config: ClipConfig, sizes: Sizes, assets: pathlib.Path, corpus: Sequence[str] | None = None
) -> Tokenizer:
    """The tokenizer kept in a run's assets, made there first where `corpus` (the training texts) is given.

    Raises:
      VtjaxError: no tokenizer, or one with more ids than the text tower has.
    """
    folder = assets / FOLDER
    if corpus is not None and not folder.is_dir():
        if tokenizer_of(config) == "words":
            tokenizer: Tokenizer = WordTokenizer.from_texts(
                corpus, config.text.vocab_size - len(SPECIAL) - _SPREAD, oov_buckets=_SPREAD
            )
        else:
            tokenizer = ClipTokenizer.load(config.text.vocabulary or config.model.pretrained)
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
