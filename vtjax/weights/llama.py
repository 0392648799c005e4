"""LLaMA and Vicuna weights (Hugging Face layout) to `vtjax.nn.llama` parameters and back, streamed.

Loading reads one published tensor at a time, only the slices that this host's devices hold, and writes it into its
place in the stacked, sharded parameter on the device; turning and casting happen there too.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from vtjax.config import from_dict, to_dict
from vtjax.errors import VtjaxError
from vtjax.nn.llama import RULES, LanguageModel, LlamaConfig
from vtjax.nn.lora import kernel_dims
from vtjax.nn.quantize import SCALE, TARGETS, quantize, quantize_kernel
from vtjax.sharding.partition import Rules, partition
from vtjax.trees import flatten, unflatten
from vtjax.weights import report
from vtjax.weights.files import open_weights, read_json, write_json
from vtjax.weights.hub import local_folder
from vtjax.weights.layout import Loaded, Options
from vtjax.weights.safetensors_io import write_safetensors
from vtjax.weights.source import Source
from vtjax.weights.tensors import Index, Tensors, Weights, as_weights

# Published tensors that are not parameters: tables of old exports.
NOT_PARAMETERS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)

# Our module below `layers` -> published module below `model.layers.{i}`.
MODULES = {
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/out": "self_attn.o_proj",
    "ffn/gate": "mlp.gate_proj",
    "ffn/up": "mlp.up_proj",
    "ffn/down": "mlp.down_proj",
}
_NORMS = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm"}
# LlamaConfig field -> config.json key.
_FIELDS = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "ffn_width": "intermediate_size",
    "positions": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
    "tied": "tie_word_embeddings",
    "init_std": "initializer_range",
}
# What a config.json may state, and the only value of it that this model has.
_FIXED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
_REQUIRED = ("vocab_size", "width", "layers", "heads", "ffn_width")


def config_from_hf(settings: Mapping[str, Any], where: str = "config.json") -> LlamaConfig:
    """Reads `LlamaConfig` from the content of a Hugging Face config.json.

    Raises:
      VtjaxError: another model type, a missing size, or a feature that the model does not have (biases, scaled RoPE).
    """
    if settings.get("model_type") != "llama":
        raise VtjaxError(f"{where}: model_type {settings.get('model_type')!r}; expected 'llama'")
    lost = [_FIELDS[field] for field in _REQUIRED if _FIELDS[field] not in settings]
    if lost:
        raise VtjaxError(f"{where}: no {', '.join(lost)}; is this the model's own config.json?")
    for key, value in _FIXED.items():
        if settings.get(key, value) != value:
            raise VtjaxError(f"{where}: {key} {settings[key]!r} is not supported; expected {value!r}")
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise VtjaxError(f"{where}: RoPE scaling {kind!r} is not supported; expected none ('default')")
    fields = {field: settings[key] for field, key in _FIELDS.items() if settings.get(key) is not None}
    stop = settings.get("eos_token_id", 2)
    return LlamaConfig(
        **({"norm_eps": 1e-6, "positions": 2048} | fields),
        kv_heads=settings.get("num_key_value_heads") or fields["heads"],
        head_dim=settings.get("head_dim") or fields["width"] // fields["heads"],
        rope_theta=float(rope.get("rope_theta", settings.get("rope_theta", 10000.0))),
        bos_id=1 if settings.get("bos_token_id") is None else settings["bos_token_id"],
        stop_ids=tuple(stop) if isinstance(stop, list) else () if stop is None else (stop,),
        pad_id=settings["pad_token_id"] if (settings.get("pad_token_id") or -1) >= 0 else 0,
    )


def config_to_hf(config: LlamaConfig, dtype: str = "float32") -> dict[str, Any]:
    """Gives the config.json that transformers reads for `config`, of its versions 4 and 5."""
    stop = list(config.stop_ids) if len(config.stop_ids) > 1 else config.stop_ids[0] if config.stop_ids else None
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **{key: getattr(config, field) for field, key in _FIELDS.items()},
        **_FIXED,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "bos_token_id": config.bos_id,
        "eos_token_id": stop,
        "pad_token_id": config.pad_id,
        "torch_dtype": dtype,
    }


@dataclasses.dataclass(frozen=True)
class Target:
    """Where a published tensor goes: our path and, in a stacked parameter, the layer."""

    path: str
    layer: int | None


def key_map(config: LlamaConfig) -> Iterator[tuple[str, Target]]:
    """Lists (published name, target) of every parameter."""
    yield "model.embed_tokens.weight", Target("embed/embedding", None)
    for i in range(config.layers):
        for ours, theirs in MODULES.items():
            yield f"model.layers.{i}.{theirs}.weight", Target(f"layers/{ours}/kernel", i)
        for ours, theirs in _NORMS.items():
            yield f"model.layers.{i}.{theirs}.weight", Target(f"layers/{ours}/scale", i)
    yield "model.norm.weight", Target("norm/scale", None)
    if not config.tied:
        yield "lm_head.weight", Target("head/kernel", None)


def published_shape(target: Target, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Turns a shape: torch keeps heads flat and projections as [out, in]; here are [in, heads, head_dim], [in, out]."""
    if target.path.endswith("kernel"):
        _, inputs, outputs = kernel_dims(target.path, shape)
        return math.prod(outputs), math.prod(inputs)
    return shape if target.layer is None else shape[1:]


