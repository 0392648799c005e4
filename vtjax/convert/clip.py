"""CLIP weights to `vtjax.nn.clip` parameters and back: Hugging Face's layout, OpenAI's, and open_clip's (the same
names as OpenAI's)."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vtjax.convert import report, torch_reader, torchscript
from vtjax.convert.clip_settings import config_from_hf, config_from_open_clip, config_from_tensors, config_to_hf
from vtjax.convert.hub import local_folder
from vtjax.convert.safetensors_io import SafetensorsReader, write_safetensors
from vtjax.data.image import ImageTransform
from vtjax.errors import VtjaxError
from vtjax.files import write_atomically
from vtjax.nn.clip import Clip, ClipConfig, with_activation
from vtjax.nn.vit import unstack_layers

LAYOUTS = ("hf", "openai")
# Published tensors that are no weights: index and mask buffers, sizes.
NOT_WEIGHTS = (
    r"(text_model|vision_model)\.embeddings\.position_ids",
    r"input_resolution|context_length|vocab_size",
    r"attn_mask",
)
# A tensor that stands in every checkpoint of the layout; what precedes it is a prefix ("module.", "clip.").
_MARKERS = {"hf": "vision_model.embeddings.class_embedding", "openai": "visual.class_embedding"}
_WEIGHT_FILES = ("pytorch_model.bin", "open_clip_pytorch_model.bin")

# Published name of each module -> ours; several of ours are stacked in one published tensor. Inside one layer:
_HF_LAYER = {
    "self_attn.q_proj": "attention/query",
    "self_attn.k_proj": "attention/key",
    "self_attn.v_proj": "attention/value",
    "self_attn.out_proj": "attention/out",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "mlp.fc1": "ffn/up",
    "mlp.fc2": "ffn/down",
}
_OPENAI_LAYER = {
    "attn.in_proj_": ("attention/query", "attention/key", "attention/value"),
    "attn.out_proj": "attention/out",
    "ln_1": "norm1",
    "ln_2": "norm2",
    "mlp.c_fc": "ffn/up",
    "mlp.c_proj": "ffn/down",
}
# Outside the layers. Kinds: see `Entry`.
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


@dataclasses.dataclass(frozen=True)
class Entry:
    """One published tensor and the parameters it holds, "a/b/c" names.

    kind: "same" shape and values; "flat" biases, heads and parts concatenated; "dense" matrices, published as
    [out, in] with heads flat and parts stacked; "conv" kernels, published as [out, in, height, width].
    """

    theirs: str
    ours: tuple[str, ...]
    kind: str

    def published_shape(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """Shape of the tensor for parameters of these shapes."""
        if self.kind == "dense":
            outs = [math.prod(shape) // _inputs(name, shape) for name, shape in zip(self.ours, shapes, strict=True)]
            return sum(outs), _inputs(self.ours[0], shapes[0])
        if self.kind == "flat":
            return (sum(map(math.prod, shapes)),)
        (shape,) = shapes
        return (shape[3], shape[2], shape[0], shape[1]) if self.kind == "conv" else tuple(shape)

    def publish(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """The published tensor of these parameters."""
        if self.kind == "dense":
            parts = [v.reshape(_inputs(n, v.shape), -1).T for n, v in zip(self.ours, values, strict=True)]
            return np.concatenate(parts) if len(parts) > 1 else np.ascontiguousarray(parts[0])
        if self.kind == "flat":
            return np.concatenate([v.reshape(-1) for v in values])
        (value,) = values
        return np.ascontiguousarray(value.transpose(3, 2, 0, 1)) if self.kind == "conv" else value

    def parameters(self, value: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        """The inverse of `publish`, new arrays of these shapes."""
        if self.kind == "conv":
            value = value.transpose(2, 3, 1, 0)
        parts = np.split(value, len(shapes)) if len(shapes) > 1 else [value]
        parts = [part.T if self.kind == "dense" else part for part in parts]
        return [np.array(part, order="C").reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _inputs(name: str, shape: tuple[int, ...]) -> int:
    """Rows of a kernel as a matrix: an attention's `out` takes [heads, head_dim], all others one axis."""
    return math.prod(shape[:-1]) if name.endswith("out/kernel") else shape[0]


