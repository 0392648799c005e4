"""CLIP weights to `vtjax.nn.clip` parameters and back: Hugging Face's layout, OpenAI's, and open_clip's (the same
names as OpenAI's)."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vtjax.encoders.image import ImageTransform
from vtjax.errors import VtjaxError
from vtjax.files import write_atomically
from vtjax.nn.clip import Clip, ClipConfig, with_activation
from vtjax.nn.vit import unstack_layers
from vtjax.trees import flatten
from vtjax.weights import report, streaming, tables
from vtjax.weights.clip_settings import config_from_hf, config_from_open_clip, config_from_tensors, config_to_hf
from vtjax.weights.files import open_weights, weights_file
from vtjax.weights.hub import local_folder
from vtjax.weights.safetensors_io import write_safetensors
from vtjax.weights.source import Tensors

LAYOUTS = ("hf", "openai")
# Published tensors that are no weights: index and mask buffers, sizes.
NOT_WEIGHTS = (
    r"(text_model|vision_model)\.embeddings\.position_ids",
    r"input_resolution|context_length|vocab_size",
    r"attn_mask",
)
# A tensor that stands in every checkpoint of the layout; what precedes it is a prefix ("module.", "clip.").
_MARKERS = {"hf": "vision_model.embeddings.class_embedding", "openai": "visual.class_embedding"}

# Outside the layers: published name, ours, kind of `tables.Entry`.
_OUTSIDE = {
    "hf": (
        ("vision_model.embeddings.class_embedding", "vision/class_embedding", "same"),
        ("vision_model.embeddings.position_embedding.weight", "vision/position_embedding", "same"),
        ("vision_model.embeddings.patch_embedding.weight", "vision/patch_embedding/kernel", "conv"),
        ("vision_model.pre_layrnorm.weight", "vision/pre_norm/scale", "same"),
        ("vision_model.pre_layrnorm.bias", "vision/pre_norm/bias", "same"),
        ("vision_model.post_layernorm.weight", "vision/post_norm/scale", "same"),
        ("vision_model.post_layernorm.bias", "vision/post_norm/bias", "same"),
        ("visual_projection.weight", "vision/projection/kernel", "dense"),
        ("text_model.embeddings.token_embedding.weight", "text/token_embedding/embedding", "same"),
        ("text_model.embeddings.position_embedding.weight", "text/position_embedding", "same"),
        ("text_model.final_layer_norm.weight", "text/final_norm/scale", "same"),
        ("text_model.final_layer_norm.bias", "text/final_norm/bias", "same"),
        ("text_projection.weight", "text/projection/kernel", "dense"),
        ("logit_scale", "logit_scale", "same"),
    ),
    "openai": (
        ("visual.class_embedding", "vision/class_embedding", "same"),
        ("visual.positional_embedding", "vision/position_embedding", "same"),
        ("visual.conv1.weight", "vision/patch_embedding/kernel", "conv"),
        ("visual.ln_pre.weight", "vision/pre_norm/scale", "same"),
        ("visual.ln_pre.bias", "vision/pre_norm/bias", "same"),
        ("visual.ln_post.weight", "vision/post_norm/scale", "same"),
        ("visual.ln_post.bias", "vision/post_norm/bias", "same"),
        ("visual.proj", "vision/projection/kernel", "same"),
        ("token_embedding.weight", "text/token_embedding/embedding", "same"),
        ("positional_embedding", "text/position_embedding", "same"),
        ("ln_final.weight", "text/final_norm/scale", "same"),
        ("ln_final.bias", "text/final_norm/bias", "same"),
        ("text_projection", "text/projection/kernel", "same"),
        ("logit_scale", "logit_scale", "same"),
    ),
}
_LAYERS = {
    "hf": {"vision": "vision_model.encoder.layers.{i}.", "text": "text_model.encoder.layers.{i}."},
    "openai": {"vision": "visual.transformer.resblocks.{i}.", "text": "transformer.resblocks.{i}."},
}


def entries(config: ClipConfig, layout: str) -> list[tables.Entry]:
    """Every published tensor of a CLIP.

    Raises:
      VtjaxError: an unknown layout.
    """
    if layout not in LAYOUTS:
        raise VtjaxError(f"layout {layout!r}; expected one of {', '.join(LAYOUTS)} (open_clip's is 'openai')")
    found = [tables.Entry(theirs, (ours,), kind) for theirs, ours, kind in _OUTSIDE[layout]]
    for tower, sizes in (("vision", config.vision), ("text", config.text)):
        names = tables.HF_LAYER if layout == "hf" else tables.OPENAI_LAYER
        found += tables.layers(f"{tower}/transformer/", _LAYERS[layout][tower], sizes.layers, names)
    return found


def published_names(tensors: Mapping[str, Any], where: str = "checkpoint") -> tuple[str, dict[str, str]]:
    """(layout, published name -> name in `tensors`): a common prefix is taken off, and open_clip's "text.".

    Raises:
      VtjaxError: not a CLIP with a vision transformer.
    """
    for layout, marker in _MARKERS.items():
        prefix = next((n[: -len(marker)] for n in tensors if n == marker or n.endswith("." + marker)), None)
        if prefix is None:
            continue
        names = {name.removeprefix(prefix): name for name in tensors}
        if layout == "openai" and "text.positional_embedding" in names:
            names = {name.removeprefix("text."): full for name, full in names.items()}
        return layout, names
    what = ", ".join(list(tensors)[:4])
    known = " or ".join(_MARKERS.values())
    raise VtjaxError(f"{where}: no {known} in it, so not a CLIP with a vision transformer; found {what}, ...")


@functools.cache
def expected_shapes(config: ClipConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by its "a/b/c" name, from the module itself."""
    import jax
    import jax.numpy as jnp

    one = dataclasses.replace  # the layers of a tower are alike: one of each is traced
    small = one(config, vision=one(config.vision, layers=1), text=one(config.text, layers=1))
    images = jax.ShapeDtypeStruct((1, config.vision.image_size, config.vision.image_size, 3), jnp.float32)
    ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    tree = jax.eval_shape(Clip(small).init, jax.random.key(0), images, ids)["params"]
    shapes = {}
    for name, leaf in flatten(tree).items():
        layers = getattr(config, name.split("/")[0]).layers if "/layer_0/" in name else 1
        shapes |= {name.replace("/layer_0/", f"/layer_{i}/"): tuple(leaf.shape) for i in range(layers)}
    return shapes


