"""From sentences to the fields of the text encoder: token ids, or the cached states of a frozen language model."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vtjax.methods.car.config import CarTextConfig
from vtjax.text.assets import kept_tokenizer
from vtjax.text.tokenizer import HFTokenizer, WordTokenizer


class TextFields:
    """Texts to {"ids" or "states", "mask"} arrays; picklable, for data workers.

    kind: "ids" (builtin vocabulary, or a language model in the graph) or "states" (frozen language model).
    cache: folder that keeps the states which `ready` computes; without one they are computed anew each time.
    """

    def __init__(
        self,
        config: CarTextConfig,
        tokenizer: Any = None,
        store: Any = None,
        encoder: Any = None,
        cache: pathlib.Path | None = None,
    ):
        self.config, self.tokenizer, self.store, self.cache = config, tokenizer, store, cache
        self.kind = "ids" if config.in_graph else "states"
        self._encoder = encoder

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_encoder": None}  # workers only read what is in the store

    def prepare(self, texts: Sequence[str], cache: pathlib.Path) -> None:
        """Computes the states of texts that are not in the cache yet; nothing to do for ids."""
        if self.kind == "states":
            self.store = self._encoder.prepare(list(dict.fromkeys(texts)), cache)

    def ready(self, texts: Sequence[str]) -> None:
        """Has the states of many texts computed at once, and kept, before they are asked for batch by batch."""
        if self.cache is not None:
            self.prepare(texts, self.cache)

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32 [N, L] or states float32 [N, L, width], mask bool [N, L])."""
        if self.kind == "ids":
            return self.tokenizer.encode(texts, self.config.max_tokens)
        if self.store is not None and not self.store.absent(texts):
            return self.store.read(texts)
        return self._encoder.encode(texts)


def open_text(
    config: CarTextConfig,
    assets: pathlib.Path,
    corpus: Sequence[str] | None = None,
    cache: pathlib.Path | None = None,
) -> TextFields:
    """The text front end of a run.

    assets: folder of the run with the builtin vocabulary. corpus: training texts to build that vocabulary from where it
    is not there yet. cache: of a frozen language model's states.

    Raises:
      VtjaxError: the language model or the vocabulary cannot be read.
    """
    if config.encoder == "builtin":
        make = functools.partial(WordTokenizer.from_texts, corpus, max_words=config.vocab_size - 16)
        return TextFields(config, kept_tokenizer(assets, make if corpus is not None else None))
    if config.in_graph:
        from vtjax.weights.hub import local_folder

        return TextFields(config, HFTokenizer(local_folder(config.path)))
    from vtjax.encoders.frozen_text import FrozenTextEncoder

    encoder = FrozenTextEncoder(config.path, config.max_tokens)
    return TextFields(config, encoder.tokenizer, None, encoder, cache)


def language_model_config(config: CarTextConfig) -> Any:
    """BertConfig of a language model inside the graph, else None."""
    if config.encoder == "builtin" or not config.in_graph:
        return None
    from vtjax.weights.bert import config_from_hf
    from vtjax.weights.files import read_json
    from vtjax.weights.hub import local_folder

    return config_from_hf(read_json(local_folder(config.path) / "config.json"))
