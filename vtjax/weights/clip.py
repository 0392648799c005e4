"""CLIP weights to `vtjax.nn.clip` parameters and back: Hugging Face's layout, OpenAI's, and open_clip's (the same
names as OpenAI's)."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vtjax.config import from_dict, to_dict
from vtjax.errors import VtjaxError
from vtjax.nn.clip import Clip, ClipConfig, with_activation
from vtjax.nn.vit import stack_layers, unstack_layers
from vtjax.weights import report, tables
from vtjax.weights.clip_image import image_processor
from vtjax.weights.clip_settings import config_from_hf, config_from_open_clip, config_from_tensors, config_to_hf
from vtjax.weights.files import read_json, write_json
from vtjax.weights.layout import Loaded, Options
from vtjax.weights.safetensors_io import write_safetensors
from vtjax.weights.source import Source
from vtjax.weights.tensors import Tensors, as_weights

LAYOUTS = ("hf", "openai")
# Published tensors that are no weights: index and mask buffers, sizes.
NOT_WEIGHTS = (
    r"(text_model|vision_model)\.embeddings\.position_ids",
    r"input_resolution|context_length|vocab_size",
    r"attn_mask",
)
# A tensor that stands in every checkpoint of the layout; what precedes it is a prefix ("module.", "clip.").
_MARKERS = {"hf": "vision_model.embeddings.class_embedding", "openai": "visual.class_embedding"}

# Outside the layers: ours, Hugging Face's name, OpenAI's. First single tensors, then norms.
_TENSORS = (
    ("vision/class_embedding", "vision_model.embeddings.class_embedding", "visual.class_embedding"),
    ("vision/position_embedding", "vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    ("vision/patch_embedding/kernel", "vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"),
    ("vision/projection/kernel", "visual_projection.weight", "visual.proj"),
    ("text/token_embedding/embedding", "text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
    ("text/position_embedding", "text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("text/projection/kernel", "text_projection.weight", "text_projection"),
    ("logit_scale", "logit_scale", "logit_scale"),
)
_NORMS = (
    ("vision/pre_norm", "vision_model.pre_layrnorm", "visual.ln_pre"),
    ("vision/post_norm", "vision_model.post_layernorm", "visual.ln_post"),
    ("text/final_norm", "text_model.final_layer_norm", "ln_final"),
)
_LAYERS = {
    "hf": {"vision": "vision_model.encoder.layers.{i}.", "text": "text_model.encoder.layers.{i}."},
    "openai": {"vision": "visual.transformer.resblocks.{i}.", "text": "transformer.resblocks.{i}."},
}


def entries(config: ClipConfig, layout: str) -> list[tables.Entry]:
    """Lists every published tensor of a CLIP.

    Raises:
      VtjaxError: an unknown layout.
    """
    if layout not in LAYOUTS:
        raise VtjaxError(f"layout {layout!r}; expected one of {', '.join(LAYOUTS)} (open_clip's is 'openai')")
    # Hugging Face turns the projections as linear layers; OpenAI multiplies by them.
    kinds = {"vision/patch_embedding/kernel": "conv"}
    if layout == "hf":
        kinds |= dict.fromkeys(("vision/projection/kernel", "text/projection/kernel"), "dense")
    column = 1 + LAYOUTS.index(layout)
    table = [tables.Entry(row[column], (row[0],), kinds.get(row[0], "same")) for row in _TENSORS]
    table += tables.modules("", "", {row[column]: row[0] for row in _NORMS})
    for tower, sizes in (("vision", config.vision), ("text", config.text)):
        names = tables.HF_LAYER if layout == "hf" else tables.OPENAI_LAYER
        table += tables.layers(f"{tower}/transformer/", _LAYERS[layout][tower], sizes.layers, names)
    return table


def published_names(names: Sequence[str], where: str = "checkpoint") -> tuple[str, dict[str, str]]:
    """Takes off a common prefix, and open_clip's "text."; gives (layout, published name -> name).

    Raises:
      VtjaxError: not a CLIP with a vision transformer.
    """
    layout, _, bare, _ = tables.published(names, _MARKERS, where, "a CLIP with a vision transformer")
    if layout == "openai" and "text.positional_embedding" in bare:
        bare = {name.removeprefix("text."): full for name, full in bare.items()}
    return layout, bare


def init(config: ClipConfig) -> dict[str, Any]:
    """Makes the module's initial values; under `jax.eval_shape`, their shapes."""
    import jax
    import jax.numpy as jnp

    size = config.vision.image_size
    return Clip(config).init(jax.random.key(0), jnp.zeros((1, size, size, 3)), jnp.zeros((1, 2), jnp.int32))["params"]


@functools.cache
def expected_shapes(config: ClipConfig) -> dict[str, tuple[int, ...]]:
    """Gives the shape of every parameter by its "a/b/c" name, from the module itself."""
    one = dataclasses.replace  # the layers of a tower are alike: one of each is traced
    small = one(config, vision=one(config.vision, layers=1), text=one(config.text, layers=1))
    shapes: dict[str, Any] = {}
    for name, shape in tables.initial_shapes(lambda: init(small)).items():
        layers = getattr(config, name.split("/")[0]).layers if "/layer_0/" in name else 1
        shapes |= {name.replace("/layer_0/", f"/layer_{i}/"): shape for i in range(layers)}
    return shapes


