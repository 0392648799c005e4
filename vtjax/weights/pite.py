"""Training stages of PiTe (arXiv 2409.07239) and VTimeLLM: a LoRA adapter, the visual adapter, the point heads.

A stage is a folder: adapter_config.json with adapter_model.*, and vision_adapter.*, mm_projector.* (VTimeLLM's name of
the visual adapter) or non_lora_trainables.*, each .bin or .safetensors. Prefixes of names vary; what follows the
module's name does not.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vtjax.config import from_dict, to_dict
from vtjax.errors import VtjaxError
from vtjax.nn.lora import LoraConfig
from vtjax.trees import flatten, unflatten
from vtjax.weights import peft, report
from vtjax.weights.files import open_weights, read_json
from vtjax.weights.layout import Loaded, Options
from vtjax.weights.safetensors_io import write_safetensors
from vtjax.weights.source import Source
from vtjax.weights.tables import Shape

HEADS = ("vision_adapter", "localization_projector", "trajectory_projector")
_ALIASES = {"mm_projector": "vision_adapter"}
_HEAD_FILES = ("vision_adapter", "mm_projector", *{pathlib.PurePath(f).stem for f in peft.EXTRAS_FILES})
_MODULE = rf"(?:.*\.)?(?P<head>{'|'.join([*HEADS, *_ALIASES])})"
# peft keeps the weights of a module that it wraps in base_layer, and those of one that it trains in modules_to_save.
_WEIGHT = re.compile(_MODULE + r"(?:\.base_layer|\.modules_to_save(?:\.\w+)?)?\.(?P<leaf>weight|bias)")
_FACTOR = re.compile(_MODULE + r"\.lora_(?P<side>[AB])(?:\.\w+)?\.weight")
_BEFORE = re.compile(_MODULE + r"\.original_module\.(weight|bias)")
_LLAVA = re.compile(r"(?:.*\.)?mm_projector\.\d+\.(weight|bias)")


@dataclasses.dataclass(frozen=True)
class Stage:
    """Holds one training stage.

    Attributes:
      params: `lora` (`vtjax.nn.lora`) and heads {kernel [in, out], bias}, each where the stage has it.
      config: what `save_stage` needs.
      rest: tensors that are neither.
      dropped: as in `MatchReport`.
      merged: heads that adapters were merged into.
    """

    params: dict[str, Any]
    config: dict[str, Any]
    matched: tuple[str, ...]
    rest: tuple[str, ...]
    dropped: tuple[tuple[str, str], ...]
    merged: tuple[str, ...]


def stage_folders(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Finds the stages: the folder itself, or its subfolders whose names end in stage1, stage2, ...; {} if neither.

    Raises:
      VtjaxError: two subfolders of one stage.
    """
    if _has_heads(folder):
        number = re.search(r"stage\d+$", folder.name)
        return {number[0] if number else "stage": folder}
    stages: dict[str, pathlib.Path] = {}
    for inner in sorted(f for f in folder.iterdir() if f.is_dir()):
        number = re.search(r"stage\d+$", inner.name)
        if number and (_has_heads(inner) or (inner / peft.CONFIG_FILE).is_file()):
            if number[0] in stages:
                raise VtjaxError(f"{folder}: both {stages[number[0]].name} and {inner.name} are {number[0]}; keep one")
            stages[number[0]] = inner
    return stages


