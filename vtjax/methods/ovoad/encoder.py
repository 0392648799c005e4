"""The frozen pretrained encoder of a run: frames to the features that the model reads, class names to embeddings."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtjax.config import Experiment
from vtjax.encoders import clip as clip
from vtjax.encoders.image import ImageTransform
from vtjax.errors import VtjaxError
from vtjax.methods.clip.sizes import load_sizes, sizes_of
from vtjax.methods.ovoad.config import OvoadConfig
from vtjax.nn.clip import ClipConfig as Sizes
from vtjax.nn.vit import VisionTower
from vtjax.text.tokenizer import Tokenizer

PRETRAIN = "pretrain"  # the stage that trains one; its folder in the work directory is laid out as a clip run
_FRAMES = 64  # batch size


class FrameEncoder:
    """Frames to features of `width` values. feature: "class_token", after the last norm and before the projection, or
    "embedding", after it."""

    def __init__(self, encoder: clip.Encoder, feature: str = "class_token"):
        self.encoder, self.feature = encoder, feature
        self._tower = VisionTower(encoder.sizes.vision, encoder.sizes.embed_dim, encoder.dtype)
        self._apply = jax.jit(self.apply)

    @property
    def sizes(self) -> Sizes:
        return self.encoder.sizes

    @property
    def params(self) -> Any:
        """Of both towers, as nn.clip.Clip has them."""
        return self.encoder.params

    @property
    def image_size(self) -> int:
        """Pixels, both sides."""
        return self.sizes.vision.image_size

    @property
    def width(self) -> int:
        return feature_width(self.sizes, self.feature)

    @functools.cached_property
    def projection(self) -> np.ndarray:
        """float32 [width, Ec], from features into the encoder's joint space."""
        if self.feature == "embedding":
            return np.eye(self.sizes.embed_dim, dtype=np.float32)
        return np.asarray(self.params["vision"]["projection"]["kernel"], np.float32)

    @property
    def scale(self) -> float:
        """Factor on the encoder's cosines, as learnt."""
        return float(min(np.exp(np.asarray(self.params["logit_scale"])), 100.0))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the vision tower and of what is taken from it."""
        digest = hashlib.sha256(repr((self.sizes.vision, self.feature, self.encoder.image)).encode())
        for leaf in jax.tree.leaves(self.params["vision"]):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()

    def pixels(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [..., H, W, 3], RGB -> uint8 [..., size, size, 3], what `apply` takes."""
        return self.encoder.image.pixels(frames)

    def apply(self, params: Any, pixels: jax.Array) -> jax.Array:
        """uint8 [B, size, size, 3] -> float32 [B, width]; pure, `params` are those of the vision tower."""
        out = self._tower.apply({"params": params}, self.encoder.image.normalise(pixels))
        return (out.class_token if self.feature == "class_token" else out.embedding).astype(jnp.float32)

    def features(self, frames: np.ndarray | Iterable[np.ndarray]) -> np.ndarray:
        """uint8 [n, H, W, 3], RGB, of any size -> float32 [n, width]."""
        rows: list[np.ndarray] = []
        parts = [np.zeros((0, self.width), np.float32)]
        for frame in frames:
            rows.append(self.pixels(np.asarray(frame)))
            if len(rows) == _FRAMES:
                parts.append(np.asarray(self._apply(self.params["vision"], np.stack(rows))))
                rows = []
        if rows:
            filled = np.stack(rows + [rows[-1]] * (_FRAMES - len(rows)))
            parts.append(np.asarray(self._apply(self.params["vision"], filled))[: len(rows)])
        return np.concatenate(parts)

    def classes(self, prompts: Sequence[Sequence[str]]) -> np.ndarray:
        """Prompts of each of C classes -> float32 [C, Ec], unit: the mean of their embeddings."""
        return self.encoder.classes(prompts)


def feature_width(sizes: Sizes, feature: str) -> int:
    """Values of a frame's features."""
    return sizes.vision.width if feature == "class_token" else sizes.embed_dim


def has_stage(config: OvoadConfig) -> bool:
    """Whether the recipe trains an encoder of its own."""
    return not config.encoder.weights and config.data.source == "world"


def encoder_sizes(config: OvoadConfig) -> Sizes:
    """Sizes of the encoder, without its weights where the configuration says them.

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
    """The encoder of a run; None where features come prepared and no weights are named.

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
    found = clip.open_encoder(
        settings.weights, settings.which, vocabulary=settings.clip.text.vocabulary, activation=model.activation,
        dtype=dtype,
    )  # fmt: skip
    planned = encoder_sizes(config)
    if found.sizes != planned:
        raise VtjaxError(
            f"config.method.encoder.weights={settings.weights!r} has {found.sizes}; "
            f"config.method.encoder.clip describes {planned}"
        )
    if not (pathlib.Path(settings.weights).expanduser() / "assets").is_dir():
        # OV-OAD's features are of frames squashed to a square (ovoad.md section 1).
        found = dataclasses.replace(found, image=ImageTransform(planned.vision.image_size, "squash"))
    return FrameEncoder(found, settings.feature)


def tokenizer_of(encoder: FrameEncoder) -> Tokenizer:
    """The tokenizer of the encoder's text tower.

    Raises:
      VtjaxError: published weights that came without one.
    """
    if encoder.encoder.tokenizer is None:
        raise VtjaxError(f"{encoder.encoder.why_none}; name one by config.method.encoder.clip.text.vocabulary")
    return encoder.encoder.tokenizer
