"""Published BERT-family weights (Hugging Face layout) to `vtjax.nn.bert` parameters, and back.

A file without settings is understood by its names and shapes; heads are then 64 wide.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from vtjax.config import from_dict, to_dict
from vtjax.errors import VtjaxError
from vtjax.nn.bert import BertConfig, BertEncoder
from vtjax.trees import flatten
from vtjax.weights import report, tables
from vtjax.weights.files import open_weights, read_json, write_json
from vtjax.weights.hub import local_folder
from vtjax.weights.layout import Loaded, Options
from vtjax.weights.safetensors_io import write_safetensors
from vtjax.weights.source import Source
from vtjax.weights.tensors import Tensors, as_weights

# Published tensors that the encoder has no use for: index buffers, the pooler, and pretraining or task heads.
NOT_ENCODER = (
    r"embeddings\.(position_ids|token_type_ids)",
    r"pooler\..*",
    r"(cls|lm_head|vocab_transform|vocab_layer_norm|vocab_projector|classifier|pre_classifier|qa_outputs)\..*",
)

# Published module of a layer -> ours.
_FFN = {"intermediate.dense": "ffn/up", "output.dense": "ffn/down", "output.LayerNorm": "norm2"}
_BERT = {
    "attention.self.query": "attention/query",
    "attention.self.key": "attention/key",
    "attention.self.value": "attention/value",
    "attention.output.dense": "attention/out",
    "attention.output.LayerNorm": "norm1",
} | _FFN
_MPNET = {
    "attention.attn.q": "attention/query",
    "attention.attn.k": "attention/key",
    "attention.attn.v": "attention/value",
    "attention.attn.o": "attention/out",
    "attention.LayerNorm": "norm1",
} | _FFN
_DISTILBERT = {
    "attention.q_lin": "attention/query",
    "attention.k_lin": "attention/key",
    "attention.v_lin": "attention/value",
    "attention.out_lin": "attention/out",
    "sa_layer_norm": "norm1",
    "ffn.lin1": "ffn/up",
    "ffn.lin2": "ffn/down",
    "output_layer_norm": "norm2",
}
_LAYERS = {"bert": _BERT, "roberta": _BERT, "mpnet": _MPNET, "distilbert": _DISTILBERT}
_ARCHITECTURES = {
    "bert": "BertModel",
    "distilbert": "DistilBertModel",
    "roberta": "RobertaModel",
    "mpnet": "MPNetModel",
}
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
_HEAD = 64
_MARKER = "embeddings.word_embeddings.weight"
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
    """Reads `BertConfig` from the content of a Hugging Face config.json.

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
    """Gives the config.json that transformers reads for `config`."""
    names = _DISTILBERT_FIELDS if config.kind == "distilbert" else _FIELDS
    activation = "gelu_new" if config.activation == "gelu_tanh" else config.activation
    settings = {"model_type": config.kind} | {name: getattr(config, field) for field, name in names.items()}
    settings["pad_token_id"] = config.pad_id
    settings["architectures"] = [_ARCHITECTURES[config.kind]]
    if config.kind == "distilbert":
        return settings | {"activation": activation}
    settings |= {"hidden_act": activation, "layer_norm_eps": config.norm_eps}
    if config.kind == "mpnet":
        return settings | {"relative_attention_num_buckets": config.relative_buckets}
    return settings | {"type_vocab_size": config.token_types}


