"""The vision transformer of CLIP (arXiv 2103.00020, section 2.4; ViT, arXiv 2010.11929) and the stack of pre-norm
layers that both of CLIP's towers are made of.

Whatever a method may want is returned: states and keys of every layer, tokens before and after the last norm and in
the joint space, MaskCLIP's value path. Under `jit` what is not used is not computed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float

from vtjax.arrays import Array
from vtjax.errors import VtjaxError
from vtjax.nn import transformer
from vtjax.nn.attention import MultiHeadAttention
from vtjax.nn.stack import rematerialised
from vtjax.nn.transformer import FeedForward, LayerConfig, LayerNorm
from vtjax.sharding.activations import constrain

# Partition table (sharding/partition.py) of a VisionTower's parameters, its layers in a loop or stacked.
RULES = (
    (r"patch_embedding/kernel", (None, None, None, "embed")),
    (r"class_embedding", (None,)),
    (r"position_embedding", (None, "embed")),
    (r"projection/kernel", ("embed", None)),
    (r"(pre|post|final)_norm/(scale|bias)", (None,)),
    *transformer.RULES,
)

BICUBIC_A = -0.75  # of torch's interpolate, which the published way of changing the image size goes through


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Sizes of the vision tower; image and patch in pixels, both square."""

    image_size: int = 224
    patch_size: int = 32
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    activation: str = "quick_gelu"
    eps: float = 1e-5
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise VtjaxError(f"VisionConfig: image_size {self.image_size} is not a multiple of {self.patch_size=}")
        check_sizes(self)

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """The class token and the patches."""
        return 1 + self.grid**2


def check_sizes(config: Any) -> None:
    """Raises VtjaxError where a tower's width, heads or activation do not go together."""
    if config.width % config.heads:
        raise VtjaxError(f"{type(config).__name__}: width {config.width} is not a multiple of heads {config.heads}")
    transformer.activation(config.activation)


class TokenMerger(Protocol):
    """Changes the set of tokens between attention and feed-forward network of every layer (ToMe, arXiv 2210.09461).

    Hashable and without arrays of its own: what it learns about a batch travels in `state`.
    """

    def start(self, x: Float[Array, "batch tokens width"]) -> Any:
        """The state before the first layer, for tokens x [B, N, width]."""

    def logit_bias(self, state: Any) -> Array | None:
        """Added to a layer's attention logits: float32, broadcastable to [B, heads, N, N]."""

    def __call__(
        self, layer: int, tokens: tuple[Array, ...], key: Float[Array, "batch tokens heads head_dim"], state: Any
    ) -> tuple[tuple[Array, ...], Any]:
        """Tokens and state after `layer`. All of `tokens`, each [B, N, width], are merged alike into [B, M, width];
        key [B, N, heads, head_dim] are the layer's."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trace:
    """What a `LayerStack` saw. x: [B, N, width] after the last layer. hidden_states: of the input and after every
    layer. keys: of every layer, [B, N, heads, head_dim]. value_tokens: the last layer with every token attending to
    itself alone, or None. merge_state: the merger's last state, or None."""

    x: Array
    hidden_states: tuple[Array, ...]
    keys: tuple[Array, ...]
    value_tokens: Array | None = None
    merge_state: Any = None


