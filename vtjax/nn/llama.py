"""The LLaMA-2 decoder (arXiv 2307.09288; Vicuna has the same): RMSNorm, half-split RoPE, SwiGLU, no biases.

`LanguageModel` is the set of pure functions that the rest of the package uses; parameters are one nested dict with the
layers stacked on a leading axis and run by a scan:

  embed/embedding [vocab, width];
  layers/{norm1,norm2}/scale, layers/attention/{query,key,value,out}/kernel, layers/ffn/{gate,up,down}/kernel;
  norm/scale; head/kernel [width, vocab] (absent where it is tied to the embedding).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Bool, Float, Int

from vtjax.arrays import Array
from vtjax.errors import VtjaxError, nearest
from vtjax.nn import kv_cache, lora
from vtjax.nn.attention import dot_product_attention
from vtjax.nn.positions import rope_tables, rotate
from vtjax.nn.quantize import Linear
from vtjax.nn.stack import remat_policy, rematerialised
from vtjax.nn.transformer import lookup
from vtjax.sharding.activations import constrain

# Partition table of the parameters, of their int8 scales, and of LoRA factors beside them.
RULES = (
    (r"embed/embedding", ("vocab", "embed")),
    (r"(query|key|value)/kernel", ("embed", "heads", None)),
    (r"(query|key|value)/kernel_scale", ("heads", None)),
    (r"out/kernel", ("heads", None, "embed")),
    (r"(gate|up)/kernel", ("embed", "mlp")),
    (r"(gate|up)/kernel_scale", ("mlp",)),
    (r"down/kernel", ("mlp", "embed")),
    (r"(out|down)/kernel_scale", ("embed",)),
    (r"head/kernel", ("embed", "vocab")),
    (r"head/kernel_scale", ("vocab",)),
    (r"norm\w*/scale", (None,)),
    *lora.RULES,
)


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Sizes; the defaults are the 7B model. kv_heads < heads is grouped-query attention. tied: head = embedding.

    positions: longest sequence, padding counted. bos_id, stop_ids, pad_id: ids of `<s>`, of what ends an answer,
    and of padding (`<unk>`, as in Vicuna's training).
    """

    vocab_size: int = 32000
    width: int = 4096
    layers: int = 32
    heads: int = 32
    kv_heads: int = 32
    head_dim: int = 128
    ffn_width: int = 11008
    positions: int = 4096
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    tied: bool = False
    init_std: float = 0.02
    bos_id: int = 1
    stop_ids: tuple[int, ...] = (2,)
    pad_id: int = 0

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise VtjaxError(f"LlamaConfig: heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        if self.head_dim % 2:
            raise VtjaxError(f"LlamaConfig: head_dim {self.head_dim} must be even for rotary positions")


PRESETS = {
    "7b": LlamaConfig(),
    "13b": LlamaConfig(width=5120, layers=40, heads=40, kv_heads=40, ffn_width=13824),
    "tiny": LlamaConfig(
        vocab_size=512, width=64, layers=2, heads=4, kv_heads=4, head_dim=16, ffn_width=172, positions=1024
    ),
}


class RMSNorm(nn.Module):
    """x / rms(x), computed in float32 and rounded to x's dtype, times `scale` (Zhang and Sennrich, 2019)."""

    eps: float
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows width"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), self.param_dtype)
        x32 = x.astype(jnp.float32)
        y = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.eps)
        return y.astype(x.dtype) * scale.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class LlamaAttention(nn.Module):
    """Causal self-attention with rotary positions, over the cache where there is one."""

    config: LlamaConfig
    linear: Callable[..., Linear]

    @nn.compact
    def __call__(
        self,
        x: Array,
        layer: Array,
        cache: kv_cache.Cache | None,
        tables: tuple[Array, Array],
        mask: Array,
        slot: Array,
    ) -> tuple[Array, kv_cache.Cache | None]:
        c = self.config
        query = rotate(self.linear((c.heads, c.head_dim), name="query")(x), tables)
        key = rotate(self.linear((c.kv_heads, c.head_dim), name="key")(x), tables)
        value = self.linear((c.kv_heads, c.head_dim), name="value")(x)
        query, key, value = (constrain(y, "batch", None, "heads", None) for y in (query, key, value))
        if cache is not None:
            cache = kv_cache.write(cache, layer, slot, key, value)
            key, value = kv_cache.read(cache, layer, mask.shape[-1])
        mixed = grouped_attention(query, key.astype(query.dtype), value.astype(query.dtype), mask)
        return self.linear((c.width,), inputs=2, name="out")(mixed), cache


