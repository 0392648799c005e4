"""The towers' sizes of a configuration, and published weights for them."""

from __future__ import annotations

import dataclasses
import json
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

FILE = "towers.json"  # in a run's assets: it then works without the files it started from


def sizes_of(config: ClipConfig) -> towers.ClipConfig:
    """Sizes as published, of a preset, or of the configuration's own numbers.

    Raises:
      VtjaxError: unknown preset, no readable model, or sizes that do not go together.
    """
    model, text = config.model, config.text
    if model.pretrained:
        sizes = _published_sizes(model.pretrained, model.activation or None)
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


def _published_sizes(source: str, activation: str | None) -> towers.ClipConfig:
    from vtjax.weights.clip import load_clip
    from vtjax.weights.clip_settings import config_from_hf
    from vtjax.weights.hub import local_folder

    path = pathlib.Path(source).expanduser()
    kept = _described(path)
    if kept is not None:
        return from_dict(towers.ClipConfig, kept["config"], str(path / "config.json"))
    settings = path if path.is_file() else local_folder(source) / "config.json"
    if settings.name == "config.json" and settings.is_file():
        sizes = config_from_hf(json.loads(settings.read_text(encoding="utf-8")), str(settings))
        return sizes if activation is None else towers.with_activation(sizes, activation)
    return load_clip(source, activation=activation)[0]


def _described(folder: pathlib.Path) -> dict[str, Any] | None:
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
            f"config.method.model.pretrained={str(folder)!r} is a run of {values['name']!r}, not a published CLIP; "
            "config.train.initial starts from a run"
        )
    if values["kind"] != "clip":
        raise VtjaxError(f"config.method.model.pretrained={str(folder)!r} holds converted {values['kind']!r} weights")
    return values


def vocabulary_of(pretrained: str) -> str:
    """Where the tokenizer of `model.pretrained` lies: there, or with what vtjax.convert carried along."""
    from vtjax.weights.store import CARRIED

    path = pathlib.Path(pretrained).expanduser()
    return pretrained if _described(path) is None else str(path / CARRIED)


def published_params(config: ClipConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """`params` with both towers and the scale as published; what CLIP does not have stays as it is.

    Raises:
      VtjaxError: weights that do not fit exactly.
    """
    from vtjax.training.checkpoint import load_params
    from vtjax.weights.clip import load_clip

    model = config.model
    path = pathlib.Path(model.pretrained).expanduser()
    if _described(path) is not None:
        sizes, weights = _published_sizes(model.pretrained, None), unstack_layers(load_params(path / "checkpoints"))
    else:
        sizes, weights = load_clip(model.pretrained, activation=model.activation or None)
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
    """What `save_sizes` wrote.

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