class PreNormLayer(nn.Module):
    """x + attention(norm1 x), then x + ffn(norm2 x) (+ parallel adapter of x), with all that lies between returned.

    Parameters as in `transformer.EncoderLayer`; the adapter's are under `parallel_adapter`.
    """

    config: LayerConfig
    train: bool = False
    adapter: Callable[[], nn.Module] | None = None
    merger: TokenMerger | None = None
    index: int = 0
    value_path: bool = False

    def setup(self) -> None:
        c = self.config
        self.norm1, self.norm2 = LayerNorm(c.eps), LayerNorm(c.eps)
        self.attention = MultiHeadAttention(c.heads, dropout=c.attention_dropout, dtype=c.dtype)
        self.ffn = FeedForward(c)
        self.parallel_adapter = self.adapter() if self.adapter is not None else None

    def __call__(self, carry: tuple[Array, Any], mask: Array | None) -> tuple[tuple[Array, Any], tuple]:
        """((x [B, N, width], merge state), mask) -> ((x, merge state), (x, keys, value tokens or None))."""
        x, state = carry
        x = constrain(x, "batch", ...)
        bias = None if self.merger is None else self.merger.logit_bias(state)
        y = self.norm1(x)
        mixed, key = self.attention(y, mask=mask, logit_bias=bias, train=self.train, with_key=True)
        tokens: tuple[Array, ...] = (x + mixed,)
        if self.value_path:
            tokens = (x + mixed, x + self.attention(y, own_value=True))
        if self.merger is not None:
            tokens, state = self.merger(self.index, tokens, key, state)
        x, *value = map(self._feed_forward, tokens)
        return (x, state), (x, key, value[0] if value else None)

    def _feed_forward(self, x: Array) -> Array:
        y = x + self.ffn(self.norm2(x), train=self.train)
        return y if self.parallel_adapter is None else y + self.parallel_adapter(x, train=self.train)


class LayerStack(nn.Module):
    """Pre-norm layers, as modules `layer_0`.. or, with `scan`, as one module `layers` with stacked parameters.

    `stack_layers` and `unstack_layers` turn the parameters of one into those of the other. A scan compiles one layer
    whatever the depth. remat: a name of `stack.REMAT`, or None to keep all. adapter: makes the module of a branch
    beside each layer's feed-forward network (AdaptFormer, arXiv 2205.13535), called with (x, train=).
    """

    config: LayerConfig
    layers: int
    scan: bool = False
    remat: str | None = None
    adapter: Callable[[], nn.Module] | None = None
    merger: TokenMerger | None = None
    value_path: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens width"], mask: Bool[Array, "_ _ _ _"] | None = None, *, train: bool = False
    ) -> Trace:
        """x [B, N, width]; mask as in MultiHeadAttention.

        Raises:
          VtjaxError: unknown `remat`, or `scan` with a merger: the number of tokens must then be every layer's.
        """
        layer = rematerialised(PreNormLayer, self.remat, self.scan)
        if self.scan:
            if self.merger is not None:
                raise VtjaxError("layers that merge tokens cannot be scanned, they differ in shape; set scan=False")
            return self._scan(layer, x, mask, train)
        state = None if self.merger is None else self.merger.start(x)
        hidden, keys, value = [x], [], None
        for i in range(self.layers):
            one = layer(
                self.config, train, self.adapter, self.merger, i, self.value_path and i == self.layers - 1,
                name=f"layer_{i}",
            )  # fmt: skip
            (x, state), (_, key, value) = one((x, state), mask)
            hidden.append(x)
            keys.append(key)
        return Trace(x, tuple(hidden), tuple(keys), value, state)

    def _scan(self, layer: type[nn.Module], x: Array, mask: Array | None, train: bool) -> Trace:
        stack = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=self.layers,
        )(self.config, train, self.adapter, name="layers")
        (last, _), (after, key, _) = stack((x, None), mask)
        hidden = (x, *(after[i] for i in range(self.layers - 1)), last)
        value = None
        if self.value_path:  # of the last layer only, so outside the scan
            params = jax.tree.map(lambda p: p[-1], self.variables["params"]["layers"])
            one = PreNormLayer(self.config, False, self.adapter, value_path=True, parent=None)
            _, (_, _, value) = one.apply({"params": params}, (hidden[-2], None), mask)
        return Trace(last, hidden, tuple(key[i] for i in range(self.layers)), value)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VisionOutput:
    """All that the vision tower made of B images; N patches, token 0 is the class token, [:, 1:] are the patches in
    reading order (fewer where a merger ran). Nothing is L2-normalised.

    embedding: float32 [B, D], the projected class token. class_token: [B, width], the class token after the last norm.
    tokens: [B, 1 + N, width] after the last layer. normed_tokens: those after the last norm. token_embeddings:
    float32 [B, 1 + N, D], those in the joint space; row 0 equals `embedding`. value_tokens, value_embeddings: the same
    through the value path of the last layer, where no token sees another (region features of MaskCLIP), before the
    last norm and in the joint space. hidden_states: input of the first layer, then every layer's output,
    [B, 1 + N, width] each. keys: every layer's, [B, 1 + N, heads, head_dim]. merge_state: of the merger, else None.
    """

    embedding: Array
    class_token: Array
    tokens: Array
    normed_tokens: Array
    token_embeddings: Array
    value_tokens: Array
    value_embeddings: Array
    hidden_states: tuple[Array, ...]
    keys: tuple[Array, ...]
    merge_state: Any = None


