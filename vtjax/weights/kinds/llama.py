"""LLaMA and Vicuna, streamed: one published tensor is in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vtjax.config import from_dict, to_dict
from vtjax.errors import VtjaxError
from vtjax.nn.llama import LanguageModel, LlamaConfig
from vtjax.weights import llama
from vtjax.weights.options import Loaded, Options
from vtjax.weights.source import Source, Tensors


def detect(source: Source) -> bool:
    """Whether its config.json says so."""
    return source.settings.get("model_type") == "llama"


def load(source: Source, options: Options) -> Loaded:
    """Parameters of `LanguageModel`, bfloat16 unless told otherwise."""
    if not source.settings:
        raise VtjaxError(f"{source.folder}: no config.json, which says the sizes of the model")
    config = llama.config_from_hf(source.settings, str(source.folder / "config.json"))
    dtype = options.dtype or "bfloat16"
    tensors = Tensors(source.tensors)
    expected = {name: (target.path,) for name, target in llama.key_map(config)}
    done = tensors.reconcile(expected, lambda: llama.to_hf(config, _random(config)), options.allow)
    params, result = llama.from_weights(config, tensors, dtype=dtype, where=str(source.path))
    return Loaded(params, to_dict(config), done.amend(result), tensors.published_dtype())


def save(folder: Any, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """config.json and model.safetensors, in shards where it is large."""
    llama.save_llama(folder, from_dict(LlamaConfig, dict(config)), params)


def _random(config: LlamaConfig) -> dict[str, Any]:
    import jax

    return jax.jit(LanguageModel(config).init)(jax.random.key(0))
