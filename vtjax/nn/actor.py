"""ACTOR-style sequence encoder and decoder (Petrovich et al., 2021) as TMR uses them (docs/methods/car.md)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Bool, Float

from vtjax.arrays import Array
from vtjax.errors import VtjaxError
from vtjax.nn.attention import KERNEL_INIT, key_mask
from vtjax.nn.dropout import Dropout
from vtjax.nn.positions import sinusoidal
from vtjax.nn.transformer import RULES as TRANSFORMER_RULES
from vtjax.nn.transformer import Decoder, Encoder, LayerConfig

RULES = (
    *TRANSFORMER_RULES,
    (r"projection/kernel", (None, "embed")),
    (r"final/kernel", ("embed", None)),
    (r"(projection|final)/bias", (None,)),
    (r"tokens", (None, None)),
)


def _patched_mask(mask: Bool[Array, "batch frames"], patch: int) -> Bool[Array, "batch tokens"]:
    """[B, L] bool -> [B, L / patch]: a token is valid when any of its frames is.

    Raises:
      VtjaxError: the length is not a multiple of the patch.
    """
    if mask.shape[1] % patch:
        raise VtjaxError(f"sequence length {mask.shape[1]} is not a multiple of patch={patch}; pad to a multiple of it")
    return rearrange(mask, "b (l p) -> b l p", p=patch).any(axis=-1)


class ActorEncoder(nn.Module):
    """A sequence to `tokens` vectors: learned tokens lead the sequence, and the outputs at their places are returned.

    width: of the latent; layer: see LayerConfig; layers: depth. patch: consecutive rows projected to one token
    (1 is the paper; more is cheaper). tokens: 2 for a VAE (mean, log-variance), 1 for a plain embedding. scan, remat:
    see `stack.run_layers`.
    """

    width: int
    layers: int
    layer: LayerConfig
    tokens: int = 2
    patch: int = 1
    scan: bool = False
    remat: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch frames features"], mask: Bool[Array, "batch frames"], *, train: bool = False
    ) -> Float[Array, "batch {self.tokens} {self.width}"]:
        """x float [B, L, features], mask bool [B, L] (True valid) -> float32 [B, tokens, width].

        What stands at padded rows does not matter, not even NaN.
        """
        dtype = self.layer.dtype
        batch = len(x)
        valid = _patched_mask(mask, self.patch)
        x = rearrange(jnp.where(mask[..., None], x, 0), "b (l p) features -> b l (p features)", p=self.patch)
        h = nn.Dense(self.width, dtype=dtype, kernel_init=KERNEL_INIT, name="projection")(x)
        tokens = self.param("tokens", nn.initializers.normal(1.0), (self.tokens, self.width), jnp.float32)
        h = jnp.concatenate([jnp.broadcast_to(tokens.astype(dtype)[None], (batch, *tokens.shape)), h], axis=1)
        h = h + jnp.asarray(sinusoidal(h.shape[1], self.width), dtype)[None]
        h = Dropout(self.layer.dropout, deterministic=not train)(h)
        seen = jnp.concatenate([jnp.ones((batch, self.tokens), bool), valid], axis=1)
        encoder = Encoder(self.layer, self.layers, scan=self.scan, remat=self.remat, name="transformer")
        h = encoder(h, key_mask(seen), train=train)
        return h[:, : self.tokens].astype(jnp.float32)


class ActorDecoder(nn.Module):
    """One latent to a sequence: queries are positions alone, the latent is the memory of every layer."""

    features: int
    layers: int
    layer: LayerConfig
    patch: int = 1
    scan: bool = False
    remat: str | None = None

    @nn.compact
    def __call__(
        self, z: Float[Array, "batch width"], mask: Bool[Array, "batch frames"], *, train: bool = False
    ) -> Float[Array, "batch frames {self.features}"]:
        """z float [B, width], mask bool [B, L] -> float32 [B, L, features], zero where the mask is False."""
        dtype = self.layer.dtype
        batch, width = z.shape
        valid = _patched_mask(mask, self.patch)
        queries = jnp.asarray(sinusoidal(valid.shape[1], width), dtype)[None]
        h = jnp.broadcast_to(queries, (batch, *queries.shape[1:]))
        h = Dropout(self.layer.dropout, deterministic=not train)(h)
        decoder = Decoder(self.layer, self.layers, scan=self.scan, remat=self.remat, name="transformer")
        h = decoder(h, z.astype(dtype)[:, None], key_mask(valid), train=train)
        y = nn.Dense(self.patch * self.features, dtype=dtype, kernel_init=KERNEL_INIT, name="final")(h)
        y = rearrange(y.astype(jnp.float32), "b l (p features) -> b (l p) features", p=self.patch)
        return jnp.where(mask[..., None], y, 0)