def from_published(
    config: ClipConfig, tensors: Mapping[str, np.ndarray], where: str = "checkpoint", dtype: Any = np.float32
) -> tuple[dict[str, Any], report.MatchReport]:
    """Makes parameters from tensors of either layout.

    Args:
      config: sizes. tensors: may be lazy; each is read once, after all shapes were compared. where: names them in
        messages. dtype: of the parameters.

    Returns:
      Parameters of `Clip(config)`, and the report of what fitted, in published names.

    Raises:
      VtjaxError: a tensor is missing, of another shape, or unused and not one of `NOT_WEIGHTS`.
    """
    layout, names = published_names(list(tensors), where)
    shown = Tensors(as_weights(tensors), names)
    return tables.read(entries(config, layout), expected_shapes(config), shown, where, dtype, NOT_WEIGHTS)


def to_published(config: ClipConfig, params: Mapping[str, Any], layout: str = "hf") -> dict[str, np.ndarray]:
    """Gives tensors under their published names, the exact inverse of `from_published`; stacked layers are taken apart.

    Raises:
      VtjaxError: parameters that are not those of `Clip(config)`, or an unknown layout.
    """
    return tables.write(entries(config, layout), expected_shapes(config), unstack_layers(params))


def load_clip(
    source: str | os.PathLike[str], activation: str | None = None, dtype: Any = np.float32
) -> tuple[ClipConfig, dict[str, Any]]:
    """Loads a published CLIP.

    Args:
      source: a Hugging Face or open_clip folder or hub id, or a file: .safetensors, OpenAI's .pt (a TorchScript
        archive, of which the weights are read and nothing is run), or a state dict in .pt, .pth or .bin.
      activation: overrides both towers'; needed for a file that does not say whether it is one of OpenAI's
        ("quick_gelu") or open_clip's ("gelu", but for its "-quickgelu" models).
      dtype: of the parameters.

    Returns:
      The sizes, and the parameters with layers in a loop (`vit.stack_layers` for a scan).

    Raises:
      VtjaxError: nothing readable there, no way to know the configuration, or tensors that do not fit it exactly.
    """
    opened = Source(source)
    config = stated_config(opened, *published_names(list(opened.tensors), str(opened.path)), activation)
    return config, from_published(config, opened.tensors, str(opened.path), dtype)[0]


def save_clip_hf(folder: str | os.PathLike[str], config: ClipConfig, params: Mapping[str, Any]) -> None:
    """Writes config.json, model.safetensors and preprocessor_config.json (CLIP's own, at the model's image size) that
    transformers loads; a tokenizer's `save` into the same folder completes it."""
    folder = pathlib.Path(folder)
    tensors = to_published(config, params, "hf")
    write_safetensors(folder / "model.safetensors", tensors)
    write_json(folder / "config.json", config_to_hf(config, float(tensors["logit_scale"])))
    write_json(folder / "preprocessor_config.json", image_processor(config.vision.image_size))


def stated_config(source: Source, layout: str, names: Mapping[str, str], activation: str | None) -> ClipConfig:
    """Reads the sizes from the settings beside the weights, else from the weights' shapes.

    Args:
      layout, names: as `published_names` gives them. activation: overrides what is stated.

    Raises:
      VtjaxError: neither says it, or not a CLIP of this architecture.
    """
    name, reader = {
        "hf": ("config.json", config_from_hf),
        "openai": ("open_clip_config.json", config_from_open_clip),
    }[layout]
    file = source.folder / name
    if file.is_file():
        config = reader(read_json(file), str(file))
        return config if activation is None else with_activation(config, activation)
    if layout == "hf":
        raise VtjaxError(f"{source.path}: no config.json beside it; put it there")
    return config_from_tensors(source.shapes(names), str(source.path), activation)


def detect(source: Source) -> bool:
    """Says whether its settings say so, or its tensors have the class token of CLIP's vision tower."""
    if source.settings.get("model_type"):
        return source.settings["model_type"] == "clip"
    if source.path.is_dir() and (source.path / "open_clip_config.json").is_file():
        return True
    return any(name.endswith(tuple(_MARKERS.values())) for name in source.names)


def load(source: Source, options: Options) -> Loaded:
    """Loads parameters of `Clip`, as a `vtjax.weights.layout.Layout` reads them."""
    layout, names = published_names(list(source.tensors), str(source.path))
    config = stated_config(source, layout, names, options.activation or None)
    loaded = tables.load(
        source, options, to_dict(config), names, entries(config, layout), lambda: init(config),
        shapes=expected_shapes(config), allow_unused=NOT_WEIGHTS,
    )  # fmt: skip
    return dataclasses.replace(loaded, params=stack_layers(loaded.params)) if options.scan_layers else loaded


def save(folder: Any, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Writes config.json, model.safetensors and preprocessor_config.json in Hugging Face's layout."""
    save_clip_hf(folder, from_dict(ClipConfig, dict(config)), params)
