"""The towers' sizes of a configuration or of a run, and published weights for them."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from vtjax.config import from_dict
from vtjax.encoders.clip_config import ClipConfig, tokenizer_of
from vtjax.encoders.image import ImageTransform
from vtjax.errors import VtjaxError
from vtjax.files import write_atomically
from vtjax.nn import clip as towers
from vtjax.nn.vit import VisionConfig, stack_layers, unstack_layers
from vtjax.text.tokenizer import SEP
from vtjax.training.checkpoint import load_params
from vtjax.weights.clip import load_clip
from vtjax.weights.clip_settings import config_from_hf
from vtjax.weights.hub import local_folder
from vtjax.weights.store import CARRIED

# What a run of contrastive pretraining leaves in its work directory; it then works without the files it started from.
STAGE = "train"  # its only stage
FILE = "towers.json"  # in its assets, beside the tokenizer


def sizes_of(config: ClipConfig) -> towers.ClipConfig:
    """Gives the sizes as published, of a preset, or of the configuration's own numbers.

    Raises:
      VtjaxError: unknown preset, no readable model, or sizes that do not go together.
    """
    model, text = config.model, config.text
    if model.pretrained:
        sizes = published_sizes(model.pretrained, model.activation)
    elif model.preset:
        sizes = towers.clip_config(model.preset)
    else:
        vision = VisionConfig(**dataclasses.asdict(model.vision), activation="gelu")
        numbers = dataclasses.asdict(model.text)
        own = towers.TextConfig(text.vocab_size, text.max_tokens, **numbers, activation="gelu")
        sizes = towers.ClipConfig(model.embed_dim, vision, own)
    if tokenizer_of(config) == "words":
        # Words end with [SEP], whose id is not the largest.
        words = dataclasses.replace(
            sizes.text, vocab_size=text.vocab_size, context_length=text.max_tokens, eot_id=SEP
        )
        sizes = dataclasses.replace(sizes, text=words)
    if model.image_size:
        sizes = dataclasses.replace(sizes, vision=dataclasses.replace(sizes.vision, image_size=model.image_size))
    if model.temporal == "transformer" and sizes.embed_dim % model.temporal_heads:
        raise VtjaxError(
            f"config.method.model.temporal_heads={model.temporal_heads} does not divide the joint space of "
            f"{sizes.embed_dim} dimensions"
        )
    return sizes


def published_sizes(source: str | os.PathLike[str], activation: str = "") -> towers.ClipConfig:
    """Gives the sizes of a published CLIP, or of what vtjax.convert made of one, without its weights where a file tells
    them.

    Args:
      source: folder, file or hub id.
      activation: "gelu" or "quick_gelu" where the published file does not say it, else "".
    """
    path = pathlib.Path(source).expanduser()
    converted = _converted(path)
    if converted is not None:
        return from_dict(towers.ClipConfig, converted["config"], str(path / "config.json"))
    settings = path if path.is_file() else local_folder(source) / "config.json"
    if settings.name == "config.json" and settings.is_file():
        sizes = config_from_hf(json.loads(settings.read_text(encoding="utf-8")), str(settings))
        return towers.with_activation(sizes, activation) if activation else sizes
    return load_clip(source, activation=activation or None)[0]


def load_published(source: str | os.PathLike[str], activation: str = "") -> tuple[towers.ClipConfig, dict[str, Any]]:
    """Loads a published CLIP, or what vtjax.convert made of one; arguments as for `published_sizes`.

    Returns:
      Its sizes and its parameters, a nested dict with the layers one by one, not stacked.

    Raises:
      VtjaxError: none of these, or not readable.
    """
    path = pathlib.Path(source).expanduser()
    if _converted(path) is None:
        return load_clip(source, activation=activation or None)
    return published_sizes(path), unstack_layers(load_params(path / "checkpoints"))


def carried_of(source: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Where a published CLIP's tokenizer and preprocessor_config.json lie: beside its weights, or with what
    vtjax.convert carried along."""
    path = pathlib.Path(source).expanduser()
    return source if _converted(path) is None else path / CARRIED


def _converted(folder: pathlib.Path) -> dict[str, Any] | None:
    """What a folder of vtjax.convert says of itself; None where it is none.

    Raises:
      VtjaxError: a run, or converted weights that are not a CLIP's.
    """
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(values, dict) or not {"name", "kind"} & set(values):
        return None
    if "kind" not in values:
        raise VtjaxError(
            f"{folder}: a run of {values['name']!r}, where a published CLIP is expected (an encoder may also come from "
            "a run of configs/clip.py); config.train.initial starts from a run"
        )
    if values["kind"] != "clip":
        raise VtjaxError(f"{folder}: converted {values['kind']!r} weights; expected those of a CLIP")
    return values


def published_params(config: ClipConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces both towers and the scale in `params` by the published ones; what CLIP does not have stays as it is.

    Raises:
      VtjaxError: weights that do not fit exactly.
    """
    model = config.model
    sizes, weights = load_published(model.pretrained, model.activation)
    if model.image_size and model.image_size != sizes.vision.image_size:
        _, weights = towers.with_image_size(sizes, weights, model.image_size)
    if model.scan:
        weights = stack_layers(weights)
    if config.loss.name == "sigmoid":
        weights = {k: v for k, v in weights.items() if k != "logit_scale"}
    return {**params, **weights}


def save_sizes(sizes: towers.ClipConfig, resize: str, assets: pathlib.Path) -> None:
    """Keeps resolved sizes in a run's assets, and how frames are brought to them (ImageTransform.from_hf reads it)."""
    image = ImageTransform(sizes.vision.image_size, resize)
    write_atomically(assets / "preprocessor_config.json", json.dumps(image.to_hf(), indent=1) + "\n")
    write_atomically(assets / FILE, json.dumps(dataclasses.asdict(sizes), indent=1) + "\n")


def load_sizes(assets: pathlib.Path) -> towers.ClipConfig:
    """Reads what `save_sizes` wrote.

    Raises:
      VtjaxError: no such file, or a damaged one.
    """
    path = assets / FILE
    try:
        return from_dict(towers.ClipConfig, json.loads(path.read_text(encoding="utf-8")), str(path))
    except FileNotFoundError:
        raise VtjaxError(f"{path}: missing; vtjax.train writes it at its start") from None
    except (ValueError, TypeError) as error:
        raise VtjaxError(f"{path}: damaged ({error}); start the training again, it goes on") from error
