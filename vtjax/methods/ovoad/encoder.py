"""Opens the frozen pretrained encoder of a run: that of the recipe's own stage, or weights that are named."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax.numpy as jnp

from vtjax.config import Experiment
from vtjax.encoders import clip
from vtjax.encoders.frames import FrameEncoder, feature_width
from vtjax.encoders.image import ImageTransform
from vtjax.encoders.sizes import load_sizes, sizes_of
from vtjax.errors import VtjaxError
from vtjax.methods.ovoad.config import OvoadConfig
from vtjax.nn.clip import ClipConfig as Sizes

PRETRAIN = "pretrain"  # the stage that trains one; its folder in the work directory is laid out as a clip run


def has_stage(config: OvoadConfig) -> bool:
    """Whether the recipe trains an encoder of its own."""
    return not config.encoder.weights and config.data.source == "world"


def encoder_sizes(config: OvoadConfig) -> Sizes:
    """Reads the sizes of the encoder, without its weights where the configuration says them.

    Raises:
      VtjaxError: sizes that do not go together, or other features than the model is wide.
    """
    assets = pathlib.Path(config.encoder.weights).expanduser() / "assets"
    sizes = load_sizes(assets) if config.encoder.weights and assets.is_dir() else sizes_of(config.encoder.clip)
    width = feature_width(sizes, config.encoder.feature)
    if width != config.model.width:
        raise VtjaxError(
            f"config.method.model.width={config.model.width}, but the encoder's features "
            f"({config.encoder.feature}) have {width} values"
        )
    return sizes


def open_encoder(experiment: Experiment, work: pathlib.Path, dtype: Any = jnp.float32) -> FrameEncoder | None:
    """Opens the encoder of a run; None where features come prepared and no weights are named.

    Raises:
      VtjaxError: the stage `pretrain` is not there yet, no readable weights, or sizes other than the configured ones.
    """
    config = experiment.method
    settings = config.encoder
    if not settings.weights:
        if not has_stage(config):
            return None
        return FrameEncoder(clip.open_encoder(work / PRETRAIN, dtype=dtype), settings.feature)
    model = settings.clip.model
    encoder = clip.open_encoder(
        settings.weights, settings.which, vocabulary=settings.clip.text.vocabulary, activation=model.activation,
        dtype=dtype,
    )  # fmt: skip
    planned = encoder_sizes(config)
    if encoder.sizes != planned:
        raise VtjaxError(
            f"config.method.encoder.weights={settings.weights!r} has {encoder.sizes}; "
            f"config.method.encoder.clip describes {planned}"
        )
    if not (pathlib.Path(settings.weights).expanduser() / "assets").is_dir():
        # OV-OAD's features are of frames squashed to a square (docs/methods/ovoad.md).
        encoder = dataclasses.replace(encoder, image=ImageTransform(planned.vision.image_size, "squash"))
    return FrameEncoder(encoder, settings.feature)
