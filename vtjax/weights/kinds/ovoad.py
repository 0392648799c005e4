"""OV-OAD: a state dict of the released code's grammar."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

from vtjax.config import from_dict, to_dict
from vtjax.methods.ovoad.config import OvoadConfig
from vtjax.nn.clip import ClipConfig
from vtjax.weights import ovoad, tables
from vtjax.weights.options import Loaded, Options
from vtjax.weights.safetensors_io import write_safetensors
from vtjax.weights.source import Source


def detect(source: Source) -> bool:
    """Whether its tensors have the names of a grouping encoder over frames."""
    return any(name.endswith(ovoad.MARKER) for name in source.names)


def load(source: Source, options: Options) -> Loaded:
    """Parameters of methods/ovoad."""
    import jax

    prefix, names, dropped = ovoad.published_names(list(source.tensors), str(source.path))
    shapes = {name: source.tensors.shape(full) for name, full in names.items()}
    method, sizes = ovoad.config_from_tensors(shapes, str(source.path))
    make = functools.partial(ovoad.init, method, sizes)
    ours = tables.shapes_of(jax.eval_shape(make))
    table = list(ovoad.entries(method, sizes))
    params, found, dtype = tables.load(source, options, names, dropped, table, ours, jax.jit(make))
    described = {"method": to_dict(method), "sizes": to_dict(sizes), "prefix": prefix}
    return Loaded(params, described, found, dtype)


def save(folder: Any, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """model.safetensors with the released names."""
    import jax

    method, sizes = from_dict(OvoadConfig, dict(config["method"])), from_dict(ClipConfig, dict(config["sizes"]))
    ours = tables.shapes_of(jax.eval_shape(functools.partial(ovoad.init, method, sizes)))
    tensors = tables.write(list(ovoad.entries(method, sizes)), ours, params)
    named = {config["prefix"] + name: value for name, value in tensors.items()}
    write_safetensors(pathlib.Path(folder) / "model.safetensors", named)
