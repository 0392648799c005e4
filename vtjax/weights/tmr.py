"""Released TMR and CAR weights to and from our parameter trees (car.md section 8); numpy only.

TMR keeps three files (motion_encoder.pt, text_encoder.pt, motion_decoder.pt), CAR one state dict with those names as
prefixes plus `text_model.text_model.*`, the language model. Read either with vtjax.weights.torch_reader. Only the VAE
was released; the sinusoidal tables are in no checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vtjax.errors import VtjaxError
from vtjax.trees import flatten, unflatten
from vtjax.weights.report import match

TOWERS = ("motion_encoder", "text_encoder", "motion_decoder")
LANGUAGE_MODEL_PREFIX = "text_model.text_model."

_LAYER = re.compile(r"seqTrans(Encoder|Decoder)\.layers\.(\d+)\.(.+)")
_ATTENTION = re.compile(r"(self_attn|multihead_attn)\.(in_proj_weight|in_proj_bias|out_proj\.weight|out_proj\.bias)")
_OUTER = {"projection": "projection", "final_layer": "final"}
_INNER = {"linear1": "ffn/up", "linear2": "ffn/down"}
_LEAF = {"weight": "kernel", "bias": "bias"}
_NORM_LEAF = {"weight": "scale", "bias": "bias"}
_QKV = ("query", "key", "value")


def _attention_name(decoder: bool, module: str) -> str:
    if module == "multihead_attn":
        return "cross_attention"
    return "self_attention" if decoder else "attention"


def join_files(files: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """{"motion_encoder": state dict of motion_encoder.pt, ...} as one state dict with prefixes.

    Raises:
      VtjaxError: a name that is no tower of TMR.
    """
    for name in files:
        if name not in TOWERS:
            raise VtjaxError(f"{name}: not a part of TMR; expected {', '.join(TOWERS)}")
    return {f"{tower}.{key}": value for tower, state in files.items() for key, value in state.items()}


def language_model_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The language model inside a CAR checkpoint, under its own (Hugging Face) names; empty for TMR."""
    start = len(LANGUAGE_MODEL_PREFIX)
    return {key[start:]: value for key, value in tensors.items() if key.startswith(LANGUAGE_MODEL_PREFIX)}


def to_params(tensors: Mapping[str, np.ndarray], heads: int = 4) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(parameters of the towers in `tensors`, what was no parameter of a tower under its own name).

    Args:
      tensors: released names with tower prefixes; linear weights [out, in], attention rows query | key | value.
      heads: attention heads; the released tensors do not say.

    Raises:
      VtjaxError: an attention tensor that cannot be split into query, key, value and heads.
    """
    flat: dict[str, np.ndarray] = {}
    rest: dict[str, np.ndarray] = {}
    for key, value in tensors.items():
        tower, _, inner = key.partition(".")
        ours = _from_released(inner, value, heads, key) if tower in TOWERS else None
        if ours is None:
            rest[key] = value
        else:
            flat |= {f"{tower}/{name}": np.ascontiguousarray(leaf) for name, leaf in ours.items()}
    return unflatten(flat), rest


def _from_released(inner: str, value: np.ndarray, heads: int, key: str) -> dict[str, np.ndarray] | None:
    """One released tensor as our leaves, by name within the tower; None where the name is unknown."""
    layer = _LAYER.fullmatch(inner)
    if layer is None:
        module, _, leaf = inner.rpartition(".")
        if inner == "tokens":
            return {inner: value}
        return {f"{_OUTER[module]}/{_LEAF[leaf]}": value.T} if module in _OUTER and leaf in _LEAF else None
    folder, rest = f"transformer/layer_{layer[2]}", layer[3]
    attention = _ATTENTION.fullmatch(rest)
    if attention:
        name = f"{folder}/{_attention_name(layer[1] == 'Decoder', attention[1])}"
        return {f"{name}/{leaf}": part for leaf, part in _split_attention(attention[2], value, heads, key).items()}
    module, _, leaf = rest.rpartition(".")
    if module in _INNER and leaf in _LEAF:
        return {f"{folder}/{_INNER[module]}/{_LEAF[leaf]}": value.T}
    if re.fullmatch(r"norm[123]", module) and leaf in _NORM_LEAF:
        return {f"{folder}/{module}/{_NORM_LEAF[leaf]}": value}
    return None


def _split_attention(kind: str, value: np.ndarray, heads: int, key: str) -> dict[str, np.ndarray]:
    width = value.shape[-1] if kind.endswith("weight") else value.shape[0] // (3 if kind.startswith("in") else 1)
    rows = 3 * width if kind.startswith("in") else width
    if value.shape[0] != rows or width % heads:
        raise VtjaxError(f"{key}: shape {value.shape} is not that of {heads}-head attention")
    if kind == "out_proj.bias":
        return {"out/bias": value}
    if kind == "out_proj.weight":
        return {"out/kernel": value.T.reshape(heads, width // heads, width)}
    if kind == "in_proj_bias":
        return {f"{n}/bias": p.reshape(heads, -1) for n, p in zip(_QKV, np.split(value, 3), strict=True)}
    parts = zip(_QKV, np.split(value, 3), strict=True)
    return {f"{n}/kernel": p.T.reshape(width, heads, width // heads) for n, p in parts}


def to_tensors(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `to_params`: released names and layouts, with tower prefixes.

    Args:
      params: our tree; trees beside the towers (a text embedding, a language model) must be taken out first.

    Raises:
      VtjaxError: a leaf that has no place in the released layout.
    """
    flat = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
    out: dict[str, np.ndarray] = {}
    while flat:
        name = next(iter(flat))
        tower, _, inner = name.partition("/")
        key, make = _to_released(inner, tower == "motion_decoder")
        if tower not in TOWERS or not key:
            raise VtjaxError(f"{name}: has no place in a released TMR checkpoint")
        prefix = name[: len(name) - len(inner)]
        used = [prefix + inner] if "{}" not in inner else []
        attention = re.fullmatch(r"(.*/)(query|key|value)/(kernel|bias)", inner)
        if attention:
            used = [f"{prefix}{attention[1]}{part}/{attention[3]}" for part in _QKV]
        out[f"{tower}.{key}"] = np.ascontiguousarray(make([flat.pop(n) for n in used]))
    return out