def from_published(
    config: ClipConfig, tensors: Mapping[str, np.ndarray], where: str = "checkpoint", dtype: Any = np.float32
) -> tuple[dict[str, Any], report.MatchReport]:
    """Parameters of `Clip(config)`, nested dicts of `dtype`, from tensors of either layout; with published names, the
    report of what fitted. `tensors` may be lazy: each is read once, after all shapes were compared.

    Raises:
      VtjaxError: a tensor is missing, of another shape, or unused and not one of `NOT_WEIGHTS`.
    """
    layout, names = published_names(tensors, where)
    shown = Tensors(tensors if hasattr(tensors, "read") else streaming.ArrayWeights(tensors), names)
    return tables.read(entries(config, layout), expected_shapes(config), shown, where, dtype, NOT_WEIGHTS)


def to_published(config: ClipConfig, params: Mapping[str, Any], layout: str = "hf") -> dict[str, np.ndarray]:
    """Tensors under their published names; the exact inverse of `from_published`. Stacked layers are taken apart.

    Raises:
      VtjaxError: parameters that are not those of `Clip(config)`, or an unknown layout.
    """
    return tables.write(entries(config, layout), expected_shapes(config), unstack_layers(params))


def load_clip(
    source: str | os.PathLike[str],
    config: ClipConfig | None = None,
    activation: str | None = None,
    dtype: Any = np.float32,
) -> tuple[ClipConfig, dict[str, Any]]:
    """Configuration and parameters (layers in a loop; `vit.stack_layers` for a scan) of a published CLIP.

    source: a Hugging Face or open_clip folder or hub id, or a file: .safetensors, OpenAI's .pt (a TorchScript archive,
    of which the weights are read and nothing is run), or a state dict in .pt, .pth or .bin.
    config: instead of what the folder or the shapes say. activation: overrides both towers'; needed for a file that
    does not say whether it is one of OpenAI's ("quick_gelu") or open_clip's ("gelu", but for its "-quickgelu" models).

    Raises:
      VtjaxError: nothing readable there, no way to know the configuration, or tensors that do not fit it exactly.
    """
    path = pathlib.Path(source).expanduser()
    path = path if path.is_file() else weights_file(local_folder(source))
    tensors = open_weights(path)
    layout, names = published_names(tensors, str(path))
    if config is None:
        config = stated_config(path.parent, str(path), layout, tensors, names, activation)
    elif activation is not None:
        config = with_activation(config, activation)
    return config, from_published(config, tensors, str(path), dtype)[0]


def save_clip_hf(
    folder: str | os.PathLike[str],
    config: ClipConfig,
    params: Mapping[str, Any],
    transform: ImageTransform | None = None,
) -> None:
    """Writes config.json, model.safetensors and preprocessor_config.json that transformers loads; a tokenizer's `save`
    into the same folder completes it. transform: None for CLIP's own at the model's image size."""
    folder = pathlib.Path(folder)
    tensors = to_published(config, params, "hf")
    transform = ImageTransform(config.vision.image_size) if transform is None else transform
    write_safetensors(folder / "model.safetensors", tensors)
    write_atomically(folder / "config.json", json.dumps(config_to_hf(config, float(tensors["logit_scale"])), indent=2))
    write_atomically(folder / "preprocessor_config.json", json.dumps(transform.to_hf(), indent=2))


def save_clip_openai(path: str | os.PathLike[str], config: ClipConfig, params: Mapping[str, Any]) -> None:
    """Writes a .safetensors file with OpenAI's names, which open_clip loads too."""
    write_safetensors(path, to_published(config, params, "openai"))


def stated_config(
    folder: pathlib.Path,
    where: str,
    layout: str,
    tensors: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    activation: str | None,
) -> ClipConfig:
    """What the settings beside the weights say, or what the weights' own shapes say.

    Raises:
      VtjaxError: neither says it, or not a CLIP of this architecture.
    """
    for name, reader, of_layout in (
        ("config.json", config_from_hf, "hf"),
        ("open_clip_config.json", config_from_open_clip, "openai"),
    ):
        file = folder / name
        if layout == of_layout and file.is_file():
            try:
                settings = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise VtjaxError(f"{file}: not JSON ({error})") from error
            config = reader(settings, str(file))
            return config if activation is None else with_activation(config, activation)
    if layout == "hf":
        raise VtjaxError(f"{where}: no config.json beside it; put it there or give `config`")
    shapes = {name: tables.shape_of(tensors, full) for name, full in names.items()}
    return config_from_tensors(shapes, where, activation)
