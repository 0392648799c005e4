"""Published BERT-family weights (Hugging Face layout) to `vtjax.nn.bert` parameters, and back."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vtjax.errors import VtjaxError
from vtjax.files import write_atomically
from vtjax.nn.bert import BertConfig, BertEncoder
from vtjax.trees import flatten, unflatten
from vtjax.weights import report, torch_reader
from vtjax.weights.files import read_json
from vtjax.weights.hub import local_folder
from vtjax.weights.safetensors_io import SafetensorsReader, write_safetensors

# Published tensors that the encoder has no use for: index buffers, the pooler, and pretraining or task heads.
NOT_ENCODER = (
    r"embeddings\.(position_ids|token_type_ids)",
    r"pooler\..*",
    r"(cls|lm_head|vocab_transform|vocab_layer_norm|vocab_projector|classifier|pre_classifier|qa_outputs)\..*",
)

# Our name -> published name, "{i}" the layer. Dense and norm names stand for their two parameters each.
_SELF = "encoder.layer.{i}.attention."
_BERT = {
    "layer_{i}/attention/query": _SELF + "self.query",
    "layer_{i}/attention/key": _SELF + "self.key",
    "layer_{i}/attention/value": _SELF + "self.value",
    "layer_{i}/attention/out": _SELF + "output.dense",
    "layer_{i}/norm1": _SELF + "output.LayerNorm",
    "layer_{i}/ffn/up": "encoder.layer.{i}.intermediate.dense",
    "layer_{i}/ffn/down": "encoder.layer.{i}.output.dense",
    "layer_{i}/norm2": "encoder.layer.{i}.output.LayerNorm",
}
_MPNET = _BERT | {
    "layer_{i}/attention/query": _SELF + "attn.q",
    "layer_{i}/attention/key": _SELF + "attn.k",
    "layer_{i}/attention/value": _SELF + "attn.v",
    "layer_{i}/attention/out": _SELF + "attn.o",
    "layer_{i}/norm1": _SELF + "LayerNorm",
}
_DISTILBERT = {
    "layer_{i}/attention/query": "transformer.layer.{i}.attention.q_lin",
    "layer_{i}/attention/key": "transformer.layer.{i}.attention.k_lin",
    "layer_{i}/attention/value": "transformer.layer.{i}.attention.v_lin",
    "layer_{i}/attention/out": "transformer.layer.{i}.attention.out_lin",
    "layer_{i}/norm1": "transformer.layer.{i}.sa_layer_norm",
    "layer_{i}/ffn/up": "transformer.layer.{i}.ffn.lin1",
    "layer_{i}/ffn/down": "transformer.layer.{i}.ffn.lin2",
    "layer_{i}/norm2": "transformer.layer.{i}.output_layer_norm",
}
_LAYERS = {"bert": _BERT, "roberta": _BERT, "mpnet": _MPNET, "distilbert": _DISTILBERT}
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
# BertConfig field -> config.json key, where it is the same for all but DistilBERT.
_FIELDS = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "ffn_width": "intermediate_size",
    "positions": "max_position_embeddings",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "init_std": "initializer_range",
}
_DISTILBERT_FIELDS = _FIELDS | {
    "width": "dim",
    "layers": "n_layers",
    "heads": "n_heads",
    "ffn_width": "hidden_dim",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
}


def config_from_hf(settings: Mapping[str, Any], where: str = "config.json") -> BertConfig:
    """`BertConfig` from the content of a Hugging Face config.json.

    Raises:
      VtjaxError: another model type, a missing size, or a feature that the encoder does not have.
    """
    kind = settings.get("model_type")
    if kind not in _LAYERS:
        raise VtjaxError(f"{where}: model_type {kind!r}; expected one of {', '.join(_LAYERS)}")
    names = _DISTILBERT_FIELDS if kind == "distilbert" else _FIELDS
    lost = [n for f, n in names.items() if n not in settings and f in ("vocab_size", "width", "layers", "heads")]
    if lost:
        raise VtjaxError(f"{where}: no {', '.join(lost)}; is this the model's own config.json?")
    if settings.get("position_embedding_type", "absolute") != "absolute":
        raise VtjaxError(f"{where}: position_embedding_type {settings['position_embedding_type']!r} is not supported")
    if settings.get("is_decoder") or settings.get("add_cross_attention"):
        raise VtjaxError(f"{where}: a decoder; only encoders are supported")
    activation = settings.get("activation" if kind == "distilbert" else "hidden_act", "gelu")
    if activation not in _ACTIVATIONS:
        raise VtjaxError(f"{where}: activation {activation!r}; known: {', '.join(_ACTIVATIONS)}")
    pad = settings.get("pad_token_id")
    pad = {"roberta": 1, "mpnet": 1}.get(kind, 0) if pad is None else pad
    return BertConfig(
        kind=kind,
        pad_id=1 if kind == "mpnet" else pad,  # MPNet's padding index is not read from its settings
        position_offset={"roberta": pad + 1, "mpnet": 2}.get(kind, 0),
        token_types=settings.get("type_vocab_size", 2) if kind in ("bert", "roberta") else 0,
        relative_buckets=settings.get("relative_attention_num_buckets", 32) if kind == "mpnet" else 0,
        activation=_ACTIVATIONS[activation],
        norm_eps=1e-12 if kind == "distilbert" else settings.get("layer_norm_eps", 1e-12),
        **{field: settings[name] for field, name in names.items() if name in settings},
    )


def config_to_hf(config: BertConfig) -> dict[str, Any]:
    """The config.json that transformers reads for `config`."""
    names = _DISTILBERT_FIELDS if config.kind == "distilbert" else _FIELDS
    activation = "gelu_new" if config.activation == "gelu_tanh" else config.activation
    settings = {"model_type": config.kind} | {name: getattr(config, field) for field, name in names.items()}
    settings["pad_token_id"] = config.pad_id
    settings["architectures"] = [
        {"bert": "BertModel", "distilbert": "DistilBertModel", "roberta": "RobertaModel", "mpnet": "MPNetModel"}[
            config.kind
        ]
    ]
    if config.kind == "distilbert":
        return settings | {"activation": activation}
    settings |= {"hidden_act": activation, "layer_norm_eps": config.norm_eps}
    if config.kind == "mpnet":
        return settings | {"relative_attention_num_buckets": config.relative_buckets}
    return settings | {"type_vocab_size": config.token_types}


def key_map(config: BertConfig) -> Iterator[tuple[str, str]]:
    """(our "a/b/c" name, published name) of every parameter."""
    modules = {"embeddings/norm": "embeddings.LayerNorm"}
    for i in range(config.layers):
        modules |= {ours.format(i=i): theirs.format(i=i) for ours, theirs in _LAYERS[config.kind].items()}
    tables = {"embeddings/word": "embeddings.word_embeddings", "embeddings/position": "embeddings.position_embeddings"}
    if config.token_types:
        tables["embeddings/token_type"] = "embeddings.token_type_embeddings"
    if config.relative_buckets:
        tables["relative_attention_bias"] = "encoder.relative_attention_bias"
    for ours, theirs in tables.items():
        yield f"{ours}/embedding", f"{theirs}.weight"
    for ours, theirs in modules.items():
        yield f"{ours}/{'scale' if 'norm' in ours else 'kernel'}", f"{theirs}.weight"
        yield f"{ours}/bias", f"{theirs}.bias"


def _published_shape(ours: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Torch keeps heads flat and dense weights as [out, in]; here they are [in, heads, head_dim] and [in, out]."""
    if ours.endswith("/kernel"):
        split = -1 if ours.endswith("out/kernel") else 1
        return math.prod(shape[split:]), math.prod(shape[:split])
    return shape if ours.endswith("/embedding") else (math.prod(shape),)


