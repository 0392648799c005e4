"""The objective as pure functions of (config, params, batch): the next token of what is to be learnt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vtjax.losses.language import next_token_loss
from vtjax.methods.llama.config import LlamaConfig
from vtjax.nn import llama
from vtjax.nn.lora import LoraConfig, init_lora

ADAPTER = "adapter"
TRAINABLE = rf"^{ADAPTER}/"


def lora_config(config: LlamaConfig) -> LoraConfig:
    """The adapter's settings."""
    m = config.model
    return LoraConfig(m.rank, m.alpha, m.dropout, m.targets)


def build(config: LlamaConfig, sizes: llama.LlamaConfig, dtype: Any = jnp.float32) -> llama.LanguageModel:
    """The model of a configuration; dtype: of activations and matmul inputs."""
    m = config.model
    adapters = ((ADAPTER, lora_config(config)),)
    return llama.LanguageModel(sizes, adapters, jnp.dtype(dtype).name, m.frozen_dtype, m.remat)


def example_spec(config: LlamaConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Fields of one example: ids padded on the right; valid, the text's own; counted, those that are to be learnt."""
    length, spec = config.text.max_tokens, jax.ShapeDtypeStruct
    return {
        "ids": spec((length,), jnp.int32),
        "valid": spec((length,), jnp.bool_),
        "counted": spec((length,), jnp.bool_),
    }


def init(config: LlamaConfig, sizes: llama.LlamaConfig, rng: jax.Array, dtype: Any = jnp.float32) -> dict[str, Any]:
    """{"base": random decoder in frozen_dtype, "adapter": a fresh adapter in float32}."""
    base_key, adapter_key = jax.random.split(rng)
    base = build(config, sizes, dtype).init(base_key)
    return {"base": base, ADAPTER: init_lora(adapter_key, base, lora_config(config))}


def loss(
    config: LlamaConfig,
    sizes: llama.LlamaConfig,
    params: Mapping[str, Any],
    batch: Mapping[str, jax.Array],
    rng: jax.Array,
    train: bool,
    dtype: Any = jnp.float32,
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """{"loss": (sum of -log p of the counted tokens, their number), "accuracy": (of them the likeliest, number)}."""
    model, base = build(config, sizes, dtype), params["base"]
    hidden = model.hidden(
        base, model.embed(base, batch["ids"]), batch["valid"],
        lora={ADAPTER: params[ADAPTER]}, rng=rng if train else None, train=train,
    )  # fmt: skip
    missed, hits = next_token_loss(
        lambda states: model.logits(base, states), hidden, batch["ids"], batch["counted"], config.text.chunk
    )
    return {"loss": missed, "accuracy": hits}
