"""Released TMR and CAR weights to and from this method's parameters (docs/methods/car.md).

TMR keeps three files (motion_encoder.pt, text_encoder.pt, motion_decoder.pt), CAR one state dict with those names as
prefixes plus `text_model.text_model.*`, the language model. Only the VAE was released; the sinusoidal tables are in no
checkpoint. CAR's fits a run with the language model in the graph (config.method.text.trainable or .frozen_dropout);
TMR's layout takes the towers alone, for cached states.
"""

from __future__ import annotations

import copy
import dataclasses
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vtjax.config import from_dict, to_dict
from vtjax.errors import VtjaxError
from vtjax.methods.car.config import CarConfig, CarModelConfig, CarTextConfig
from vtjax.nn.bert import BertConfig
from vtjax.trees import flatten
from vtjax.weights import bert, tables, torch_reader
from vtjax.weights.layout import Loaded, Options
from vtjax.weights.safetensors_io import write_safetensors
from vtjax.weights.source import Source
from vtjax.weights.tensors import ArrayWeights

TOWERS = ("motion_encoder", "text_encoder", "motion_decoder")
LANGUAGE_MODEL = "text_model.text_model."


def _attention(theirs: str, ours: str) -> dict[str, str | tuple[str, ...]]:
    parts = tuple(f"{ours}/{part}" for part in ("query", "key", "value"))
    return {f"{theirs}.in_proj_": parts, f"{theirs}.out_proj": f"{ours}/out"}


# Published module of a layer (torch's own transformer layers) -> ours.
_FFN = {"linear1": "ffn/up", "linear2": "ffn/down", "norm1": "norm1", "norm2": "norm2"}
ENCODER_LAYER = _attention("self_attn", "attention") | _FFN
DECODER_LAYER = (
    _attention("self_attn", "self_attention") | _attention("multihead_attn", "cross_attention") | _FFN
) | {"norm3": "norm3"}


def entries(layers: int) -> Iterator[tables.Entry]:
    """Lists every tensor of the three towers, each of so many layers."""
    for tower in TOWERS:
        decoder = tower == "motion_decoder"
        outer = {"final_layer": "final"} if decoder else {"projection": "projection"}
        yield from tables.modules(f"{tower}/", f"{tower}.", outer)
        if not decoder:
            yield tables.same(f"{tower}/tokens", f"{tower}.tokens")
        stack = f"{tower}.seqTrans{'Decoder' if decoder else 'Encoder'}.layers." + "{i}."
        yield from tables.layers(f"{tower}/transformer/", stack, layers, DECODER_LAYER if decoder else ENCODER_LAYER)