def load_stage(folder: pathlib.Path, base: Mapping[str, Any] | None) -> Stage:
    """Loads one stage.

    Args:
      base: shapes of the language model's parameters, needed where the stage has an adapter.

    Raises:
      VtjaxError: as `peft.load_peft`; a head twice with different numbers, without its weight or bias, of a shape that
        does not go with the language model, or one of LLaVA-1.5, which is another network.
    """
    params: dict[str, Any] = {}
    config: dict[str, Any] = {"folder": folder.name, "places": {}}
    tensors: dict[str, tuple[str, str, np.ndarray]] = {}
    matched: list[str] = []
    if (folder / peft.CONFIG_FILE).is_file():
        adapter = peft.load_peft(folder, base)
        params["lora"] = adapter.tree
        config |= {"lora": to_dict(adapter.config), "base": adapter.settings.get("base_model_name_or_path")}
        matched += [f"{path}[{i}]" for path, x in flatten(adapter.tree).items() for i in range(len(x))]
        tensors = {name: (*adapter.places[name], value) for name, value in adapter.extras.items()}
    for file, name, value in _beside(folder, "lora" in params):
        _add(tensors, file, name, value, folder)
    heads, factors, rest, dropped = {}, {}, [], []
    for name, (file, published, value) in tensors.items():
        if _LLAVA.fullmatch(name):
            raise VtjaxError(f"{folder / file}: {published} is a projector of LLaVA-1.5, an MLP on patch features; "
                             "expected one linear layer, mm_projector.weight and mm_projector.bias")  # fmt: skip
        if match := _WEIGHT.fullmatch(name):
            path = f"{_ALIASES.get(match['head'], match['head'])}/{'kernel' if match['leaf'] == 'weight' else 'bias'}"
            if path in heads:
                raise VtjaxError(f"{folder}: {published} and {config['places'][path][1]} are the same parameter")
            heads[path], config["places"][path] = value, [pathlib.PurePath(file).stem, published]
            matched.append(name)
        elif match := _FACTOR.fullmatch(name):
            factors[_ALIASES.get(match["head"], match["head"]), match["side"]] = name, value
        elif _BEFORE.fullmatch(name):
            dropped.append((name, "a head as it was before training"))
        else:
            rest.append(name)
    _check(heads, base, str(folder))
    merged = _merge(heads, factors, config, str(folder))
    dropped += [(name, "an adapter of a head, merged into it") for name, _ in factors.values()]
    if not heads and "lora" not in params:
        raise VtjaxError(f"{folder}: neither an adapter nor one of {', '.join(HEADS)}")
    params |= unflatten({path: x.T if path.endswith("kernel") else x for path, x in heads.items()})
    return Stage(params, config, tuple(matched), tuple(rest), tuple(dropped), merged)