def layer_entries(ours: str, theirs: str, layers: int, layout: str) -> Iterator[Entry]:
    """Entries of a stack of layers; `ours` precedes "layer_0/...", `theirs` has "{i}" for the layer's number."""
    for i in range(layers):
        for published, names in (_HF_LAYER if layout == "hf" else _OPENAI_LAYER).items():
            names = (names,) if isinstance(names, str) else names
            dot = "" if published.endswith("_") else "."
            norm = "norm" in names[0]
            for suffix, leaf, kind in (
                ("weight", "scale" if norm else "kernel", "same" if norm else "dense"),
                ("bias", "bias", "flat"),
            ):
                mine = tuple(f"{ours}layer_{i}/{name}/{leaf}" for name in names)
                yield Entry(f"{theirs.format(i=i)}{published}{dot}{suffix}", mine, kind)


def entries(config: ClipConfig, layout: str) -> list[Entry]:
    """Every published tensor of a CLIP.

    Raises:
      VtjaxError: an unknown layout.
    """
    if layout not in LAYOUTS:
        raise VtjaxError(f"layout {layout!r}; expected one of {', '.join(LAYOUTS)} (open_clip's is 'openai')")
    found = [Entry(theirs, (ours,), kind) for theirs, ours, kind in _OUTSIDE[layout]]
    for tower, sizes in (("vision", config.vision), ("text", config.text)):
        found += layer_entries(f"{tower}/transformer/", _LAYERS[layout][tower], sizes.layers, layout)
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
    for name, leaf in report.flatten(tree).items():
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
    shapes, table = expected_shapes(config), entries(config, layout)
    expected = {e.theirs: _Shape(e.published_shape([shapes[n] for n in e.ours])) for e in table}
    found = {name: _Shape(shape_of(tensors, full)) for name, full in names.items()}
    result = report.match(expected, found).raise_if_incomplete(allow_unused=NOT_WEIGHTS, source=where)
    params = {}
    for entry in table:
        value = np.asarray(tensors[names[entry.theirs]]).astype(dtype, copy=False)
        params |= zip(entry.ours, entry.parameters(value, [shapes[n] for n in entry.ours]), strict=True)
    return report.unflatten(params), result


def to_published(config: ClipConfig, params: Mapping[str, Any], layout: str = "hf") -> dict[str, np.ndarray]:
    """Tensors under their published names; the exact inverse of `from_published`. Stacked layers are taken apart.

    Raises:
      VtjaxError: parameters that are not those of `Clip(config)`, or an unknown layout.
    """
    flat = report.flatten(unstack_layers(params))
    shapes = {name: _Shape(shape) for name, shape in expected_shapes(config).items()}
    report.match(shapes, flat).raise_if_incomplete(source="parameters")
    return {e.theirs: e.publish([np.asarray(flat[n]) for n in e.ours]) for e in entries(config, layout)}


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


def open_weights(path: str | os.PathLike[str]) -> Mapping[str, np.ndarray]:
    """The tensors of one file by name, whatever its format; read when asked for, or mapped.

    Raises:
      VtjaxError: see the readers.
    """
    path = pathlib.Path(path)
    if path.suffix in (".safetensors", ".json"):
        return SafetensorsReader(path)
    if torchscript.is_torchscript(path):
        return torchscript.read_torchscript(path)
    return torch_reader.read_state_dict(path)


def shape_of(tensors: Mapping[str, np.ndarray], name: str) -> tuple[int, ...]:
    """A tensor's shape, without reading it where `tensors` can tell (a safetensors file's header does)."""
    return tensors.shape(name) if hasattr(tensors, "shape") else tuple(tensors[name].shape)


def weights_file(folder: pathlib.Path) -> pathlib.Path:
    """The one file of weights in a folder, or its index of shards.

    Raises:
      VtjaxError: none or several.
    """
    if any(folder.glob("*.safetensors")):
        return SafetensorsReader(folder).path
    found = [folder / name for name in _WEIGHT_FILES if (folder / name).is_file()] or sorted(folder.glob("*.pt"))
    if len(found) != 1:
        what = ", ".join(f.name for f in found) or "none"
        raise VtjaxError(f"{folder}: expected model.safetensors, {' or '.join(_WEIGHT_FILES)}; found {what}")
    return found[0]


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
    return config_from_tensors({name: shape_of(tensors, full) for name, full in names.items()}, where, activation)


@dataclasses.dataclass(frozen=True)
class _Shape:
    shape: tuple[int, ...]