def config_from_tensors(shapes: Mapping[str, tuple[int, ...]], where: str = "checkpoint") -> BertConfig:
    """Reads `BertConfig` from names and shapes alone.

    Raises:
      VtjaxError: no model of the family, or a size that its tensors do not give.
    """
    types = shapes.get("embeddings.token_type_embeddings.weight", (0,))[0]
    if "transformer.layer.0.attention.q_lin.weight" in shapes:
        kind, up = "distilbert", "transformer.layer.0.ffn.lin1.weight"
    else:
        kind = "mpnet" if "encoder.relative_attention_bias.weight" in shapes else "roberta" if types == 1 else "bert"
        up = "encoder.layer.0.intermediate.dense.weight"
    try:
        vocab, width = shapes[_MARKER]
        positions, ffn = shapes["embeddings.position_embeddings.weight"][0], shapes[up][0]
    except KeyError as error:
        raise VtjaxError(f"{where}: no {error} and no config.json, so not a known model of the BERT family") from error
    offset = {"roberta": 2, "mpnet": 2}.get(kind, 0)
    config = BertConfig(
        kind=kind,
        vocab_size=vocab,
        width=width,
        layers=tables.count(shapes, r"(?:encoder|transformer)\.layer\.(\d+)\."),
        heads=max(1, width // _HEAD),
        ffn_width=ffn,
        positions=positions,
        position_offset=offset,
        pad_id=1 if offset else 0,
        token_types=types,
        relative_buckets=shapes.get("encoder.relative_attention_bias.weight", (0,))[0],
    )
    return dataclasses.replace(config, norm_eps=1e-5) if kind in ("roberta", "mpnet") else config


def entries(config: BertConfig) -> Iterator[tables.Entry]:
    """Lists every published tensor that is a parameter, without its prefix."""
    yield tables.same("embeddings/word/embedding", _MARKER)
    yield tables.same("embeddings/position/embedding", "embeddings.position_embeddings.weight")
    if config.token_types:
        yield tables.same("embeddings/token_type/embedding", "embeddings.token_type_embeddings.weight")
    if config.relative_buckets:
        yield tables.same("relative_attention_bias/embedding", "encoder.relative_attention_bias.weight")
    yield from tables.modules("", "", {"embeddings.LayerNorm": "embeddings/norm"})
    stack = "transformer.layer.{i}." if config.kind == "distilbert" else "encoder.layer.{i}."
    yield from tables.layers("", stack, config.layers, _LAYERS[config.kind])


def published_names(names: Iterable[str]) -> dict[str, str]:
    """Gives name as `entries` has it -> name: without a common prefix ("bert.", "text_model."), norms' leaves as today.

    The norms of checkpoints older than 2019 call their parameters gamma and beta.
    """
    names = list(names)
    prefix = next((name[: -len(_MARKER)] for name in names if name.endswith(_MARKER)), "")
    bare = {name.removeprefix(prefix): name for name in names}
    for old, new in (("gamma", "weight"), ("beta", "bias")):
        renamed = {n: n.removesuffix(old) + new for n in bare if n.endswith(f"LayerNorm.{old}")}
        bare |= {today: bare.pop(n) for n, today in renamed.items() if today not in bare}
    return bare


def from_hf(
    config: BertConfig, tensors: Mapping[str, np.ndarray], where: str = "checkpoint", dtype: Any = np.float32
) -> tuple[dict[str, Any], report.MatchReport]:
    """Loads parameters of `BertEncoder(config)`, nested dicts of `dtype`, from tensors under their published names.

    `tensors` may be lazy: each is read once.

    Raises:
      VtjaxError: a tensor is missing, of another shape, or unused and not one of `NOT_ENCODER`.
    """
    shown = Tensors(as_weights(tensors), published_names(tensors))
    shapes = tables.shapes_of(expected_shapes(config))
    return tables.read(list(entries(config)), shapes, shown, where, dtype, NOT_ENCODER, by_ours=True)


def to_hf(config: BertConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Gives tensors under their published names from parameters of `BertEncoder(config)`; `from_hf`'s exact inverse."""
    return tables.write(list(entries(config)), tables.shapes_of(expected_shapes(config)), params)


def load_bert(
    folder_or_hub_id: str | os.PathLike[str], dtype: Any = np.float32
) -> tuple[BertConfig, dict[str, Any]]:
    """Loads settings and parameters of a published BERT-family model, from its folder or hub id.

    Raises:
      VtjaxError: see `vtjax.weights.hub.local_folder`, `config_from_hf`, `from_hf` and the readers.
    """
    folder = local_folder(folder_or_hub_id)
    config = config_from_hf(read_json(folder / "config.json"), str(folder / "config.json"))
    return config, from_hf(config, open_weights(folder), str(folder), dtype)[0]


def save_bert(folder: str | os.PathLike[str], config: BertConfig, params: Mapping[str, Any]) -> None:
    """Writes config.json and model.safetensors that transformers loads."""
    folder = pathlib.Path(folder)
    write_safetensors(folder / "model.safetensors", to_hf(config, params))
    write_json(folder / "config.json", config_to_hf(config))


def init(config: BertConfig) -> dict[str, Any]:
    """Makes the module's initial values; under `jax.eval_shape`, their shapes."""
    import jax
    import jax.numpy as jnp

    return BertEncoder(config).init(jax.random.key(0), jnp.ones((1, 2), jnp.int32), jnp.ones((1, 2), bool))["params"]


def expected_shapes(config: BertConfig) -> dict[str, Any]:
    """Gives the shape and dtype of every parameter by its "a/b/c" name, from the module itself."""
    import jax

    return flatten(jax.eval_shape(lambda: init(config)))


def detect(source: Source) -> bool:
    """Says whether its config.json names a model of the family."""
    return source.settings.get("model_type") in _LAYERS


def load(source: Source, options: Options) -> Loaded:
    """Loads parameters of `BertEncoder`, as a `vtjax.weights.layout.Layout` reads them."""
    names = published_names(source.tensors)
    if "model_type" in source.settings:
        config = source.sizes(config_from_hf)
    else:
        config = config_from_tensors(source.shapes(names), str(source.path))
    how: dict[str, Any] = {"allow_unused": NOT_ENCODER, "by_ours": True}
    return tables.load(source, options, to_dict(config), names, list(entries(config)), lambda: init(config), **how)


def save(folder: Any, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Writes config.json and model.safetensors."""
    save_bert(folder, from_dict(BertConfig, dict(config)), params)
