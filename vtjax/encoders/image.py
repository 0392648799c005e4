"""Frames to the input of CLIP's vision tower, as its models were trained (arXiv 2103.00020; transformers' image
processor): bicubic on bytes by PIL, centre crop, scaling to [0, 1], mean and deviation of CLIP's own data."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from vtjax.errors import VtjaxError
from vtjax.weights.clip_image import BICUBIC, image_processor
from vtjax.weights.clip_image import MEAN as CLIP_MEAN
from vtjax.weights.clip_image import STD as CLIP_STD

_RESIZE = ("shortest", "squash")
_CROP = ("floor", "round")


@dataclasses.dataclass(frozen=True)
class ImageTransform:
    """uint8 frames [..., H, W, 3] to float32 [..., size, size, 3].

    size: pixels. resize: the shorter side becomes `size` and the centre is cut out ("shortest"), or both sides become
    `size` whatever their ratio ("squash", as OV-OAD's features). crop: where an odd number of pixels is left over, the
    corner of the cut is rounded down ("floor", transformers) or to the even neighbour ("round", OpenAI's code through
    torchvision); they differ by one pixel for some sizes. mean, std: per channel, of values in [0, 1].
    """

    size: int = 224
    resize: str = "shortest"
    crop: str = "floor"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self) -> None:
        if self.size < 1 or self.resize not in _RESIZE or self.crop not in _CROP:
            raise VtjaxError(f"{self}: expected size of 1 or more, resize of {_RESIZE}, crop of {_CROP}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise VtjaxError(f"{self}: expected three means and three positive deviations")

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """`normalise` of `pixels`."""
        return self.normalise(self.pixels(frames))

    def pixels(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [..., H, W, 3], RGB -> uint8 [..., size, size, 3]: what a pipeline sends to the device.

        Raises:
          VtjaxError: another type than uint8, another shape, or an empty frame.
        """
        frames = np.asarray(frames)
        if frames.dtype != np.uint8 or frames.ndim < 3 or frames.shape[-1] != 3 or 0 in frames.shape[-3:]:
            raise VtjaxError(f"frames {frames.dtype} {frames.shape}; expected uint8 [..., height, width, 3], RGB")
        height, width = self._resized(*frames.shape[-3:-1])
        top, left = self._corner(height), self._corner(width)
        out = np.empty((*frames.shape[:-3], self.size, self.size, 3), np.uint8)
        for index in np.ndindex(frames.shape[:-3]):
            frame = frames[index]
            if frame.shape[:2] != (height, width):
                frame = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))
            out[index] = frame[top : top + self.size, left : left + self.size]
        return out

    def normalise(self, pixels: Any) -> Any:
        """uint8 [..., 3], a numpy or jax array -> float32 of the same shape: (pixels / 255 - mean) / std."""
        shape = (1,) * (pixels.ndim - 1) + (3,)
        mean, std = (np.asarray(v, np.float32).reshape(shape) for v in (self.mean, self.std))
        return (pixels.astype(np.float32) / np.float32(255) - mean) / std

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.resize == "squash":
            return self.size, self.size
        if height <= width:
            return self.size, int(self.size * width / height)
        return int(self.size * height / width), self.size

    def _corner(self, side: int) -> int:
        over = side - self.size
        return over // 2 if self.crop == "floor" else round(over / 2)

    def to_hf(self) -> dict[str, Any]:
        """The preprocessor_config.json that makes transformers' CLIPImageProcessor do the same."""
        return image_processor(self.size, self.resize, self.mean, self.std)

    @classmethod
    def from_hf(cls, folder: str | os.PathLike[str]) -> ImageTransform:
        """What the preprocessor_config.json of a CLIP folder describes.

        Raises:
          VtjaxError: no such file, or a step that is not CLIP's (another filter, no crop, sizes that differ).
        """
        path = pathlib.Path(folder) / "preprocessor_config.json"
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            return _from_settings(settings, str(path))
        except VtjaxError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise VtjaxError(f"{path}: not an image processor's settings ({type(error).__name__}: {error})") from error


def _from_settings(settings: Mapping[str, Any], where: str) -> ImageTransform:
    skipped = [s for s in ("do_resize", "do_center_crop", "do_rescale", "do_normalize") if not settings.get(s, True)]
    if skipped or settings.get("resample", BICUBIC) != BICUBIC:
        what = ", ".join(f"{s} is off" for s in skipped) or f"resample is {settings['resample']}, not bicubic (3)"
        raise VtjaxError(f"{where}: {what}; CLIP resizes bicubically, crops, scales and normalises")
    size, crop = settings.get("size", 224), settings.get("crop_size", 224)
    size = {"shortest_edge": size} if isinstance(size, int) else size
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    sides = set(size.values()) | {crop["height"], crop["width"]}
    if len(sides) != 1 or set(size) not in ({"shortest_edge"}, {"height", "width"}):
        raise VtjaxError(f"{where}: size {size} and crop_size {crop}; expected one square size for both")
    return ImageTransform(
        size=sides.pop(),
        resize="shortest" if "shortest_edge" in size else "squash",
        mean=tuple(settings.get("image_mean", CLIP_MEAN)),
        std=tuple(settings.get("image_std", CLIP_STD)),
    )
