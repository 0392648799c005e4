"""Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685) on any Linen model, without changing the model.

y = W x + scale * B A dropout(x), scale = alpha / rank, or alpha / sqrt(rank) (rsLoRA, arXiv 2312.03732).

The base parameters keep their paths, so that published weights load untouched. An adapter is a tree of its own that
mirrors them: beside the base's `.../query/kernel` it has `.../query/a` [*inputs, rank] and `.../query/b`
[rank, *outputs]; a kernel stacked over scanned layers has stacked factors. `with_adapters` puts adapters among a
model's variables, in the collection "lora", which nn.scan and nn.remat lift like any other; inside `intercept` every
projection that finds factors of its own there adds their product to its output. W + BA is never formed while training.

Adapters are named, so that several can act at once: {"stage1": tree, "stage2": tree}. `merge` adds them into the base
in float32 and rounds once (PiTe, ECCV 2024).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from vtjax.arrays import Array
from vtjax.errors import VtjaxError
from vtjax.nn.dropout import keep_mask
from vtjax.trees import flatten, unflatten

Tree = Mapping[str, Any]

# (path of a kernel, how many of its last dimensions are inputs, how many are outputs); the first match counts.
KERNELS = (
    (r"\w*attention/(query|key|value)/kernel", 1, 2),
    (r"\w*attention/out/kernel", 2, 1),
    (r".*", 1, 1),
)
STACKED = "layers"  # a kernel below a folder of this name has a leading axis of scanned layers

# Partition table: `a` is split like the kernel's inputs, `b` like its outputs; the rank is whole.
RULES = (
    (r"(query|key|value)/a", ("embed", None)),
    (r"(query|key|value)/b", (None, "heads", None)),
    (r"out/a", ("heads", None, None)),
    (r"(out|down)/b", (None, "embed")),
    (r"(gate|up)/a", ("embed", None)),
    (r"(gate|up)/b", (None, "mlp")),
    (r"down/a", ("mlp", None)),
)


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """targets: regular expression over whole "a/b/c" kernel paths. dropout: on the branch's input, while training."""

    rank: int = 64
    alpha: float = 128.0
    dropout: float = 0.0
    targets: str = r"layers/(attention|ffn)/\w+/kernel"
    rslora: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 <= self.dropout < 1:
            raise VtjaxError(f"LoraConfig: rank {self.rank} must be 1 or more, dropout {self.dropout} in [0, 1)")
        try:
            re.compile(self.targets)
        except re.error as error:
            raise VtjaxError(f"LoraConfig: targets={self.targets!r} is not a regular expression ({error})") from error

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def kernel_dims(path: str, shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """(stacked, input, output) dimensions of the kernel at `path`.

    Raises:
      VtjaxError: not the kernel of a projection (a convolution, a bias, an embedding).
    """
    inputs, outputs = next((i, o) for pattern, i, o in KERNELS if re.search(rf"(^|/)({pattern})$", path))
    stack = len(shape) - inputs - outputs
    if stack != (STACKED in path.split("/")) or not path.endswith("kernel"):
        raise VtjaxError(f"{path} {tuple(shape)} is not the kernel of a dense or attention projection")
    return tuple(shape[:stack]), tuple(shape[stack : stack + inputs]), tuple(shape[stack + inputs :])


def init_lora(key: Array, params: Tree, config: LoraConfig, dtype: Any = jnp.float32) -> dict[str, Any]:
    """A fresh adapter for `params` (arrays or shapes): A uniform in +-1/sqrt(inputs) as in peft, B zero.

    Each factor's key depends on its path alone, so other targets leave it the same.

    Raises:
      VtjaxError: no path matches `config.targets`, or one that does is not a projection's kernel.
    """
    flat = flatten(params)
    chosen = [path for path in flat if re.fullmatch(config.targets, path)]
    if not chosen:
        raise VtjaxError(f"LoRA targets {config.targets!r} match no parameter, for example not {next(iter(flat))!r}")
    tree = {}
    for path in chosen:
        stack, inputs, outputs = kernel_dims(path, flat[path].shape)
        digest = int.from_bytes(hashlib.blake2b(path.encode(), digest_size=4).digest(), "little")
        bound = 1.0 / math.sqrt(math.prod(inputs))
        shape = (*stack, *inputs, config.rank)
        module = path.removesuffix("kernel")
        tree[module + "a"] = jax.random.uniform(jax.random.fold_in(key, digest), shape, dtype, -bound, bound)
        tree[module + "b"] = jnp.zeros((*stack, config.rank, *outputs), dtype)
    return unflatten(tree)


def with_adapters(variables: Mapping[str, Any], adapters: Mapping[str, Tree] | None) -> dict[str, Any]:
    """Flax `variables` with the named adapters' factors in the collection "lora"."""
    if not adapters:
        return dict(variables)
    flat = {}
    for name, tree in adapters.items():
        for path, factor in flatten(tree).items():
            module, _, leaf = path.rpartition("/")
            flat[f"{module}/{name}/{leaf}"] = factor
    return {**variables, "lora": unflatten(flat)}


@contextlib.contextmanager
def intercept(configs: Mapping[str, LoraConfig], train: bool = False) -> Iterator[None]:
    """While open, applied Linen modules add the branches of the adapters named in `configs`.

    Trace inside it (a jitted function that was traced outside does not change). train: dropout on, from the model's
    "dropout" stream.
    """

    def interceptor(call, args, kwargs, context):
        y = call(*args, **kwargs)
        if context.method_name != "__call__":
            return y
        for name, config in configs.items():
            if context.module.has_variable("lora", name):
                factors = context.module.get_variable("lora", name)
                if set(factors) == {"a", "b"}:
                    drop = config.dropout if train else 0.0
                    rng = context.module.make_rng("dropout") if drop else None
                    y += low_rank(args[0], factors["a"], factors["b"], config.scale, y.dtype, drop, rng)
        return y

    with nn.intercept_methods(interceptor):
        yield


def low_rank(
    x: Float[Array, "..."],
    a: Float[Array, "..."],
    b: Float[Array, "..."],
    scale: float,
    dtype: Any,
    dropout: float = 0.0,
    rng: Array | None = None,
) -> Float[Array, "..."]:
    """scale * (dropout(x) a) b over x's last dimensions; x [..., *inputs] -> [..., *outputs], computed in `dtype`."""
    inputs = a.ndim - 1
    if dropout:
        x = jnp.where(keep_mask(rng, dropout, x.shape), x / (1.0 - dropout), jnp.zeros_like(x))
    contract = tuple(range(x.ndim - inputs, x.ndim)), tuple(range(inputs))
    low = jax.lax.dot_general(x.astype(dtype), a.astype(dtype), (contract, ((), ())))
    return jax.lax.dot_general(low, b.astype(dtype), (((low.ndim - 1,), (0,)), ((), ()))) * jnp.asarray(scale, dtype)


@functools.partial(jax.jit, static_argnames=("scale", "stack"))
def _product(a: Array, b: Array, scale: float, stack: int) -> Array:
    """scale * a b in float32, [*stack, *inputs, *outputs]; the first `stack` axes of both count layers."""
    lead, inputs, outputs = a.shape[:stack], a.shape[stack:-1], b.shape[stack + 1 :]
    left = a.astype(jnp.float32).reshape(*lead, -1, a.shape[-1])
    right = b.astype(jnp.float32).reshape(*lead, a.shape[-1], -1)
    product = jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
    return (scale * product).reshape(*lead, *inputs, *outputs)


def merge(params: Tree, adapters: Iterable[tuple[LoraConfig, Tree]]) -> dict[str, Any]:
    """`params` with W + sum of scale * A B in place of each adapted W: added in float32, rounded once to W's dtype.

    PiTe's "merge, then start a new adapter" is one call per stage; one call with all adapters rounds less.

    Raises:
      VtjaxError: an adapter for a kernel that `params` does not have, of other sizes, or that is int8.
    """
    flat = flatten(params)
    deltas: dict[str, list[tuple[float, Array, Array]]] = {}
    for config, tree in adapters:
        factors = flatten(tree)
        for path in [p for p in factors if p.endswith("/a")]:
            module = path.removesuffix("a")
            deltas.setdefault(module + "kernel", []).append((config.scale, factors[path], factors[module + "b"]))
    lost = [path for path in deltas if path not in flat]
    if lost:
        raise VtjaxError(f"adapter for {len(lost)} kernels that the model does not have, for example {lost[0]!r}")
    for path, branches in deltas.items():
        kernel = flat[path]
        if kernel.dtype == jnp.int8:
            raise VtjaxError(f"{path} is int8; merge adapters before quantizing, or dequantize first")
        stack, inputs, outputs = kernel_dims(path, kernel.shape)
        total = kernel.astype(jnp.float32)
        for scale, a, b in branches:
            if a.shape[:-1] != (*stack, *inputs) or b.shape != (*stack, a.shape[-1], *outputs):
                raise VtjaxError(f"{path} {kernel.shape}: adapter factors {a.shape} and {b.shape} do not fit it")
            total = total + _product(a, b, scale, len(stack))
        flat[path] = total.astype(kernel.dtype)
    return unflatten(flat)


def concatenate(adapters: Sequence[tuple[LoraConfig, Tree]]) -> tuple[LoraConfig, dict[str, Any]]:
    """One adapter, of the sum of the ranks and scale 1, that does what all of these do together; without dropout.

    Raises:
      VtjaxError: none given, or adapters of different kernels.
    """
    flats = [flatten(tree) for _, tree in adapters]
    if not flats or any(set(flat) != set(flats[0]) for flat in flats):
        raise VtjaxError("only one or more adapters of the same kernels can be concatenated")
    joined = {}
    for path in flats[0]:
        if path.endswith("/a"):
            joined[path] = jnp.concatenate([flat[path] for flat in flats], axis=-1)
        else:
            axis = int(STACKED in path.split("/"))
            scaled = [config.scale * flat[path] for (config, _), flat in zip(adapters, flats, strict=True)]
            joined[path] = jnp.concatenate(scaled, axis=axis)
    rank = sum(config.rank for config, _ in adapters)
    return dataclasses.replace(adapters[0][0], rank=rank, alpha=rank, dropout=0.0, rslora=False), unflatten(joined)
