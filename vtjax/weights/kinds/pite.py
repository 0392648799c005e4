"""PiTe and VTimeLLM: one training stage, or a folder with all of them; see `vtjax.weights.pite`."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vtjax.errors import VtjaxError
from vtjax.trees import flatten, unflatten
from vtjax.weights import peft, pite
from vtjax.weights.files import read_json
from vtjax.weights.kinds.peft import base_shapes
from vtjax.weights.options import Loaded, Options
from vtjax.weights.report import MatchReport
from vtjax.weights.source import Source


def detect(source: Source) -> bool:
    """Whether it has a visual adapter or point heads beside an adapter, or folders of stages."""
    return source.path.is_dir() and bool(pite.stage_folders(source.path))


def load(source: Source, options: Options) -> Loaded:
    """{"stage1": {"lora": ..., "vision_adapter": ..., ...}, ...}; float32 unless told otherwise."""
    folders = pite.stage_folders(source.path) if source.path.is_dir() else {}
    if not folders:
        raise VtjaxError(f"{source.path}: not a folder of a training stage of PiTe or VTimeLLM, nor of several")
    if options.allow.missing:
        raise VtjaxError("--allow_missing: a stage is whole or not one; there is nothing to start it from")
    bases: dict[Any, Any] = {}
    params, stages, matched, unused, dropped, notes, types = {}, {}, [], [], [], [], set()
    for name, folder in folders.items():
        base = None
        if options.base or (folder / peft.CONFIG_FILE).is_file():
            file = folder / peft.CONFIG_FILE
            named = options.base or read_json(file).get("base_model_name_or_path")
            if named not in bases:
                bases[named] = base_shapes(named, options, str(file))
            base = bases[named]
        stage = pite.load_stage(folder, base)
        flat = flatten(stage.params)
        types |= {x.dtype.name for path, x in flat.items() if not path.startswith("lora/")}
        params[name] = unflatten({path: x.astype(np.dtype(options.dtype or "float32")) for path, x in flat.items()})
        stages[name] = stage.config
        matched += [f"{name}/{x}" for x in stage.matched]
        unused += [f"{name}/{x}" for x in stage.rest]
        dropped += [(f"{name}/{x}", why) for x, why in stage.dropped]
        notes += [f"{name}: the adapter of {head} was merged into it" for head in stage.merged]
    found = MatchReport(tuple(matched), tuple(unused), (), (), tuple(dropped))
    found.raise_if_incomplete(allow_unused=options.allow.unused, source=str(source.path))
    single = len(folders) == 1 and folders.get(next(iter(folders))) == source.path
    published = types.pop() if len(types) == 1 else ""
    return Loaded(params, {"stages": stages, "single": single}, found, published, tuple(notes))


def save(folder: Any, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """One folder for each stage, or the folder itself where there was one stage alone."""
    for name, tree in params.items():
        stage = config["stages"][name]
        pite.save_stage(pathlib.Path(folder) / ("" if config["single"] else stage["folder"]), stage, tree)
