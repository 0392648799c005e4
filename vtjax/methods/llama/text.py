"""Sizes and tokenizer of a configuration."""

from __future__ import annotations

import dataclasses

from vtjax.methods.llama.config import LlamaConfig
from vtjax.nn import llama


def sizes_of(config: LlamaConfig) -> llama.LlamaConfig:
    """As published, or of a preset, long enough for the texts.

    Raises:
      VtjaxError: no readable model.
    """
    if config.model.pretrained:
        from vtjax.convert.bert import read_json
        from vtjax.convert.hub import local_folder
        from vtjax.convert.llama import config_from_hf

        path = local_folder(config.model.pretrained) / "config.json"
        return config_from_hf(read_json(path), str(path))
    sizes = llama.PRESETS[config.model.preset]
    return dataclasses.replace(sizes, positions=max(sizes.positions, config.text.max_tokens))
