"""The temporal alignment network: the online model of its training, or one model alone."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

from vtjax.config import from_dict, to_dict
from vtjax.nn.temporal_aligner import AlignerConfig
from vtjax.weights import tables, tan
from vtjax.weights.options import Loaded, Options
from vtjax.weights.safetensors_io import write_safetensors
from vtjax.weights.source import Source


def detect(source: Source) -> bool:
    """Whether its tensors have the joint transformer's names."""
    return any("joint_temporal_encoder.resblocks." in name for name in source.names)


def load(source: Source, options: Options) -> Loaded:
    """Parameters of `TemporalAligner`."""
    import jax

    spelling, names, dropped = tan.published_names(list(source.tensors))
    shapes = {name: source.tensors.shape(full) for name, full in names.items()}
    config = tan.config_from_tensors(shapes, spelling.words, str(source.path))
    make = functools.partial(tan.init, config)
    ours = tables.shapes_of(jax.eval_shape(make))
    table = list(tan.entries(config, spelling.words))
    params, found, dtype = tables.load(source, options, names, dropped, table, ours, jax.jit(make))
    described = {"aligner": to_dict(config), "spelling": to_dict(spelling)}
    return Loaded(params, described, found, dtype)


def save(folder: Any, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """model.safetensors with the released names, prefix and spelling as they came."""
    import jax

    aligner = from_dict(AlignerConfig, dict(config["aligner"]))
    spelling = from_dict(tan.Spelling, dict(config["spelling"]))
    ours = tables.shapes_of(jax.eval_shape(functools.partial(tan.init, aligner)))
    tensors = tables.write(list(tan.entries(aligner, spelling.words)), ours, params)
    named = {spelling.prefix + name: value for name, value in tensors.items()}
    write_safetensors(pathlib.Path(folder) / "model.safetensors", named)
