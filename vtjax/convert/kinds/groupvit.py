"""GroupViT: the released .pth, or a folder in Hugging Face's layout."""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from vtjax.config import from_dict, to_dict
from vtjax.convert import groupvit, tables
from vtjax.convert.options import Loaded, Options
from vtjax.convert.safetensors_io import write_safetensors
from vtjax.convert.source import Source
from vtjax.errors import VtjaxError
from vtjax.files import write_atomically
from vtjax.nn.groupvit import GroupVitConfig


def detect(source: Source) -> bool:
    """Whether its settings say so, or its tensors have a grouping encoder's names over image patches."""
    if "model_type" in source.settings:
        return source.settings["model_type"] == "groupvit"
    return any(name.endswith("img_encoder.patch_embed.proj.weight") for name in source.names)


def load(source: Source, options: Options) -> Loaded:
    """Parameters of `GroupVit`."""
    import jax

    layout, prefix, names, dropped = groupvit.published_names(list(source.tensors), str(source.path))
    if layout == "hf":
        if not source.settings:
            raise VtjaxError(f"{source.folder}: no config.json, which says the sizes of the model")
        config = groupvit.config_from_hf(source.settings, str(source.folder / "config.json"))
    else:
        shapes = {name: source.tensors.shape(full) for name, full in names.items()}
        config = groupvit.config_from_tensors(shapes, str(source.path))
    make = functools.partial(groupvit.init, config)
    ours = tables.shapes_of(jax.eval_shape(make))
    table = list(groupvit.entries(config, layout))
    params, found, dtype = tables.load(source, options, names, dropped, table, ours, jax.jit(make))
    return Loaded(params, {"model": to_dict(config), "layout": layout, "prefix": prefix}, found, dtype)


def save(folder: Any, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """model.safetensors in the layout that it came in, with a config.json where that is Hugging Face's."""
    import jax

    model = from_dict(GroupVitConfig, dict(config["model"]))
    ours = tables.shapes_of(jax.eval_shape(functools.partial(groupvit.init, model)))
    tensors = tables.write(list(groupvit.entries(model, config["layout"])), ours, params)
    folder = pathlib.Path(folder)
    write_safetensors(folder / "model.safetensors", {config["prefix"] + n: x for n, x in tensors.items()})
    if config["layout"] == "hf":
        settings = groupvit.config_to_hf(model, float(tensors["logit_scale"]))
        write_atomically(folder / "config.json", json.dumps(settings, indent=2))
