"""The objective as pure functions of parameters and a batch: the next token of what is to be learnt."""

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
    """Gives the adapter's settings."""
    m = config.model
    return LoraConfig(m.rank, m.alpha, m.dropout, m.targets)


def adapters_of(params: Mapping[str, Any]) -> dict[str, Any] | None:
    """Takes the adapters among parameters, as the model wants them."""
    return {ADAPTER: params[ADAPTER]} if ADAPTER in params else None


class LlamaObjective:
    """The objective of one configuration, bound to its model (LoRA, arXiv 2106.09685, where an adapter learns)."""

    def __init__(self, config: LlamaConfig, sizes: llama.LlamaConfig, dtype: Any = jnp.float32):
        """Builds the model. dtype: of activations and matmul inputs."""
        self.config = config
        m = config.model
        adapted = m.learns == "adapter"
        adapters = ((ADAPTER, lora_config(config)),) if adapted else ()
        frozen = m.frozen_dtype if adapted else "float32"
        self.model = llama.LanguageModel(sizes, adapters, jnp.dtype(dtype).name, frozen, m.remat)

    @property
    def trainable(self) -> str:
        """Pattern of the paths that learn."""
        return rf"^{ADAPTER}/" if self.config.model.learns == "adapter" else r"^base/"

    def example_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Gives the fields of one example: ids, padded on the right; valid, the text; counted, what is to be learnt."""
        length, spec = self.config.text.max_tokens, jax.ShapeDtypeStruct
        return {
            "ids": spec((length,), jnp.int32),
            "valid": spec((length,), jnp.bool_),
            "counted": spec((length,), jnp.bool_),
        }

    def init(self, rng: jax.Array, batch: Any = None) -> dict[str, Any]:
        """Draws {"base": a random decoder, "adapter": a fresh adapter in float32, where that is what learns}."""
        base_key, adapter_key = jax.random.split(rng)
        base = self.model.init(base_key)
        if self.config.model.learns == "all":
            return {"base": base}
        return {"base": base, ADAPTER: init_lora(adapter_key, base, lora_config(self.config))}

    def _hidden(self, params: Mapping[str, Any], batch: Mapping[str, jax.Array], rng: jax.Array | None) -> jax.Array:
        """Last states [B, L, width]; rng: of the adapter's dropout, None outside training."""
        base = params["base"]
        return self.model.hidden(
            base, self.model.embed(base, batch["ids"]), batch["valid"],
            lora=adapters_of(params), rng=rng, train=rng is not None,
        )  # fmt: skip

    def loss(
        self, params: Mapping[str, Any], batch: Mapping[str, jax.Array], rng: jax.Array, train: bool
    ) -> dict[str, tuple[jax.Array, jax.Array]]:
        """Computes "loss", the sum of -log p of the counted tokens, and "accuracy", both with the number of tokens."""
        hidden = self._hidden(params, batch, rng if train else None)
        missed, hits = next_token_loss(
            lambda h: self.model.logits(params["base"], h), hidden, batch["ids"], batch["counted"],
            self.config.text.chunk,
        )  # fmt: skip
        return {"loss": missed, "accuracy": hits}

    def scores(
        self, params: Mapping[str, Any], batch: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Gives, float32 [B]: sum of -log p of a row's counted tokens, how many were likeliest, how many count."""
        head = lambda x: self.model.logits(params["base"], x)

        def one(row: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            hidden, ids, counted = (x[None] for x in row)
            (missed, count), (hits, _) = next_token_loss(head, hidden, ids, counted, self.config.text.chunk)
            return missed, hits, count

        return jax.lax.map(one, (self._hidden(params, batch, None), batch["ids"], batch["counted"]))