def save_stage(folder: pathlib.Path, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Writes the folder that `load_stage` read, in safetensors."""
    files: dict[str, dict[str, np.ndarray]] = {}
    for path, value in flatten({n: x for n, x in params.items() if n != "lora"}).items():
        file, name = config["places"].get(path) or ["non_lora_trainables", _default_name(path)]
        files.setdefault(file, {})[name] = np.asarray(value).T if path.endswith("kernel") else np.asarray(value)
    if "lora" in params:
        extras = files.pop("adapter_model", None)
        lora = from_dict(LoraConfig, dict(config["lora"]))
        peft.save_peft(folder, lora, params["lora"], config.get("base"), extras=extras)
    for file, tensors in files.items():
        write_safetensors(folder / f"{file}.safetensors", tensors)


def _has_heads(folder: pathlib.Path) -> bool:
    return any((folder / f"{stem}{suffix}").is_file() for stem in _HEAD_FILES for suffix in (".bin", ".safetensors"))


def _beside(folder: pathlib.Path, with_extras: bool) -> Iterator[tuple[str, str, np.ndarray]]:
    """(file, bare name, tensor) of the files of heads that the adapter's reader has not read."""
    read = {pathlib.PurePath(f).stem for f in peft.EXTRAS_FILES} if with_extras else set()
    for stem in _HEAD_FILES:
        files = [f"{stem}{s}" for s in (".safetensors", ".bin") if (folder / f"{stem}{s}").is_file()]
        if files and stem not in read:
            for name, value in open_weights(folder / files[0]).items():
                yield files[0], name, value


def _add(
    tensors: dict[str, tuple[str, str, np.ndarray]], file: str, published: str, value: np.ndarray, folder: pathlib.Path
) -> None:
    name = peft.bare_name(published)
    if name in tensors:
        held, _, other = tensors[name]
        if value.dtype != other.dtype or value.shape != other.shape or value.tobytes() != other.tobytes():
            raise VtjaxError(f"{folder}: {name} differs between {held} and {file}; remove the one that is not meant")
    tensors[name] = file, published, value


def _check(heads: Mapping[str, np.ndarray], base: Mapping[str, Any] | None, where: str) -> None:
    """Refuses parts of heads; each has the language model's width on its side; points are pairs of coordinates."""
    width = flatten(base)["norm/scale"].shape[0] if base is not None else None
    expected: dict[str, Any] = {}
    for head in dict.fromkeys(path.split("/")[0] for path in heads):
        kernel = heads.get(f"{head}/kernel")
        out, inputs = kernel.shape if kernel is not None and kernel.ndim == 2 else (0, 0)
        if head == "vision_adapter":
            out = width or out
        else:
            inputs, out = width or inputs, 2 if head == "localization_projector" else max(2, out - out % 2)
        expected |= {f"{head}/kernel": Shape((out, inputs)), f"{head}/bias": Shape((out,))}
    report.match(expected, heads).raise_if_incomplete(source=where)


def _merge(
    heads: dict[str, np.ndarray], factors: Mapping[Any, Any], config: Mapping[str, Any], where: str
) -> tuple[str, ...]:
    """Adds adapters of heads into the heads' kernels in float32, as `vtjax.nn.lora.merge`."""
    merged = tuple(dict.fromkeys(head for head, _ in factors))
    for head in merged:
        sides = [factors.get((head, side)) for side in "AB"]
        if None in sides or f"{head}/kernel" not in heads:
            raise VtjaxError(f"{where}: an adapter of {head} without its lora_A, its lora_B or the layer's own weight")
        scale = from_dict(LoraConfig, dict(config["lora"])).scale
        (_, a), (_, b) = sides
        kernel = heads[f"{head}/kernel"]
        total = kernel.astype(np.float32) + scale * (b.astype(np.float32) @ a.astype(np.float32))
        heads[f"{head}/kernel"] = total.astype(kernel.dtype)
    return merged


def _default_name(path: str) -> str:
    head, leaf = path.split("/")
    return f"{peft.PREFIX}model.{head}.{'weight' if leaf == 'kernel' else 'bias'}"



def detect(source: Source) -> bool:
    """Says whether it has a visual adapter or point heads beside an adapter, or folders of stages."""
    return source.path.is_dir() and bool(stage_folders(source.path))


def load(source: Source, options: Options) -> Loaded:
    """Loads {"stage1": {"lora": ..., "vision_adapter": ..., ...}, ...}, float32 unless another type is asked for."""
    folders = stage_folders(source.path) if source.path.is_dir() else {}
    if not folders:
        raise VtjaxError(f"{source.path}: not a folder of a training stage of PiTe or VTimeLLM, nor of several")
    if options.allow.missing:
        raise VtjaxError("--allow_missing: a stage is whole or not one; there is nothing to start it from")
    dtype = np.dtype(options.dtype or "float32")
    bases: dict[Any, Any] = {}
    params, stages, matched, unused, dropped, notes, types = {}, {}, [], [], [], [], set()
    for name, folder in folders.items():
        base, file = None, folder / peft.CONFIG_FILE
        if options.base or file.is_file():
            named = options.base or read_json(file).get("base_model_name_or_path")
            if named not in bases:
                bases[named] = peft.base_shapes(named, options, str(file))
            base = bases[named]
        stage = load_stage(folder, base)
        flat = flatten(stage.params)
        types |= {x.dtype.name for path, x in flat.items() if not path.startswith("lora/")}
        params[name] = unflatten({path: x.astype(dtype) for path, x in flat.items()})
        stages[name] = stage.config
        matched += [f"{name}/{x}" for x in stage.matched]
        unused += [f"{name}/{x}" for x in stage.rest]
        dropped += [(f"{name}/{x}", why) for x, why in stage.dropped]
        notes += [f"{name}: the adapter of {head} was merged into it" for head in stage.merged]
    result = report.MatchReport(tuple(matched), tuple(unused), (), (), tuple(dropped))
    result.raise_if_incomplete(allow_unused=options.allow.unused, source=str(source.path))
    single = list(folders.values()) == [source.path]
    published = types.pop() if len(types) == 1 else ""
    return Loaded(params, {"stages": stages, "single": single}, result, published, tuple(notes))


def save(folder: Any, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Writes one folder for each stage, or the folder itself where there was one stage alone."""
    for name, tree in params.items():
        stage = config["stages"][name]
        save_stage(pathlib.Path(folder) / ("" if config["single"] else stage["folder"]), stage, tree)