def from_hf(
    config: LlamaConfig,
    tensors: Mapping[str, np.ndarray],
    *,
    mesh: jax.sharding.Mesh | None = None,
    dtype: str = "bfloat16",
    rules: Rules = RULES,
    int8: str | None = None,
    where: str = "checkpoint",
) -> tuple[dict[str, Any], report.MatchReport]:
    """Makes parameters from tensors under their published names, each read once.

    Args:
      config: sizes. tensors: may be lazy. mesh, rules: where the parameters live; without a mesh, on the first local
        device. dtype: of the parameters. int8: path pattern of the kernels to keep as int8 (see `vtjax.nn.quantize`);
        the tensors are quantized one by one as they come. where: names the checkpoint in messages.

    Returns:
      Parameters of `LanguageModel(config)`, and the report of what fitted.

    Raises:
      VtjaxError: a tensor is missing, mis-shaped, or unused and not one of `NOT_PARAMETERS`; or as `partition`.
    """
    weights = as_weights(tensors)
    shapes = LanguageModel(config, param_dtype=dtype).shapes()
    leaves = flatten(jax.eval_shape(functools.partial(quantize, targets=int8), shapes) if int8 else shapes)
    whole = flatten(shapes)
    targets = dict(key_map(config))
    expected = {n: jax.ShapeDtypeStruct(published_shape(t, whole[t.path].shape), dtype) for n, t in targets.items()}
    published = {name: jax.ShapeDtypeStruct(weights.shape(name), dtype) for name in weights}
    unused = NOT_PARAMETERS + ((r"lm_head\.weight",) if config.tied else ())
    result = report.match(expected, published)
    result.raise_if_incomplete(allow_unused=unused, source=where)
    shardings = _shardings(leaves, mesh, rules)
    params = {path: _zeros(leaf, shardings[path]) for path, leaf in leaves.items()}
    for name in weights:
        if name in targets:
            _put(params, shardings, targets[name], weights, name, expected[name].shape, whole)
    return unflatten(params), result


def load_llama(
    folder_or_hub_id: str | os.PathLike[str],
    mesh: jax.sharding.Mesh | None = None,
    dtype: str = "bfloat16",
    rules: Rules = RULES,
    int8: bool | str = False,
) -> tuple[LlamaConfig, dict[str, Any]]:
    """Loads a published model from its folder (safetensors or .bin, in shards or not) or hub id.

    Args:
      mesh, rules: as `from_hf`. dtype: of all parameters. int8: True quantizes the layers' kernels, a string is a
        pattern of paths to quantize.

    Returns:
      The sizes, and the parameters.

    Raises:
      VtjaxError: see `vtjax.weights.hub.local_folder`, `config_from_hf`, `from_hf` and the readers.
    """
    folder = local_folder(folder_or_hub_id)
    config = config_from_hf(read_json(folder / "config.json"), str(folder / "config.json"))
    pattern = TARGETS if int8 is True else int8 or None
    weights = open_weights(folder)
    params, _ = from_hf(config, weights, mesh=mesh, dtype=dtype, rules=rules, int8=pattern, where=str(folder))
    return config, params


