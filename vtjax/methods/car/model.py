"""TMR's three towers, its text front ends, and their non-VAE variant, as one Linen module (docs/methods/car.md)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vtjax.errors import VtjaxError
from vtjax.methods.car.config import CarModelConfig, CarTextConfig
from vtjax.nn import actor, projection_head
from vtjax.nn.actor import ActorDecoder, ActorEncoder
from vtjax.nn.projection_head import ProjectionHead
from vtjax.nn.transformer import LayerConfig, lookup
from vtjax.sharding.partition import Rules

_RULES = (
    *actor.RULES,
    *projection_head.RULES,
    (r"text_embedding/embedding", (None, "embed")),
)


def rules(text: CarTextConfig) -> Rules:
    """The partition table (sharding/partition.py) of a CarModel with this text front end."""
    if text.encoder == "builtin" or not text.in_graph:
        return _RULES
    from vtjax.nn import bert

    return (*bert.RULES, *_RULES)


class CarModel(nn.Module):
    """Motion and text encoders to N(mu, exp(logvar)) in one space, and a motion decoder.

    config, text: settings. language_model: configuration of the BERT-family model inside the graph (vtjax/nn/bert.py);
    None where states come cached or from the builtin embedding. dtype: of matmul inputs.
    """

    config: CarModelConfig
    text: CarTextConfig
    language_model_config: Any = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        c = self.config
        layer = LayerConfig(c.heads, c.ff, c.dropout, c.dropout, c.activation, dtype=self.dtype)
        tokens = 2 if c.vae else 1
        how = {"scan": c.scan, "remat": c.remat}
        self.motion_encoder = ActorEncoder(c.latent, c.layers, layer, tokens, c.patch, **how)
        self.motion_decoder = ActorDecoder(c.motion_width, c.layers, layer, c.patch, **how)
        if c.vae or self.text.encoder == "builtin":
            self.text_encoder = ActorEncoder(c.latent, c.layers, layer, tokens, **how)
        if not c.vae:
            self.text_head = ProjectionHead(c.latent, c.dropout, dtype=self.dtype)
        if self.text.encoder == "builtin":
            self.text_embedding = nn.Embed(
                self.text.vocab_size, self.text.width, embedding_init=nn.initializers.normal(1.0), dtype=self.dtype
            )
        elif self.text.in_graph:
            from vtjax.nn.bert import BertEncoder

            if self.language_model_config is None:
                raise VtjaxError("a trainable language model needs its configuration (config.json of text.path)")
            self.language_model = BertEncoder(self.language_model_config, self.dtype, **how)

    def encode_motion(self, motion: jax.Array, mask: jax.Array, train: bool = False) -> tuple[Any, Any]:
        """motion [B, T, motion_width] normalised, mask bool [B, T] -> mu, logvar float32 [B, latent].

        logvar is None without a VAE.
        """
        return self._gaussian(self.motion_encoder(motion, mask, train=train))

    def text_states(self, ids: jax.Array, mask: jax.Array, train: bool = False) -> jax.Array:
        """Token ids int32 [B, L], mask bool [B, L] -> states [B, L, width] of the front end inside the graph."""
        if self.text.encoder == "builtin":
            return lookup(self.text_embedding, ids)
        return self.language_model(ids, mask, train=train)

    def encode_text(self, states: jax.Array, mask: jax.Array, train: bool = False) -> tuple[Any, Any]:
        """states [B, L, width], mask bool [B, L] -> mu, logvar float32 [B, latent]; logvar is None without a VAE.

        Without a VAE the sentence vector is the language model's first token, or, as builtin embeddings have no such
        token, the output of a one-token encoder; the projection head follows.
        """
        if self.config.vae:
            return self._gaussian(self.text_encoder(states, mask, train=train))
        first = self.text_encoder(states, mask, train=train) if self.text.encoder == "builtin" else states
        return self.text_head(first[:, 0], train=train), None

    def decode(self, z: jax.Array, mask: jax.Array, train: bool = False) -> jax.Array:
        """z [B, latent], mask bool [B, T] -> motion float32 [B, T, motion_width], zero at padded frames."""
        return self.motion_decoder(z, mask, train=train)

    def __call__(self, motion: jax.Array, motion_mask: jax.Array, text: jax.Array, text_mask: jax.Array) -> jax.Array:
        """Every part once, so that `init` makes every parameter; text is ids or states as the front end wants."""
        mu, _ = self.encode_motion(motion, motion_mask)
        states = self.text_states(text, text_mask) if self.text.in_graph else text
        other, _ = self.encode_text(states, text_mask)
        return self.decode(mu + other, motion_mask)

    def _gaussian(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        return tokens[:, 0], tokens[:, 1] if self.config.vae else None