def from_hf(
    config: BertConfig, tensors: Mapping[str, np.ndarray], where: str = "checkpoint", dtype: Any = np.float32
) -> tuple[dict[str, Any], report.MatchReport]:
    """Parameters of `BertEncoder(config)`, nested dicts of `dtype`, from tensors under their published names.

    A common prefix ("bert.", "text_model.") is found and taken off. `tensors` may be lazy: each is read once.

    Raises:
      VtjaxError: a tensor is missing, of another shape, or unused and not one of `NOT_ENCODER`.
    """
    published = _without_prefix(tensors)
    shapes = expected_shapes(config)
    sources = {}
    for ours, theirs in key_map(config):
        source = published.pop(theirs, None) or published.pop(_old_name(theirs), None)
        if source is not None:
            sources[ours] = source
    # Compared as published, before anything is read: turned first, a wrong matrix could pass for a right one.
    expected = {ours: _Shape(_published_shape(ours, leaf.shape)) for ours, leaf in shapes.items()}
    found = {name: _Shape(_shape(tensors, source)) for name, source in (sources | published).items()}
    result = report.match(expected, found)
    result.raise_if_incomplete(allow_unused=NOT_ENCODER, source=where)
    mapped = {}
    for ours, source in sources.items():
        value = np.asarray(tensors[source]).astype(dtype, copy=False)
        value = np.ascontiguousarray(value.T if ours.endswith("/kernel") else value)
        mapped[ours] = value.reshape(shapes[ours].shape)
    return unflatten(mapped), result


