"""Frames to the features that a model of videos reads: what a frozen CLIP's vision tower gives, one frame at a time."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtjax.encoders.clip import BATCH, Encoder
from vtjax.evals.embed import in_batches
from vtjax.nn.clip import ClipConfig as Sizes
from vtjax.nn.vit import VisionTower


class FrameEncoder:
    """Frames to features of `width` values. feature: "class_token", after the last norm and before the projection, or
    "embedding", after it."""

    def __init__(self, encoder: Encoder, feature: str = "class_token"):
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
        rows = (self.pixels(np.asarray(frame)) for frame in frames)
        first = next(rows, None)
        if first is None:
            return np.zeros((0, self.width), np.float32)
        return in_batches(self._apply, self.params["vision"], itertools.chain([first], rows), np.stack, BATCH)

    def classes(self, prompts: Sequence[Sequence[str]]) -> np.ndarray:
        """Prompts of each of C classes -> float32 [C, Ec], unit: the mean of their embeddings."""
        return self.encoder.classes(prompts)


def feature_width(sizes: Sizes, feature: str) -> int:
    """Values of a frame's features."""
    return sizes.vision.width if feature == "class_token" else sizes.embed_dim
