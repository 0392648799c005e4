"""BERT-family encoders. A file without settings is understood by its names and shapes; heads are then 64 wide."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vtjax.config import from_dict, to_dict
from vtjax.errors import VtjaxError
from vtjax.nn.bert import BertConfig, BertEncoder
from vtjax.weights import bert
from vtjax.weights.options import Loaded, Options
from vtjax.weights.source import Source, Tensors

_HEAD = 64
_MARKER = "embeddings.word_embeddings.weight"


def detect(source: Source) -> bool:
    """Whether its config.json names a model of the family."""
    return source.settings.get("model_type") in ("bert", "roberta", "mpnet", "distilbert")


def load(source: Source, options: Options) -> Loaded:
    """Parameters of `BertEncoder`."""
    prefix = next((n[: -len(_MARKER)] for n in source.tensors if n.endswith(_MARKER)), "")
    tensors = Tensors(source.tensors, {name.removeprefix(prefix): name for name in source.tensors})
    if "model_type" in source.settings:
        config = bert.config_from_hf(source.settings, str(source.folder / "config.json"))
    else:
        config = config_from_tensors({name: tensors.shape(name) for name in tensors}, str(source.path))
    expected = {_old_or_new(theirs, tensors): (ours,) for ours, theirs in bert.key_map(config)}
    done = tensors.reconcile(expected, lambda: bert.to_hf(config, random_params(config)), options.allow)
    params, result = bert.from_hf(config, tensors, str(source.path), np.dtype(options.dtype or "float32"))
    return Loaded(params, to_dict(config), done.amend(result), tensors.published_dtype())


def save(folder: Any, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """config.json and model.safetensors."""
    bert.save_bert(folder, from_dict(BertConfig, dict(config)), params)


def random_params(config: BertConfig) -> dict[str, Any]:
    """The module's own initial values."""
    import jax
    import jax.numpy as jnp

    init = jax.jit(BertEncoder(config).init)
    return init(jax.random.key(0), jnp.ones((1, 2), jnp.int32), jnp.ones((1, 2), bool))["params"]


def config_from_tensors(shapes: Mapping[str, tuple[int, ...]], where: str = "checkpoint") -> BertConfig:
    """`BertConfig` from names and shapes alone.

    Raises:
      VtjaxError: no model of the family, or a size that its tensors do not give.
    """
    layers = {m[1] for name in shapes if (m := re.match(r"(?:encoder|transformer)\.layer\.(\d+)\.", name))}
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
    buckets = shapes.get("encoder.relative_attention_bias.weight", (0,))[0]
    config = BertConfig(
        kind=kind,
        vocab_size=vocab,
        width=width,
        layers=len(layers),
        heads=max(1, width // _HEAD),
        ffn_width=ffn,
        positions=positions,
        position_offset=offset,
        pad_id=1 if offset else 0,
        token_types=types,
        relative_buckets=buckets,
    )
    return dataclasses.replace(config, norm_eps=1e-5) if kind in ("roberta", "mpnet") else config


def _old_or_new(name: str, tensors: Tensors) -> str:
    """The spelling that the checkpoint has: norms were gamma and beta before 2019."""
    old = re.sub(r"LayerNorm\.(weight|bias)$", lambda m: f"LayerNorm.{'gamma' if m[1] == 'weight' else 'beta'}", name)
    return old if old in tensors and name not in tensors else name
