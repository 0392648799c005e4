"""CLIP in any of its layouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vtjax.config import from_dict, to_dict
from vtjax.nn.clip import Clip, ClipConfig, with_activation
from vtjax.nn.vit import stack_layers
from vtjax.weights import clip
from vtjax.weights.options import Loaded, Options
from vtjax.weights.source import Source, Tensors

_MARKERS = ("vision_model.embeddings.class_embedding", "visual.class_embedding")


def detect(source: Source) -> bool:
    """Whether its settings say so, or its tensors have the class token of CLIP's vision tower."""
    if source.settings.get("model_type"):
        return source.settings["model_type"] == "clip"
    if source.path.is_dir() and (source.path / "open_clip_config.json").is_file():
        return True
    return any(name.endswith(_MARKERS) for name in source.names)


def load(source: Source, options: Options) -> Loaded:
    """Parameters of `Clip`."""
    path = source.path if source.path.is_file() else clip.weights_file(source.path)
    layout, names = clip.published_names(dict.fromkeys(source.tensors), str(path))
    tensors = Tensors(source.tensors, names)
    shown = {name: name for name in tensors}
    activation = options.activation or None
    config = clip.stated_config(source.folder, str(path), layout, tensors, shown, activation)
    if activation is not None:
        config = with_activation(config, activation)
    expected = {entry.theirs: entry.ours for entry in clip.entries(config, layout)}
    done = tensors.reconcile(expected, lambda: clip.to_published(config, _random(config), layout), options.allow)
    params, result = clip.from_published(config, tensors, str(path), np.dtype(options.dtype or "float32"))
    params = stack_layers(params) if options.scan_layers else params
    return Loaded(params, to_dict(config), done.amend(result), tensors.published_dtype())


def save(folder: Any, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """config.json, model.safetensors and preprocessor_config.json in Hugging Face's layout."""
    clip.save_clip_hf(folder, from_dict(ClipConfig, dict(config)), params)


def _random(config: ClipConfig) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    size = config.vision.image_size
    images, ids = jnp.zeros((1, size, size, 3)), jnp.zeros((1, 2), jnp.int32)
    return jax.jit(Clip(config).init)(jax.random.key(0), images, ids)["params"]