class VisionTower(nn.Module):
    """Images to tokens and an embedding in the joint space.

    embed_dim: D of the joint space. dtype: of matrix products; norms, softmax and embeddings are float32. scan, remat,
    adapter, merger: see `LayerStack`. interpolate_positions: take images of another size than the configured one and
    resample the position table to their grid.
    """

    config: VisionConfig
    embed_dim: int
    dtype: Any = jnp.float32
    scan: bool = False
    remat: str | None = None
    adapter: Callable[[], nn.Module] | None = None
    merger: TokenMerger | None = None
    interpolate_positions: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, "..."], *, train: bool = False) -> VisionOutput:
        """images: float [B, height, width, 3], normalised (data/image.py); frames of a video go into B.

        Raises:
          VtjaxError: another rank or number of channels, or another size without `interpolate_positions`.
        """
        c = self.config
        grid = self._check(images)
        scale = nn.initializers.normal(c.width**-0.5)
        patches = PatchEmbedding(c.patch_size, c.width, self.dtype, name="patch_embedding")(images)
        first = self.param("class_embedding", scale, (c.width,), jnp.float32)
        table = self.param("position_embedding", scale, (c.tokens, c.width), jnp.float32)
        first = jnp.broadcast_to(first.astype(self.dtype), (images.shape[0], 1, c.width))
        x = jnp.concatenate([first, patches], axis=1)
        x += interpolate_positions(table, grid)[None].astype(self.dtype)
        x = LayerNorm(c.eps, name="pre_norm")(x)
        trace = LayerStack(
            layer_config(c, self.dtype), c.layers, self.scan, self.remat, self.adapter, self.merger, True,
            name="transformer",
        )(x, train=train)  # fmt: skip
        norm = LayerNorm(c.eps, name="post_norm")
        project = Projection(self.embed_dim, self.dtype, name="projection")
        class_token, normed = norm(trace.x[:, 0]), norm(trace.x)
        return VisionOutput(
            embedding=project(class_token),
            class_token=class_token,
            tokens=trace.x,
            normed_tokens=normed,
            token_embeddings=project(normed),
            value_tokens=trace.value_tokens,
            value_embeddings=project(norm(trace.value_tokens)),
            hidden_states=trace.hidden_states,
            keys=trace.keys,
            merge_state=trace.merge_state,
        )

    def _check(self, images: Array) -> tuple[int, int]:
        c = self.config
        if images.ndim != 4 or images.shape[-1] != 3:
            raise VtjaxError(f"images {images.shape}; expected [B, height, width, 3], frames of videos folded into B")
        height, width = images.shape[1:3]
        if (height, width) != (c.image_size, c.image_size) and not self.interpolate_positions:
            raise VtjaxError(
                f"images of {height} x {width} pixels for a model of {c.image_size} x {c.image_size}; "
                "resize them, or set interpolate_positions=True"
            )
        if min(height, width) < c.patch_size:
            raise VtjaxError(f"images of {height} x {width} pixels are smaller than one patch of {c.patch_size}")
        return height // c.patch_size, width // c.patch_size


