"""GroupViT: the released .pth, or a folder in Hugging Face's layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vtjax.nn.groupvit import GroupVitConfig
from vtjax.weights import groupvit, layouts
from vtjax.weights.options import Loaded, Options
from vtjax.weights.source import Source


def detect(source: Source) -> bool:
    """Whether its settings say so, or its tensors have a grouping encoder's names over image patches."""
    if "model_type" in source.settings:
        return source.settings["model_type"] == "groupvit"
    return any(name.endswith("img_encoder.patch_embed.proj.weight") for name in source.names)


def load(source: Source, options: Options) -> Loaded:
    """Parameters of `GroupVit`."""
    return layouts.load(groupvit, source, options)


def save(folder: Any, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """As layouts.save."""
    layouts.save(groupvit, GroupVitConfig, folder, config, params)
