"""How published CLIPs prepare images, in the words of preprocessor_config.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's own data, per channel, of values in [0, 1]
STD = (0.26862954, 0.26130258, 0.27577711)
BICUBIC = 3  # PIL's number for it


def image_processor(
    size: int, resize: str = "shortest", mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> dict[str, Any]:
    """The preprocessor_config.json that makes transformers' CLIPImageProcessor prepare images as a model was trained.

    size: pixels. resize: "shortest" side to `size`, then the centre is cut out, or "squash", both sides to `size`.
    mean, std: per channel, of values in [0, 1].
    """
    square = {"height": size, "width": size}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size} if resize == "shortest" else square,
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
        "do_convert_rgb": True,
    }