def to_tensors(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Gives tensors in released names and layouts, with tower prefixes.

    Args:
      params: this method's tree; trees beside the towers (a text embedding, a language model) must be taken out first.

    Raises:
      VtjaxError: a leaf that has no place in the released layout.
    """
    flat = flatten(params)
    table = [e for e in entries(tables.count(flat, r"\w+/transformer/layer_(\d+)/")) if set(e.ours) <= flat.keys()]
    foreign = flat.keys() - {name for entry in table for name in entry.ours}
    if foreign:
        raise VtjaxError(f"{', '.join(sorted(foreign))}: has no place in a released TMR checkpoint")
    return tables.write(table, tables.shapes_of(params), params)


def config_from_tensors(shapes: Mapping[str, tuple[int, ...]], where: str) -> CarConfig:
    """Reads sizes of the towers; the tensors do not tell the number of heads, which is 4 in all that was released.

    Raises:
      VtjaxError: a tensor is missing that a size is read from.
    """
    try:
        latent, width = shapes["motion_encoder.projection.weight"]
        model = CarModelConfig(
            motion_width=width,
            latent=latent,
            layers=tables.count(shapes, r"motion_encoder\.seqTransEncoder\.layers\.(\d+)\."),
            ff=shapes["motion_encoder.seqTransEncoder.layers.0.linear1.weight"][0],
            vae=shapes["motion_encoder.tokens"][0] == 2,
        )
        text = CarTextConfig(width=shapes["text_encoder.projection.weight"][1])
    except (KeyError, ValueError) as error:
        raise VtjaxError(f"{where}: no tensor {error}, so not a released checkpoint of TMR or CAR") from error
    return CarConfig(model=model, text=text)


def init(config: CarConfig) -> dict[str, Any]:
    """Makes initial values of the towers; under `jax.eval_shape`, their shapes."""
    import jax
    import jax.numpy as jnp

    from vtjax.methods.car.task import CarObjective

    objective = CarObjective(config)
    batch = {name: jnp.zeros((1, *s.shape), s.dtype) for name, s in objective.example_spec().items()}
    tree = objective.init(jax.random.key(0), batch)
    return {name: tree[name] for name in TOWERS if name in tree}


def detect_tmr(source: Source) -> bool:
    """Says whether it has TMR's files, or its tensors a motion encoder's names and no language model."""
    return _folder(source) is not None or (_has_towers(source) and not _has_language_model(source))


def detect_car(source: Source) -> bool:
    """Says whether its tensors are TMR's towers beside a language model."""
    return _has_towers(source) and _has_language_model(source)


def load_tmr(source: Source, options: Options) -> Loaded:
    """Loads the towers; of a CAR checkpoint without its language model."""
    folder = _folder(source)
    if folder is not None:
        source = copy.copy(source)
        states = {tower: torch_reader.read_state_dict(folder / f"{tower}.pt") for tower in TOWERS}
        source.tensors = ArrayWeights({f"{tower}.{n}": x for tower, state in states.items() for n, x in state.items()})
    names = {name: name for name in source.tensors if not name.startswith(LANGUAGE_MODEL)}
    config = config_from_tensors(source.shapes(names), str(source.path))
    table = list(entries(config.model.layers))
    loaded = tables.load(source, options, to_dict(config), names, table, lambda: init(config))
    left = len(source.tensors) - len(names)
    notes = (f"its language model, {left} tensors, was left out; --kind=car keeps it",) if left else ()
    return dataclasses.replace(loaded, notes=notes)


def load_car(source: Source, options: Options) -> Loaded:
    """Loads the towers and `language_model`."""
    if not any(name.startswith(LANGUAGE_MODEL) for name in source.tensors):
        raise VtjaxError(f"{source.path}: no language model ({LANGUAGE_MODEL}*) in it; --kind=tmr takes towers alone")
    names = {name: name for name in source.tensors if not name.startswith(LANGUAGE_MODEL)}
    words = bert.published_names(name for name in source.tensors if name.startswith(LANGUAGE_MODEL))
    config = config_from_tensors(source.shapes(names), str(source.path))
    language_model = bert.config_from_tensors(source.shapes(words), str(source.path))
    names |= {LANGUAGE_MODEL + name: full for name, full in words.items()}
    table = [*entries(config.model.layers)]
    for entry in bert.entries(language_model):
        ours = tuple(f"language_model/{name}" for name in entry.ours)
        table.append(tables.Entry(LANGUAGE_MODEL + entry.theirs, ours, entry.kind))
    described = {"method": to_dict(config), "language_model": to_dict(language_model)}
    unused = [re.escape(LANGUAGE_MODEL) + pattern for pattern in bert.NOT_ENCODER]

    def both() -> dict[str, Any]:
        return {**init(config), "language_model": bert.init(language_model)}

    return tables.load(source, options, described, names, table, both, allow_unused=unused)


def save_tmr(folder: Any, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Writes model.safetensors with the released names."""
    write_safetensors(pathlib.Path(folder) / "model.safetensors", to_tensors(params))


def save_car(folder: Any, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Writes model.safetensors with the released names."""
    language_model = from_dict(BertConfig, dict(config["language_model"]))
    words = bert.to_hf(language_model, params["language_model"])
    towers = to_tensors({name: tree for name, tree in params.items() if name != "language_model"})
    tensors = {LANGUAGE_MODEL + name: value for name, value in words.items()} | towers
    write_safetensors(pathlib.Path(folder) / "model.safetensors", tensors)


def _has_towers(source: Source) -> bool:
    return any(name.startswith("motion_encoder.seqTransEncoder.") for name in source.names)


def _has_language_model(source: Source) -> bool:
    return any(name.startswith(LANGUAGE_MODEL) for name in source.names)


def _folder(source: Source) -> pathlib.Path | None:
    """Where TMR's files are: the folder itself or its last_weights."""
    folders = (source.path, source.path / "last_weights") if source.path.is_dir() else ()
    return next((f for f in folders if (f / "motion_encoder.pt").is_file()), None)