def grouped_attention(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys kv_heads head_dim"],
    value: Float[Array, "batch keys kv_heads head_dim"],
    mask: Bool[Array, "_ _ _ _"],
) -> Float[Array, "batch queries heads head_dim"]:
    """Attention of heads that share keys: head h sees key head h // (heads // kv_heads). No key is repeated.

    query: [B, Q, heads, head_dim]; key, value: [B, K, kv_heads, head_dim]; mask: bool [B, 1, Q, K].
    """
    groups = query.shape[2] // key.shape[2]
    if groups == 1:
        return dot_product_attention(query, key, value, mask)
    # The heads of a group become further queries of the head that they share.
    folded = rearrange(query, "b q (kv group) dim -> b (q group) kv dim", group=groups)
    mixed = dot_product_attention(folded, key, value, jnp.repeat(mask, groups, axis=2))
    return rearrange(mixed, "b (q group) kv dim -> b q (kv group) dim", group=groups)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer, arXiv 2002.05202)."""

    config: LlamaConfig
    linear: Callable[..., Linear]

    @nn.compact
    def __call__(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows width"]:
        c = self.config
        gate, up = (self.linear((c.ffn_width,), name=name)(x) for name in ("gate", "up"))
        return self.linear((c.width,), name="down")(constrain(jax.nn.silu(gate) * up, "batch", None, "mlp"))


class LlamaLayer(nn.Module):
    """One pre-norm layer; carries (states [B, L, width], cache), so that the cache is updated in place by the scan."""

    config: LlamaConfig
    linear: Callable[..., Linear]
    norm: Callable[..., RMSNorm]

    @nn.compact
    def __call__(self, carry, layer, tables, mask, slot):
        x, cache = carry
        x = constrain(x, "batch", ...)
        attend = LlamaAttention(self.config, self.linear, name="attention")
        mixed, cache = attend(self.norm(name="norm1")(x), layer, cache, tables, mask, slot)
        x += mixed
        x += SwiGLU(self.config, self.linear, name="ffn")(self.norm(name="norm2")(x))
        return (constrain(x, "batch", ...), cache), None


class Llama(nn.Module):
    """The parameters and their use; see `LanguageModel`."""

    config: LlamaConfig
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: str = "none"

    def setup(self) -> None:
        c = self.config
        linear = functools.partial(Linear, dtype=self.dtype, param_dtype=self.param_dtype, init_std=c.init_std)
        norm = functools.partial(RMSNorm, c.norm_eps, self.param_dtype)
        init = nn.initializers.normal(c.init_std)
        self.embed = nn.Embed(
            c.vocab_size, c.width, dtype=self.dtype, param_dtype=self.param_dtype, embedding_init=init
        )
        layer = rematerialised(LlamaLayer, self.remat, scanned=True)
        stack = nn.scan(
            layer,
            variable_axes={"params": 0, "lora": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=c.layers,
        )
        self.layers = stack(c, linear, norm)
        self.norm = norm()
        if not c.tied:
            self.head = linear((c.vocab_size,), out_dtype=jnp.float32)

    def embedded(self, ids: Array) -> Array:
        return lookup(self.embed, ids)

    def hidden(self, embeddings, mask, positions, cache, slot):
        c = self.config
        tables = rope_tables(positions, c.head_dim, c.rope_theta)
        carry = (embeddings.astype(self.dtype), cache)
        (x, cache), _ = self.layers(carry, jnp.arange(c.layers), tables, mask, slot)
        return self.norm(x), cache

    def logits(self, hidden: Array) -> Array:
        hidden = hidden.astype(self.dtype)
        if not self.config.tied:
            return self.head(hidden)
        table = self.embed.embedding.astype(self.dtype)
        return jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32)

    def __call__(self, ids: Array, mask: Array, positions: Array) -> Array:
        hidden, _ = self.hidden(self.embedded(ids), mask, positions, None, jnp.int32(0))
        return self.logits(hidden)


def positions_of(valid: Bool[Array, "batch tokens"]) -> Int[Array, "batch tokens"]:
    """[B, L] bool -> int32 [B, L]: the n-th valid token of a row sits at position n, wherever the padding is."""
    return jnp.maximum(jnp.cumsum(valid.astype(jnp.int32), axis=1) - 1, 0)


def splice(token_embeddings: Array, media: Array, media_index: Array) -> Array:
    """Soft tokens in place of the tokens that stand for them (PiTe, ECCV 2024).

    Args:
      token_embeddings: [B, L, width]. media: [B, N, width] soft tokens of each row.
      media_index: int32 [B, L], which of the row's N soft tokens stands here, -1 for text (see
        `vtjax.text.llama_tokenizer.expand_media`).
    """
    chosen = jnp.take_along_axis(media, jnp.maximum(media_index, 0)[..., None], axis=1)
    return jnp.where((media_index >= 0)[..., None], chosen.astype(token_embeddings.dtype), token_embeddings)


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """LLaMA as pure functions of parameters; hashable, so it can be a static argument of jit.

    adapters: (name, LoraConfig) of each adapter that may be passed as `lora={name: tree}`; one that is not passed does
      not act. dtype: of activations and matmul inputs (softmax, norms and logits are float32 throughout). param_dtype:
      of parameters made by `init`; loaded ones may have any. remat: a name of `stack.REMAT`. mesh: pins the cache to
      the mesh's batch axes; None leaves that to XLA.
    """

    config: LlamaConfig
    adapters: tuple[tuple[str, lora.LoraConfig], ...] = ()
    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: str = "none"
    mesh: jax.sharding.Mesh | None = None

    def __post_init__(self) -> None:
        remat_policy(self.remat)

    @property
    def module(self) -> Llama:
        return Llama(self.config, jnp.dtype(self.dtype), jnp.dtype(self.param_dtype), self.remat)

    def init(self, key: Array) -> dict[str, Any]:
        """Random base parameters, normal of `init_std`."""
        one = jnp.zeros((1, 1), jnp.int32)
        return self.module.init(key, one, jnp.ones((1, 1, 1, 1), bool), one)["params"]

    def shapes(self) -> dict[str, Any]:
        """Shape and dtype of every base parameter, nested."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def embed(self, params: Mapping[str, Any], ids: Int[Array, "batch tokens"]) -> Float[Array, "batch tokens width"]:
        """int32 [B, L] -> [B, L, width] in `dtype`. Ids of media placeholders must be replaced first."""
        return self.module.apply({"params": params}, ids, method="embedded")

    def logits(self, params: Mapping[str, Any], hidden: Float[Array, "*rows width"]) -> Float[Array, "*rows vocab"]:
        """[..., width] -> float32 [..., vocab]; takes what `hidden` returns."""
        return self.module.apply({"params": params}, hidden, method="logits")

    def hidden(
        self,
        params: Mapping[str, Any],
        embeddings: Float[Array, "batch tokens width"],
        valid: Bool[Array, "batch tokens"],
        *,
        positions: Int[Array, "batch tokens"] | None = None,
        lora: Mapping[str, Any] | None = None,
        rng: Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch tokens width"]:
        """States after the final norm [B, L, width], the input of head and regressors alike.

        Args:
          embeddings: [B, L, width]. valid: bool [B, L], False on padding, which may be on either side.
          positions: int32 [B, L]; default `positions_of(valid)`. lora: adapters by name. rng: for adapter dropout, used
            while `train`.

        Raises:
          VtjaxError: more tokens than the model has positions, or an adapter without a config.
        """
        positions = positions_of(valid) if positions is None else positions
        return self._run(params, embeddings, valid, positions, None, jnp.int32(0), lora, rng, train)[0]

    def cached(
        self,
        params: Mapping[str, Any],
        embeddings: Array,
        valid: Array,
        positions: Array,
        cache: kv_cache.Cache,
        slot: Array,
        lora: Mapping[str, Any] | None = None,
    ) -> tuple[Array, kv_cache.Cache]:
        """As `hidden`, for tokens that go into the cache's slots slot .. slot + L - 1 and see those up to their own.

        valid: bool [B, K], over the cache's first K slots, these tokens' own included.
        """
        return self._run(params, embeddings, valid, positions, cache, slot, lora, None, False)

    def init_cache(self, batch: int, slots: int) -> kv_cache.Cache:
        """An empty cache in `dtype`."""
        c = self.config
        cache = kv_cache.init_cache(c.layers, batch, slots, c.kv_heads, c.head_dim, jnp.dtype(self.dtype))
        return kv_cache.constrain(cache, self.mesh)

    def __call__(
        self,
        params: Mapping[str, Any],
        ids: Int[Array, "batch tokens"],
        valid: Bool[Array, "batch tokens"] | None = None,
        **more: Any,
    ) -> Float[Array, "batch tokens vocab"]:
        """Logits float32 [B, L, vocab] of token ids int32 [B, L]; further arguments as `hidden`."""
        valid = jnp.ones(ids.shape, bool) if valid is None else valid
        return self.logits(params, self.hidden(params, self.embed(params, ids), valid, **more))

    def _run(self, params, embeddings, valid, positions, cache, slot, adapters, rng, train):
        if valid.shape[1] > self.config.positions:
            raise VtjaxError(f"{valid.shape[1]} tokens; this model has {self.config.positions} positions")
        configs = dict(self.adapters)
        for name in adapters or ():
            if name not in configs:
                raise VtjaxError(f"LoRA adapter {name!r} has no config in the model; {nearest(name, configs)}")
        mask = valid[:, None, None, :] & _causal(slot, embeddings.shape[1], valid.shape[1])
        variables = lora.with_adapters({"params": params}, adapters)
        rngs = {"dropout": rng} if rng is not None else None
        with lora.intercept(configs, train) if adapters else contextlib.nullcontext():
            return self.module.apply(variables, embeddings, mask, positions, cache, slot, rngs=rngs, method="hidden")


def _causal(slot: Array, queries: int, keys: int) -> Array:
    return (jnp.arange(keys)[None, :] <= slot + jnp.arange(queries)[:, None])[None, None]