class PatchEmbedding(nn.Module):
    """Patches [B, H, W, 3] -> [B, N, width] in reading order, without bias; kernel [patch, patch, 3, width].

    Pixels beyond the last whole patch are left out, as by a strided convolution.
    """

    patch: int
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "batch height width 3"]) -> Float[Array, "batch patches features"]:
        p = self.patch
        init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=(0, 1, 2), out_axis=3)
        kernel = self.param("kernel", init, (p, p, 3, self.width), jnp.float32)
        height, width = (size // p * p for size in images.shape[1:3])
        x = images[:, :height, :width].astype(self.dtype)
        x = rearrange(x, "b (rows p) (columns q) rgb -> b (rows columns) (p q rgb)", p=p, q=p)
        return x @ rearrange(kernel.astype(self.dtype), "p q rgb width -> (p q rgb) width")


class Projection(nn.Module):
    """Into the joint space: [..., width] -> float32 [..., features], no bias; inputs of the product are of `dtype`."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows features"]:
        init = nn.initializers.normal(x.shape[-1] ** -0.5)
        kernel = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
        return jnp.einsum(
            "...d,de->...e", x.astype(self.dtype), kernel.astype(self.dtype), preferred_element_type=jnp.float32
        )


def layer_config(config: Any, dtype: Any) -> LayerConfig:
    """One layer of a tower with this `VisionConfig` or `clip.TextConfig`."""
    return LayerConfig(
        heads=config.heads,
        hidden=config.mlp_width,
        attention_dropout=config.attention_dropout,
        activation=config.activation,
        pre_norm=True,
        eps=config.eps,
        dtype=dtype,
    )


def interpolate_positions(
    table: Float[Array, "positions width"], grid: tuple[int, int]
) -> Float[Array, "new_positions width"]:
    """[1 + g * g, width] -> [1 + rows * columns, width]: the class row as it is, the others resampled bicubically.

    Cubic convolution with a = -0.75, half-pixel centres, clamped borders and no smoothing before shrinking, as
    torch's `interpolate` and so transformers' CLIP. The same table where the grid is the table's own.
    """
    side = round((table.shape[0] - 1) ** 0.5)
    if grid == (side, side):
        return table
    rows, columns = (jnp.asarray(_bicubic(side, n), table.dtype) for n in grid)
    square = table[1:].reshape(side, side, -1)
    mixed = jnp.einsum("ri,cj,ijd->rcd", rows, columns, square, precision="highest")
    return jnp.concatenate([table[:1], mixed.reshape(grid[0] * grid[1], -1)])


@functools.cache
def _bicubic(size: int, new_size: int) -> np.ndarray:
    """float64 [new_size, size]; row i are the weights of the old samples in new sample i."""
    centre = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    base = np.floor(centre).astype(int)
    weights = np.zeros((new_size, size))
    for tap in range(-1, 3):
        d = np.abs(centre - (base + tap))
        near = (BICUBIC_A + 2) * d**3 - (BICUBIC_A + 3) * d**2 + 1
        far = BICUBIC_A * (d**3 - 5 * d**2 + 8 * d - 4)
        np.add.at(weights, (np.arange(new_size), np.clip(base + tap, 0, size - 1)), np.where(d <= 1, near, far))
    return weights


def stack_layers(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters for `scan=True` from those for `scan=False`, anywhere in a tree: `layer_0`.. -> `layers`, [L, ...]."""
    out = {k: stack_layers(v) if isinstance(v, Mapping) else v for k, v in params.items() if not _is_layer(k)}
    layers = [params[f"layer_{i}"] for i in range(sum(map(_is_layer, params)))]
    if layers:
        out["layers"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    return out


def unstack_layers(params: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `stack_layers`."""
    out = {k: unstack_layers(v) if isinstance(v, Mapping) else v for k, v in params.items() if k != "layers"}
    if "layers" in params:
        count = len(jax.tree.leaves(params["layers"])[0])
        out |= {f"layer_{i}": jax.tree.map(lambda p, i=i: p[i], params["layers"]) for i in range(count)}
    return out


def _is_layer(name: str) -> bool:
    return name.startswith("layer_") and name[6:].isdigit()
