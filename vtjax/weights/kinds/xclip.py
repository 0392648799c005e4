"""X-CLIP: the released .pth, or a folder in Hugging Face's layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vtjax.nn.xclip import XClipConfig
from vtjax.weights import layouts, xclip
from vtjax.weights.options import Loaded, Options
from vtjax.weights.source import Source


def detect(source: Source) -> bool:
    """Whether its settings say so, or its tensors have the prompt generator's names."""
    if "model_type" in source.settings:
        return source.settings["model_type"] == "xclip"
    return any("prompts_generator.decoder." in name for name in source.names)


def load(source: Source, options: Options) -> Loaded:
    """Parameters of `XClip`."""
    return layouts.load(xclip, source, options)


def save(folder: Any, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """As layouts.save."""
    layouts.save(xclip, XClipConfig, folder, config, params)
