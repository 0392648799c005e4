"""LoRA adapters. The shapes of the model that an adapter is for come from that model's config.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vtjax.config import from_dict, to_dict
from vtjax.errors import VtjaxError
from vtjax.nn.llama import LanguageModel
from vtjax.nn.lora import LoraConfig
from vtjax.trees import flatten, unflatten
from vtjax.weights import llama, peft
from vtjax.weights.files import read_json
from vtjax.weights.hub import local_folder
from vtjax.weights.options import Loaded, Options
from vtjax.weights.report import MatchReport
from vtjax.weights.source import Source


def detect(source: Source) -> bool:
    """Whether it is a folder with an adapter_config.json."""
    return source.path.is_dir() and (source.path / peft.CONFIG_FILE).is_file()


def load(source: Source, options: Options) -> Loaded:
    """The adapter's tree (`vtjax.nn.lora`). Tensors beside it, such as projectors, must be named to be left out."""
    if not detect(source):
        raise VtjaxError(f"{source.path}: not a folder with an {peft.CONFIG_FILE}")
    if options.allow.missing:
        raise VtjaxError("--allow_missing: an adapter is whole or not one; there is nothing to start it from")
    name = read_json(source.path / peft.CONFIG_FILE).get("base_model_name_or_path")
    shapes = base_shapes(name, options, str(source.path / peft.CONFIG_FILE))
    adapter = peft.load_peft(source.path, shapes)
    flat = flatten(adapter.tree)
    matched = tuple(f"{path}[{i}]" for path, x in flat.items() for i in range(len(x)))
    found = MatchReport(matched, tuple(adapter.extras), (), ())
    found.raise_if_incomplete(allow_unused=options.allow.unused, source=str(source.path))
    dtype = np.dtype(options.dtype or "float32")
    tree = unflatten({path: x.astype(dtype) for path, x in flat.items()})
    return Loaded(tree, {"base_model_name_or_path": name, "lora": to_dict(adapter.config)}, found)


def base_shapes(name: str | None, options: Options, where: str) -> dict[str, Any]:
    """Shapes of the language model that an adapter is for, from its config.json: --base, or what the adapter names.

    Raises:
      VtjaxError: neither names one, or its config.json cannot be had.
    """
    base = options.base or name
    if not base:
        raise VtjaxError(f"{where}: does not name its base model; give --base")
    try:
        file = local_folder(base) / "config.json"
    except VtjaxError as error:
        raise VtjaxError(f"{error}; or give --base, a folder with the config.json of the adapter's model") from error
    return LanguageModel(llama.config_from_hf(read_json(file), str(file))).shapes()


def save(folder: Any, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """adapter_config.json and adapter_model.safetensors."""
    peft.save_peft(folder, from_dict(LoraConfig, dict(config["lora"])), params, config["base_model_name_or_path"])
