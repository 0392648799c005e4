"""Loading and saving a model published in two layouts: the authors' own, and Hugging Face's with a config.json.

`model` is the module of its key maps: published_names, config_from_hf, config_from_tensors, config_to_hf, entries,
init.
"""

from __future__ import annotations

import functools
import json
import pathlib
import types
from collections.abc import Mapping
from typing import Any

from vtjax.config import from_dict, to_dict
from vtjax.errors import VtjaxError
from vtjax.files import write_atomically
from vtjax.weights import tables
from vtjax.weights.options import Loaded, Options
from vtjax.weights.safetensors_io import write_safetensors
from vtjax.weights.source import Source


def load(model: types.ModuleType, source: Source, options: Options) -> Loaded:
    """Parameters of the model, from either layout.

    Raises:
      VtjaxError: names or shapes that are not the model's, or no config.json beside Hugging Face's weights.
    """
    import jax

    layout, prefix, names, dropped = model.published_names(list(source.tensors), str(source.path))
    if layout == "hf":
        if not source.settings:
            raise VtjaxError(f"{source.folder}: no config.json, which says the sizes of the model")
        config = model.config_from_hf(source.settings, str(source.folder / "config.json"))
    else:
        shapes = {name: source.tensors.shape(full) for name, full in names.items()}
        config = model.config_from_tensors(shapes, str(source.path))
    make = functools.partial(model.init, config)
    ours = tables.shapes_of(jax.eval_shape(make))
    table = list(model.entries(config, layout))
    params, found, dtype = tables.load(source, options, names, dropped, table, ours, jax.jit(make))
    return Loaded(params, {"model": to_dict(config), "layout": layout, "prefix": prefix}, found, dtype)


def save(
    model: types.ModuleType, kind: type, folder: Any, config: Mapping[str, Any], params: Mapping[str, Any]
) -> None:
    """model.safetensors in the layout that it came in, with a config.json where that is Hugging Face's. kind: class of
    the model's sizes."""
    import jax

    sizes = from_dict(kind, dict(config["model"]))
    ours = tables.shapes_of(jax.eval_shape(functools.partial(model.init, sizes)))
    tensors = tables.write(list(model.entries(sizes, config["layout"])), ours, params)
    folder = pathlib.Path(folder)
    write_safetensors(folder / "model.safetensors", {config["prefix"] + n: x for n, x in tensors.items()})
    if config["layout"] == "hf":
        settings = model.config_to_hf(sizes, float(tensors["logit_scale"]))
        write_atomically(folder / "config.json", json.dumps(settings, indent=2))