def to_hf(config: LlamaConfig, params: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
    """Gives tensors under their published names, made one at a time as they are asked for; `from_hf`'s exact inverse.

    Raises:
      VtjaxError: parameters that do not fit `config`, or that are int8.
    """
    flat = flatten(params)
    if any(path.endswith(SCALE) for path in flat):
        raise VtjaxError("int8 parameters cannot be exported; dequantize them first (vtjax.nn.quantize.dequantize)")
    report.match(LanguageModel(config).shapes(), flat).raise_if_incomplete(source="parameters")
    return _Published(config, flat)


def save_llama(
    folder: str | os.PathLike[str],
    config: LlamaConfig,
    params: Mapping[str, Any],
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes config.json and model.safetensors, in shards where it is large, that transformers loads."""
    folder = pathlib.Path(folder)
    tensors = to_hf(config, params)
    write_safetensors(folder / "model.safetensors", tensors, max_shard_bytes=max_shard_bytes)
    dtype = str(flatten(params)["norm/scale"].dtype)
    write_json(folder / "config.json", config_to_hf(config, dtype))


class _Published(Weights):
    def __init__(self, config: LlamaConfig, flat: Mapping[str, Any]):
        self._where, self._flat = dict(key_map(config)), flat

    def shape(self, name: str) -> tuple[int, ...]:
        return published_shape(self._where[name], self._flat[self._where[name].path].shape)

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        target, shape = self._where[name], self.shape(name)
        leaf = self._flat[target.path]
        value = np.asarray(leaf if target.layer is None else leaf[target.layer])
        value = value.reshape(shape[::-1]).T if target.path.endswith("kernel") else value
        return np.ascontiguousarray(value)[index or ...]


def _shardings(leaves: Mapping[str, Any], mesh: jax.sharding.Mesh | None, rules: Rules) -> dict[str, Any]:
    if mesh is None:
        return dict.fromkeys(leaves, SingleDeviceSharding(jax.local_devices()[0]))
    return flatten(partition(unflatten(leaves), rules, mesh).shardings)


def _published_sharding(target: Target, sharding: Any, shape: tuple[int, ...]) -> Any:
    """The sharding of a published tensor that leaves each device with what it will keep of it."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    spec = (*sharding.spec, *(None,) * (len(shape) - len(sharding.spec)))
    if target.path.endswith("kernel"):
        stack, inputs, _ = kernel_dims(target.path, shape)
        first_in, first_out = spec[len(stack)], spec[len(stack) + len(inputs)]
        return NamedSharding(sharding.mesh, PartitionSpec(first_out, first_in))
    return NamedSharding(sharding.mesh, PartitionSpec(*(spec if target.layer is None else spec[1:])))


def _place(read: Callable[[Index | None], np.ndarray], shape: tuple[int, ...], sharding: Any) -> jax.Array:
    """A global array whose shards are read one by one; each host reads only what its devices hold."""
    parts: dict[str, np.ndarray] = {}

    def part(index: Index) -> np.ndarray:
        if str(index) not in parts:  # replicas ask for the same part
            value = np.ascontiguousarray(read(tuple(index)))
            parts[str(index)] = value.astype(np.float32) if value.dtype == np.float64 else value
        return parts[str(index)]

    return jax.make_array_from_callback(shape, sharding, part)


def _zeros(leaf: jax.ShapeDtypeStruct, sharding: Any) -> jax.Array:
    """An array of zeros that is born sharded."""
    return jax.jit(functools.partial(jnp.zeros, leaf.shape, leaf.dtype), out_shardings=sharding)()


def _put(
    params: dict[str, jax.Array],
    shardings: Mapping[str, Any],
    target: Target,
    weights: Weights,
    name: str,
    shape: tuple[int, ...],
    whole: Mapping[str, Any],
) -> None:
    """Reads one published tensor into its place in `params`, whose array is donated and replaced."""
    path = target.path
    block = _place(
        functools.partial(weights.read, name), shape, _published_sharding(target, shardings[path], whole[path].shape)
    )
    scale = path.removesuffix("kernel") + SCALE
    paths = (path, scale) if scale in params else (path,)
    write = _writer(path, target.layer is not None, tuple(shardings[p] for p in paths))
    layer = jnp.int32(target.layer or 0)
    written = jax.block_until_ready(write([params[p] for p in paths], block, layer))
    params.update(zip(paths, written, strict=True))


@functools.cache
def _writer(path: str, stacked: bool, shardings: tuple[Any, ...]) -> Any:
    def write(leaves: list[jax.Array], block: jax.Array, layer: jax.Array) -> list[jax.Array]:
        shape = leaves[0].shape[1:] if stacked else leaves[0].shape
        value = block.T.reshape(shape) if path.endswith("kernel") else block
        if len(leaves) == 2:
            _, inputs, _ = kernel_dims(path, leaves[0].shape)
            new = list(quantize_kernel(value, tuple(range(len(inputs)))))
        else:
            new = [value.astype(leaves[0].dtype)]
        if not stacked:
            return new
        return [jax.lax.dynamic_update_index_in_dim(x, v, layer, 0) for x, v in zip(leaves, new, strict=True)]

    return jax.jit(write, donate_argnums=(0,), out_shardings=list(shardings))


def detect(source: Source) -> bool:
    """Says whether its config.json says so."""
    return source.settings.get("model_type") == "llama"


def load(source: Source, options: Options) -> Loaded:
    """Loads parameters of `LanguageModel`, bfloat16 unless another type is asked for.

    One published tensor is in memory at a time.
    """
    config = source.sizes(config_from_hf)
    tensors = Tensors(source.tensors)

    def random() -> Mapping[str, np.ndarray]:
        return to_hf(config, jax.jit(LanguageModel(config).init)(jax.random.key(0)))

    expected = {name: (target.path,) for name, target in key_map(config)}
    done = tensors.reconcile(expected, random, options.allow)
    params, result = from_hf(config, tensors, dtype=options.dtype or "bfloat16", where=str(source.path))
    return Loaded(params, to_dict(config), done.amend(result), tensors.published_dtype())


def save(folder: Any, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Writes config.json and model.safetensors, in shards where it is large."""
    save_llama(folder, from_dict(LlamaConfig, dict(config)), params)