def _to_released(inner: str, decoder: bool) -> tuple[str, Callable[[list[np.ndarray]], np.ndarray]]:
    """Released name within the tower of one of our leaves (query stands for all three), and how to lay it out."""
    whole = lambda parts: parts[0]  # noqa: E731
    transposed = lambda parts: parts[0].T  # noqa: E731
    if inner == "tokens":
        return inner, whole
    for theirs, ours in _OUTER.items():
        for their_leaf, leaf in _LEAF.items():
            if inner == f"{ours}/{leaf}":
                return f"{theirs}.{their_leaf}", transposed
    layer = re.fullmatch(r"transformer/layer_(\d+)/(.+)/(\w+)", inner)
    if layer is None:
        return "", whole
    folder, module, leaf = f"seqTrans{'Decoder' if decoder else 'Encoder'}.layers.{layer[1]}", layer[2], layer[3]
    suffix = "bias" if leaf == "bias" else "weight"
    for theirs, ours in _INNER.items():
        if module == ours:
            return f"{folder}.{theirs}.{suffix}", transposed
    if re.fullmatch(r"norm[123]", module):
        return f"{folder}.{module}.{suffix}", whole
    attention = re.fullmatch(r"(attention|self_attention|cross_attention)/(query|key|value|out)", module)
    if attention is None:
        return "", whole
    theirs = "multihead_attn" if attention[1] == "cross_attention" else "self_attn"
    if attention[2] == "out":
        flatten_heads = lambda parts: parts[0].reshape(-1, parts[0].shape[-1]).T  # noqa: E731
        return f"{folder}.{theirs}.out_proj.{suffix}", whole if leaf == "bias" else flatten_heads
    if leaf == "bias":
        return f"{folder}.{theirs}.in_proj_bias", lambda parts: np.concatenate([p.reshape(-1) for p in parts])
    rows = lambda parts: np.concatenate([p.reshape(p.shape[0], -1).T for p in parts])  # noqa: E731
    return f"{folder}.{theirs}.in_proj_weight", rows


def load(tensors: Mapping[str, np.ndarray], params: Mapping[str, Any], source: str = "checkpoint") -> dict[str, Any]:
    """`params` with its towers replaced by released weights, every tensor accounted for.

    Args:
      tensors: a CAR state dict, or `join_files` of TMR's; its language model is left to that model's own converter
        (`language_model_tensors`).
      params: the whole tree of methods/car, arrays or ShapeDtypeStructs; leaves outside the towers are kept.
      source: names the checkpoint in messages.

    Raises:
      VtjaxError: a leaf that is missing, unused or of another shape; all are named.
    """
    towers = {name: params[name] for name in TOWERS if name in params}
    queries = [leaf for name, leaf in flatten(towers).items() if name.endswith("query/kernel")]
    if not queries:
        raise VtjaxError(f"{source}: the model has none of {', '.join(TOWERS)}, so no weights of TMR fit it")
    loaded, rest = to_params(tensors, heads=queries[0].shape[1])
    unused = {key: value for key, value in rest.items() if not key.startswith(LANGUAGE_MODEL_PREFIX)}
    match(towers, flatten(loaded) | unused).raise_if_incomplete(source=source)
    return {**params, **loaded}
