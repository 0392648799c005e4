"""Opens the tokenizer that a folder holds, and keeps that of a run among the run's assets."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

from vtjax.errors import VtjaxError
from vtjax.text.clip_tokenizer import ClipTokenizer, is_clip_folder
from vtjax.text.llama_tokenizer import LlamaTokenizer, is_llama_folder
from vtjax.text.tokenizer import CAUSAL_FILE, WORD_FILE, CausalWordTokenizer, HFTokenizer, Tokenizer, WordTokenizer

FOLDER = "tokenizer"  # in a run's assets


def load_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer saved in `folder`: words, CLIP's with OpenAI's ids, LLaMA's, or any of Hugging Face's.

    Raises:
      VtjaxError: no tokenizer there.
    """
    folder = pathlib.Path(folder)
    if is_clip_folder(folder):
        return ClipTokenizer.load(folder)
    if (folder / WORD_FILE).is_file():
        return WordTokenizer.load(folder)
    if (folder / CAUSAL_FILE).is_file():
        return CausalWordTokenizer.load(folder)
    return LlamaTokenizer(folder) if is_llama_folder(folder) else HFTokenizer(folder)


def kept_tokenizer(
    assets: str | os.PathLike[str],
    make: Callable[[], Tokenizer] | None = None,
    most: int | None = None,
    model: str = "model",
) -> Tokenizer:
    """Opens the tokenizer kept in `FOLDER` of a run's assets; where `make` is given, makes and keeps it there first.

    A tokenizer that is there already stays, so that a run goes on with the ids it began with. What comes back is always
    read from the folder: training and every later use of the run have one and the same. As a method calls it::

        def make():
            return WordTokenizer.from_texts(corpus, max_words=config.vocab_size - 16)

        tokenizer = kept_tokenizer(assets, make if corpus is not None else None, sizes.vocab_size, "text tower")

    Args:
      assets: the folder of assets of a run.
      make: makes the tokenizer; called only where none is kept yet. None: the run exists, nothing is made.
      most: number of ids that the model has; None does not check it. model: its name in messages.

    Raises:
      VtjaxError: no tokenizer kept and none to make, or one with more ids than the model has.
    """
    folder = pathlib.Path(assets) / FOLDER
    if make is not None and not any(folder.glob("*.json")):
        make().save(folder)
    if not folder.is_dir():
        raise VtjaxError(f"{folder}: missing; vtjax.train writes it at its start")
    tokenizer = load_tokenizer(folder)
    if most is not None and tokenizer.vocab_size > most:
        raise VtjaxError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the {model} {most}: they do not belong to the same model"
        )
    return tokenizer