def to_hf(config: BertConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Tensors under their published names from parameters of `BertEncoder(config)`; `from_hf`'s exact inverse."""
    flat = flatten(params)
    report.match(expected_shapes(config), flat).raise_if_incomplete(source="parameters")
    tensors = {}
    for ours, theirs in key_map(config):
        value = np.asarray(flat[ours])
        shape = _published_shape(ours, value.shape)
        tensors[theirs] = np.ascontiguousarray(
            value.reshape(shape[::-1]).T if ours.endswith("/kernel") else value.reshape(shape)
        )
    return tensors


def load_bert(
    folder_or_hub_id: str | os.PathLike[str], dtype: Any = np.float32
) -> tuple[BertConfig, dict[str, Any]]:
    """Settings and parameters of a published BERT-family model, from its folder or hub id.

    Raises:
      VtjaxError: see `vtjax.weights.hub.local_folder`, `config_from_hf`, `from_hf` and the readers.
    """
    folder = local_folder(folder_or_hub_id)
    config = config_from_hf(read_json(folder / "config.json"), str(folder / "config.json"))
    if any(folder.glob("*.safetensors")):
        tensors: Mapping[str, np.ndarray] = SafetensorsReader(folder)
    elif (folder / "pytorch_model.bin").is_file():
        tensors = torch_reader.read_state_dict(folder / "pytorch_model.bin")
    else:
        raise VtjaxError(f"{folder}: no weights; expected model.safetensors or pytorch_model.bin")
    return config, from_hf(config, tensors, str(folder), dtype)[0]


def save_bert(folder: str | os.PathLike[str], config: BertConfig, params: Mapping[str, Any]) -> None:
    """Writes config.json and model.safetensors that transformers loads."""
    folder = pathlib.Path(folder)
    write_safetensors(folder / "model.safetensors", to_hf(config, params))
    write_atomically(folder / "config.json", json.dumps(config_to_hf(config), indent=2))


def expected_shapes(config: BertConfig) -> dict[str, Any]:
    """Shape and dtype of every parameter by its "a/b/c" name, from the module itself."""
    import jax
    import jax.numpy as jnp

    ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, 2), jnp.bool_)
    return flatten(jax.eval_shape(BertEncoder(config).init, jax.random.key(0), ids, mask)["params"])


@dataclasses.dataclass(frozen=True)
class _Shape:
    shape: tuple[int, ...]


def _shape(tensors: Mapping[str, np.ndarray], name: str) -> tuple[int, ...]:
    return tensors.shape(name) if hasattr(tensors, "shape") else tuple(tensors[name].shape)


def _without_prefix(tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Name without the prefix that stands before "embeddings.word_embeddings" -> full name."""
    marker = "embeddings.word_embeddings.weight"
    prefix = next((name[: -len(marker)] for name in tensors if name.endswith(marker)), "")
    return {name.removeprefix(prefix): name for name in tensors}


def _old_name(name: str) -> str:
    """The norms of checkpoints older than 2019 call their parameters gamma and beta."""
    return re.sub(r"LayerNorm\.(weight|bias)$", lambda m: f"LayerNorm.{'gamma' if m[1] == 'weight' else 'beta'}", name)
