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


def lora_config(config: LlamaConfig) -> LoraConfig:
    """The adapter's settings."""
    m = config.model
    return LoraConfig(m.rank, m.alpha, m.dropout, m.targets)


def build(config: LlamaConfig, sizes: llama.LlamaConfig, dtype: Any = jnp.float32) -> llama.LanguageModel:
    """The model of a configuration; dtype: of activations and matmul inputs."""
    m = config.model
    adapted = m.learns == "adapter"
    adapters = ((ADAPTER, lora_config(config)),) if adapted else ()
    return llama.LanguageModel(
        sizes, adapters, jnp.dtype(dtype).name, m.frozen_dtype if adapted else "float32", m.remat
    )


def adapters_of(params: Mapping[str, Any]) -> dict[str, Any] | None:
    """The adapters among parameters as the model takes them."""
    return {ADAPTER: params[ADAPTER]} if ADAPTER in params else None


def trainable(config: LlamaConfig) -> str:
    """Pattern of the paths that learn."""
    return rf"^{ADAPTER}/" if config.model.learns == "adapter" else r"^base/"


def example_spec(config: LlamaConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Fields of one example: ids padded on the right; valid, the text's own; counted, those that are to be learnt."""
    length, spec = config.text.max_tokens, jax.ShapeDtypeStruct
    return {
        "ids": spec((length,), jnp.int32),
        "valid": spec((length,), jnp.bool_),
        "counted": spec((length,), jnp.bool_),
    }


def init(config: LlamaConfig, sizes: llama.LlamaConfig, rng: jax.Array, dtype: Any = jnp.float32) -> dict[str, Any]:
    """{"base": a random decoder, "adapter": a fresh adapter in float32, where it is that which learns}."""
    base_key, adapter_key = jax.random.split(rng)
    base = build(config, sizes, dtype).init(base_key)
    if config.model.learns == "all":
        return {"base": base}
    return {"base": base, ADAPTER: init_lora(adapter_key, base, lora_config(config))}


def states(
    config: LlamaConfig,
    sizes: llama.LlamaConfig,
    params: Mapping[str, Any],
    batch: Mapping[str, jax.Array],
    rng: jax.Array | None,
    dtype: Any,
) -> tuple[llama.LanguageModel, jax.Array]:
    """(the model, its last states [B, L, width]); rng: of the adapter's dropout, None outside training."""
    model, base = build(config, sizes, dtype), params["base"]
    hidden = model.hidden(
        base, model.embed(base, batch["ids"]), batch["valid"],
        lora=adapters_of(params), rng=rng, train=rng is not None,
    )  # fmt: skip
    return model, hidden


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
    model, hidden = states(config, sizes, params, batch, rng if train else None, dtype)
    missed, hits = next_token_loss(
        lambda h: model.logits(params["base"], h), hidden, batch["ids"], batch["counted"], config.text.chunk
    )
    return {"loss": missed, "accuracy": hits}


def scores(
    config: LlamaConfig,
    sizes: llama.LlamaConfig,
    params: Mapping[str, Any],
    batch: Mapping[str, jax.Array],
    dtype: Any = jnp.float32,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of each row, float32 [B]: sum of -log p of its counted tokens, how many were the likeliest, how many count."""
    model, hidden = states(config, sizes, params, batch, None, dtype)

    def one(h: jax.Array, ids: jax.Array, counted: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        head = lambda x: model.logits(params["base"], x)  # noqa: E731
        (missed, count), (hits, _) = next_token_loss(head, h[None], ids[None], counted[None], config.text.chunk)
        return missed, hits, count

    return jax.lax.map(lambda row: one(*row), (hidden, batch["ids"], batch["counted"]))
