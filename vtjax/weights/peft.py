"""LoRA adapters in PEFT's layout (adapter_config.json and adapter_model.safetensors or .bin), in and out."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vtjax.config import from_dict, to_dict
from vtjax.errors import VtjaxError, nearest
from vtjax.nn.llama import LanguageModel
from vtjax.nn.lora import LoraConfig, kernel_dims
from vtjax.trees import flatten, unflatten
from vtjax.weights import llama, report
from vtjax.weights.files import open_weights, read_json, write_json
from vtjax.weights.hub import local_folder
from vtjax.weights.layout import Loaded, Options
from vtjax.weights.llama import MODULES
from vtjax.weights.safetensors_io import write_safetensors
from vtjax.weights.source import Source
from vtjax.weights.tables import Shape

CONFIG_FILE = "adapter_config.json"
TENSOR_FILES = ("adapter_model.safetensors", "adapter_model.bin")
EXTRAS_FILES = ("non_lora_trainables.safetensors", "non_lora_trainables.bin")
PREFIX = "base_model.model."  # what peft puts before the names of the wrapped model's modules

# "...q_proj.lora_A.weight"; a dump that was not written by peft's own saving names the adapter, as in
# "lora_A.default.weight".
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(\.\w+)?\.weight")
_LAYER = re.compile(r"(?:.*\.)?layers\.(?P<layer>\d+)\.(?P<rest>.+)")
# Settings that change what an adapter computes and that the low-rank layers here do not have.
_PLAIN = {
    "fan_in_fan_out": False,
    "use_dora": False,
    "lora_bias": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "layer_replication": None,
    "alora_invocation_tokens": None,
    "use_qalora": False,
    "use_bdlora": None,
    "trainable_token_indices": None,
    "target_parameters": None,
}
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq")  # initialisations that also change the base weights


@dataclasses.dataclass(frozen=True)
class PeftAdapter:
    """Holds what an adapter folder has.

    Attributes:
      config, tree: as `vtjax.nn.lora` takes them, factors float32.
      extras: every other tensor of the folder under its published name without "base_model." (projectors and heads that
        were trained beside the adapter, modules_to_save, factors of modules outside the base's layers).
      settings: adapter_config.json.
      places: name in `extras` -> (file, name in it).
    """

    config: LoraConfig
    tree: dict[str, Any]
    extras: dict[str, np.ndarray]
    settings: dict[str, Any]
    places: dict[str, tuple[str, str]]


def load_peft(folder: str | os.PathLike[str], base: Mapping[str, Any]) -> PeftAdapter:
    """Loads an adapter from the folder that peft's `save_pretrained` wrote.

    Args:
      base: parameters (arrays or shapes) of the LLaMA that it is for.

    Raises:
      VtjaxError: a damaged file, another kind of adapter than plain LoRA, half a pair of factors, a layer that is
        missing or of another size than the base's. The tensors are named.
    """
    folder = pathlib.Path(folder)
    settings = read_json(folder / CONFIG_FILE)
    where = str(folder / CONFIG_FILE)
    _check_settings(settings, where)
    factors: dict[str, dict[int, np.ndarray]] = {}
    extras: dict[str, np.ndarray] = {}
    places: dict[str, tuple[str, str]] = {}
    ours = {theirs: name for name, theirs in MODULES.items()}
    for file, name, value in _tensors(folder):
        match = _FACTOR.fullmatch(name)
        layer = _LAYER.fullmatch(match["module"]) if match else None
        if layer and layer["rest"] in ours:
            path = f"layers/{ours[layer['rest']]}/{match['side'].lower()}"
            factors.setdefault(path, {})[int(layer["layer"])] = value
        else:
            extras[bare_name(name)], places[bare_name(name)] = value, (file, name)
    if not factors:
        raise VtjaxError(f"{folder}: no LoRA factors of {', '.join(MODULES.values())}")
    tree = _tree(factors, base, settings["r"], str(folder))
    return PeftAdapter(_config(settings, factors), tree, extras, settings, places)


def save_peft(
    folder: str | os.PathLike[str],
    config: LoraConfig,
    tree: Mapping[str, Any],
    base_model_name: str | None = None,
    extras: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes a folder that `peft.PeftModel.from_pretrained` puts on a LLaMA causal language model.

    Args:
      tree: factors, written in their dtype. extras: tensors to write beside them, under their published names.

    Raises:
      VtjaxError: factors of a module without a published name.
    """
    tensors = {}
    targets = set()
    for path, value in flatten(tree).items():
        module, side = path.removeprefix("layers/").rsplit("/", 1)
        if module not in MODULES:
            raise VtjaxError(f"{path}: no published name for this module; {nearest(module, MODULES)}")
        targets.add(MODULES[module].rsplit(".", 1)[-1])
        for i, factor in enumerate(np.asarray(value)):
            # a: [*inputs, r] -> (r, in); b: [r, *outputs] -> (out, r)
            matrix = factor.reshape(-1, config.rank) if side == "a" else factor.reshape(config.rank, -1)
            tensors[f"{PREFIX}model.layers.{i}.{MODULES[module]}.lora_{side.upper()}.weight"] = matrix.T
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model_name,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rslora,
        "target_modules": sorted(targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    folder = pathlib.Path(folder)
    write_safetensors(folder / TENSOR_FILES[0], {**tensors, **(extras or {})})
    write_json(folder / CONFIG_FILE, settings)


def _check_settings(settings: Mapping[str, Any], where: str) -> None:
    if settings.get("peft_type") != "LORA":
        raise VtjaxError(f"{where}: peft_type {settings.get('peft_type')!r}; only 'LORA' adapters are supported")
    lost = [key for key in ("r", "lora_alpha") if key not in settings]
    if lost:
        raise VtjaxError(f"{where}: no {' and no '.join(lost)}")
    for key, plain in _PLAIN.items():
        if (settings.get(key) or plain) != plain:
            raise VtjaxError(f"{where}: {key} {settings[key]!r} is not supported; expected {plain!r}")
    if settings.get("bias", "none") != "none":
        raise VtjaxError(f"{where}: bias {settings['bias']!r} is not supported; expected 'none'")
    init = settings.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_CHANGES_BASE):
        raise VtjaxError(
            f"{where}: init_lora_weights {init!r} also changes the base weights; convert it to a plain adapter in peft "
            "(save_pretrained with path_initial_model_for_weight_conversion) first"
        )


def _tensors(folder: pathlib.Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """(file, name, tensor) of the adapter, and of what was trained beside it."""
    files = [name for name in TENSOR_FILES if (folder / name).is_file()]
    if not files:
        raise VtjaxError(f"{folder}: no adapter weights; expected {' or '.join(TENSOR_FILES)}")
    beside = [name for name in EXTRAS_FILES if (folder / name).is_file()]
    for file in files[:1] + beside[:1]:
        for name, value in open_weights(folder / file).items():
            yield file, name, value


def bare_name(name: str) -> str:
    """Gives the name in the model that peft wrapped; a wrapped language model starts at "model." once."""
    name = name.removeprefix("base_model.")
    return name.removeprefix("model.") if name.startswith("model.model.") else name


def _config(settings: Mapping[str, Any], factors: Mapping[str, Any]) -> LoraConfig:
    names = sorted({path.removeprefix("layers/").rsplit("/", 1)[0] for path in factors})
    return LoraConfig(
        rank=settings["r"],
        alpha=float(settings["lora_alpha"]),
        dropout=float(settings.get("lora_dropout") or 0.0),
        targets=rf"layers/({'|'.join(map(re.escape, names))})/kernel",
        rslora=bool(settings.get("use_rslora", False)),
    )


def _tree(
    factors: Mapping[str, Mapping[int, np.ndarray]], base: Mapping[str, Any], rank: int, where: str
) -> dict[str, Any]:
    """Factors stacked over layers, turned and with heads apart, after comparing every one with the base."""
    flat = flatten(base)
    expected: dict[str, Any] = {}
    published: dict[str, Any] = {}
    places: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {}
    for module in sorted({path.rsplit("/", 1)[0] for path in factors}):
        kernel = module + "/kernel"
        if kernel not in flat:
            raise VtjaxError(f"{where}: adapter for {kernel}, which the base does not have; {nearest(kernel, flat)}")
        stack, inputs, outputs = places[module] = kernel_dims(kernel, flat[kernel].shape)
        shapes = {"a": (rank, int(np.prod(inputs))), "b": (int(np.prod(outputs)), rank)}
        for side, shape in shapes.items():
            for i in range(stack[0]):
                expected[f"layer {i} {module}/{side}"] = Shape(shape)
            for i, value in factors.get(f"{module}/{side}", {}).items():
                published[f"layer {i} {module}/{side}"] = value
    report.match(expected, published).raise_if_incomplete(source=where)
    tree = {}
    for module, (stack, inputs, outputs) in places.items():
        shaped: dict[str, tuple[int, ...]] = {"a": (*inputs, rank), "b": (rank, *outputs)}
        for side, full in shaped.items():
            layers = [np.asarray(factors[f"{module}/{side}"][i], np.float32).T.reshape(full) for i in range(stack[0])]
            tree[f"{module}/{side}"] = np.stack(layers)
    return unflatten(tree)


def detect(source: Source) -> bool:
    """Says whether it is a folder with an adapter_config.json."""
    return source.path.is_dir() and (source.path / CONFIG_FILE).is_file()


def load(source: Source, options: Options) -> Loaded:
    """Loads the adapter's tree (`vtjax.nn.lora`); tensors beside it (projectors) must be named to be left out."""
    if not detect(source):
        raise VtjaxError(f"{source.path}: not a folder with an {CONFIG_FILE}")
    if options.allow.missing:
        raise VtjaxError("--allow_missing: an adapter is whole or not one; there is nothing to start it from")
    name = read_json(source.path / CONFIG_FILE).get("base_model_name_or_path")
    adapter = load_peft(source.path, base_shapes(name, options, str(source.path / CONFIG_FILE)))
    flat = flatten(adapter.tree)
    matched = tuple(f"{path}[{i}]" for path, x in flat.items() for i in range(len(x)))
    result = report.MatchReport(matched, tuple(adapter.extras), (), ())
    result.raise_if_incomplete(allow_unused=options.allow.unused, source=str(source.path))
    dtype = np.dtype(options.dtype or "float32")
    tree = unflatten({path: x.astype(dtype) for path, x in flat.items()})
    return Loaded(tree, {"base_model_name_or_path": name, "lora": to_dict(adapter.config)}, result)


def base_shapes(name: str | None, options: Options, where: str) -> dict[str, Any]:
    """Gives the shapes of the language model that an adapter is for, from its config.json alone.

    The model is --base, or what the adapter names.

    Raises:
      VtjaxError: neither names one, or its config.json cannot be read.
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
    """Writes adapter_config.json and adapter_model.safetensors."""
    save_peft(folder, from_dict(LoraConfig, dict(config["lora"])), params, config["base_model_name_or_path"])
