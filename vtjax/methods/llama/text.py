"""Sizes and tokenizer of a configuration."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from vtjax.methods.llama.config import LlamaConfig
from vtjax.nn import llama
from vtjax.text.assets import kept_tokenizer
from vtjax.text.llama_tokenizer import LlamaTokenizer
from vtjax.text.tokenizer import CausalWordTokenizer
from vtjax.weights.files import read_json
from vtjax.weights.hub import local_folder
from vtjax.weights.llama import config_from_hf


def sizes_of(config: LlamaConfig) -> llama.LlamaConfig:
    """As published, or of a preset, long enough for the texts.

    Raises:
      VtjaxError: no readable model.
    """
    if config.model.pretrained:
        path = local_folder(config.model.pretrained) / "config.json"
        return config_from_hf(read_json(path), str(path))
    sizes = llama.PRESETS[config.model.preset]
    return dataclasses.replace(sizes, positions=max(sizes.positions, config.text.max_tokens))


def open_tokenizer(
    config: LlamaConfig, sizes: llama.LlamaConfig, assets: pathlib.Path, corpus: Sequence[str] | None = None
) -> CausalWordTokenizer | LlamaTokenizer:
    """The tokenizer kept in a run's assets, made there first where `corpus` (the training texts) is given.

    Raises:
      VtjaxError: no tokenizer, or one with more ids than the model has.
    """
    source = config.text.vocabulary or config.model.pretrained

    def make() -> Any:
        if source:
            return LlamaTokenizer(local_folder(source))
        room = sizes.vocab_size - CausalWordTokenizer.specials
        return CausalWordTokenizer.from_texts(corpus, room, oov_buckets=0)

    tokenizer: Any = kept_tokenizer(assets, make if corpus is not None else None, sizes.vocab_size)
    return tokenizer
