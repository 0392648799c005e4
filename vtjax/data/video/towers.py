"""Towers whose features `vtjax.prepare --features` keeps instead of frames: named ones, and any function.

    clip_embeddings   CLIP's joint space, unit norm (512 numbers for ViT-B)
    clip_states       the class token after the last norm, before the projection (768), OV-OAD's features
    module:function   a function of uint8 [batch, H, W, 3] (RGB) that gives floats [batch, ...]; where --weights is
                      given, a function of that string which gives such a function

A tower may have two attributes. `pixels`: its own uint8 [H, W, 3] -> uint8 [h, w, 3], which takes the place of
resizing where --size=0. `fingerprint`: of its weights; shards made with others are not mixed with its own.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vtjax.errors import VtjaxError, nearest
from vtjax.trees import flatten

Tower = Callable[[np.ndarray], Any]
NAMED = {"clip_embeddings": "embeddings", "clip_states": "states"}


@functools.lru_cache(maxsize=1)
def load_tower(name: str, weights: str = "") -> Tower:
    """The tower of that name, see above; opened once for all shards of a process.

    Raises:
      VtjaxError: there is none, or its weights cannot be read.
    """
    if name in NAMED:
        if not weights:
            raise VtjaxError(
                f"--features={name} needs --weights: a folder, file or hub id of a published CLIP, a folder of "
                "`python -m vtjax.convert`, or a run of configs/clip.py"
            )
        return ClipTower(weights, NAMED[name])
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise VtjaxError(f"--features={name}: {nearest(name, NAMED)} Or module:function, for example my_towers:s3d")
    try:
        tower: Any = importlib.import_module(module)
        for part in attribute.split("."):
            tower = getattr(tower, part)
    except (ImportError, AttributeError) as error:
        raise VtjaxError(f"--features={name}: {error}") from error
    if callable(tower) and weights:
        tower = _opened(tower, name, weights)
    if not callable(tower):
        raise VtjaxError(f"--features={name}: is not a function")
    return tower


def _opened(function: Callable, name: str, weights: str) -> Any:
    try:
        return function(weights)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise VtjaxError(f"--features={name}: failed on --weights={weights}: {what}") from error


class ClipTower:
    """Single frames through the vision tower at `weights`, as encoders.clip.open_encoder reads them.

    what: "embeddings" or "states".
    """

    def __init__(self, weights: str, what: str):
        import jax
        import jax.numpy as jnp

        from vtjax.encoders.clip import open_encoder

        dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
        self.encoder, self.what = open_encoder(weights, dtype=dtype), what
        self.fingerprint = _digest(self.encoder.params["vision"])

    def pixels(self, frame: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] as the model was trained with."""
        return self.encoder.image.pixels(frame)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> float32 [N, D]."""
        if frames.ndim != 4:
            raise VtjaxError("CLIP sees one frame at a time; leave --frames_per_feature at 1")
        return getattr(self.encoder.frames(frames), self.what)


def _digest(params: Mapping[str, Any]) -> str:
    """sha256 of a tree of arrays, by name."""
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten(params).items(), key=lambda item: item[0].split("/")):
        array = np.ascontiguousarray(leaf)
        digest.update(f"/{name} {array.dtype} {array.shape}".encode())
        digest.update(array.view(np.uint8).reshape(-1).data)
    return digest.hexdigest()
