"""Weights of X-CLIP (arXiv 2208.02816) to `vtjax.nn.xclip` and back: the released .pth and Hugging Face's layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vtjax.config import from_dict, to_dict
from vtjax.errors import VtjaxError
from vtjax.nn.clip import ClipConfig
from vtjax.nn.xclip import XClipConfig
from vtjax.weights import clip, clip_settings, tables
from vtjax.weights.files import write_json
from vtjax.weights.layout import Loaded, Options
from vtjax.weights.source import Source

LAYOUTS = ("hf", "released")
BUFFER = "an index, a mask or a size, no weight"
PROMPT_HEADS = 8  # of all that was released; tensors do not tell it
_MARKERS = {"hf": "mit.position_embedding", "released": "mit.positional_embedding"}
_HF_MESSAGE: dict[str, str | tuple[str, ...]] = {
    "message_fc": "message",
    "message_ln": "message_norm",
    "message_attn.q_proj": "message_attention/query",
    "message_attn.k_proj": "message_attention/key",
    "message_attn.v_proj": "message_attention/value",
    "message_attn.out_proj": "message_attention/out",
}
_MESSAGE: dict[str, str | tuple[str, ...]] = {
    "message_fc": "message",
    "message_ln": "message_norm",
    "message_attn.in_proj_": ("message_attention/query", "message_attention/key", "message_attention/value"),
    "message_attn.out_proj": "message_attention/out",
}


def published_names(names: Sequence[str], where: str = "checkpoint") -> tuple[str, str, dict[str, str], dict[str, str]]:
    """Sorts names into (layout, prefix of every name, name without it -> name, name that is no parameter -> why).

    Raises:
      VtjaxError: not an X-CLIP.
    """
    buffers = [(pattern, BUFFER) for pattern in clip.NOT_WEIGHTS]
    return tables.published(names, _MARKERS, where, "an X-CLIP", buffers)


def config_from_tensors(shapes: Mapping[str, tuple[int, ...]], where: str = "checkpoint") -> XClipConfig:
    """Reads sizes from the tensors of the released layout; heads are 64 wide, but 8 for the prompts.

    Raises:
      VtjaxError: a tensor is missing that a size is read from.
    """
    towers = clip_settings.config_from_tensors(shapes, where, "quick_gelu")
    try:
        _, frames, width = shapes["mit.positional_embedding"]
        mlp_width = shapes["mit.resblocks.0.mlp.c_fc.weight"][0]
    except (KeyError, ValueError) as error:
        raise VtjaxError(f"{where}: no tensor {error}, so not an X-CLIP") from error
    return XClipConfig(
        towers.embed_dim,
        towers.vision,
        towers.text,
        frames,
        tables.count(shapes, r"mit\.resblocks\.(\d+)\."),
        max(1, width // 64),
        mlp_width,
        tables.count(shapes, r"prompts_generator\.decoder\.(\d+)\."),
        PROMPT_HEADS,
    )


def config_from_hf(settings: Mapping[str, Any], where: str = "config.json") -> XClipConfig:
    """Reads `XClipConfig` from a config.json of model type "xclip"; missing settings have transformers' defaults.

    Raises:
      VtjaxError: another model type, or as `clip_settings.config_from_hf`.
    """
    if settings.get("model_type") != "xclip":
        raise VtjaxError(f"{where}: model_type {settings.get('model_type')!r}; expected 'xclip'")
    text = {**(settings.get("text_config") or {}), "eos_token_id": 2}  # its text tower takes the largest id, always
    vision = settings.get("vision_config") or {}
    act = settings.get("prompt_hidden_act", "quick_gelu")
    if act != "quick_gelu":
        raise VtjaxError(f"{where}: prompt_hidden_act {act!r} is not supported; expected 'quick_gelu'")
    towers = clip_settings.config_from_hf({**settings, "model_type": "clip", "text_config": text}, where)
    return XClipConfig(
        towers.embed_dim,
        towers.vision,
        towers.text,
        vision.get("num_frames", 8),
        vision.get("mit_num_hidden_layers", 1),
        vision.get("mit_num_attention_heads", 8),
        vision.get("mit_intermediate_size", 2048),
        settings.get("prompt_layers", 2),
        settings.get("prompt_num_attention_heads", 8),
        settings.get("prompt_alpha", 0.1),
    )


def config_to_hf(config: XClipConfig, logit_scale: float) -> dict[str, Any]:
    """Gives the config.json that transformers reads for `config`."""
    settings = clip_settings.config_to_hf(_towers(config), logit_scale)
    settings["vision_config"] |= {
        "model_type": "xclip_vision_model",
        "num_frames": config.frames,
        "mit_hidden_size": config.embed_dim,
        "mit_num_hidden_layers": config.integration_layers,
        "mit_num_attention_heads": config.integration_heads,
        "mit_intermediate_size": config.integration_mlp_width,
    }
    settings["text_config"]["model_type"] = "xclip_text_model"
    return settings | {
        "model_type": "xclip",
        "architectures": ["XCLIPModel"],
        "prompt_layers": config.prompt_layers,
        "prompt_num_attention_heads": config.prompt_heads,
        "prompt_alpha": config.prompt_alpha,
    }


def entries(config: XClipConfig, layout: str) -> Iterator[tables.Entry]:
    """Lists every published tensor, without its prefix."""
    hf = layout == "hf"
    for entry in clip.entries(_towers(config), "hf" if hf else "openai"):
        # Hugging Face's CLIP has a spelling here that its X-CLIP has not.
        yield tables.Entry(entry.theirs.replace("pre_layrnorm", "pre_layernorm"), entry.ours, entry.kind)
    inner = "vision_model.encoder.layers.{i}." if hf else "visual.transformer.resblocks.{i}."
    yield from tables.layers("vision/transformer/", inner, config.vision.layers, _HF_MESSAGE if hf else _MESSAGE)
    yield tables.Entry(_MARKERS[layout], ("integration/position_embedding",), "lead")
    inner, names = ("mit.encoder.layers.{i}.", tables.HF_LAYER) if hf else ("mit.resblocks.{i}.", tables.OPENAI_LAYER)
    yield from tables.layers("integration/transformer/", inner, config.integration_layers, names)
    norm, inner_norm, projection = (
        ("prompts_visual_layernorm", "layernorm", "prompts_visual_projection")
        if hf
        else ("prompts_visual_ln", "norm", "prompts_visual_proj")
    )
    yield from tables.modules("", "", {norm: "prompt_norm"})
    yield tables.same("prompt_projection/kernel", projection)
    yield from tables.modules("prompts/", "prompts_generator.", {inner_norm: "norm"})
    yield tables.same("prompts/alpha", "prompts_generator.alpha")
    for i in range(config.prompt_layers):
        ours, theirs = f"prompts/layer_{i}/", f"prompts_generator.decoder.{i}."
        attention = {f"cross_attn.{n[0]}_proj": f"cross_attention/{n}" for n in ("query", "key", "value")}
        yield from tables.modules(ours, theirs, attention, bias=False)
        rest = {"cross_attn.proj": "cross_attention/out", "norm1": "norm1", "norm3": "norm2"}
        yield from tables.modules(ours, theirs, rest | {"mlp.0": "ffn/up", "mlp.3": "ffn/down"})


def init(config: XClipConfig) -> dict[str, Any]:
    """Makes the module's initial values; under `jax.eval_shape`, their shapes."""
    import jax
    import jax.numpy as jnp

    from vtjax.nn.xclip import XClip

    size = config.vision.image_size
    videos, ids = jnp.zeros((1, config.frames, size, size, 3)), jnp.zeros((1, 2), jnp.int32)
    return XClip(config).init(jax.random.key(0), videos, ids)["params"]


def _towers(config: XClipConfig) -> ClipConfig:
    return ClipConfig(config.embed_dim, config.vision, config.text)


def detect(source: Source) -> bool:
    """Says whether its settings say so, or its tensors have the prompt generator's names."""
    if "model_type" in source.settings:
        return source.settings["model_type"] == "xclip"
    return any("prompts_generator.decoder." in name for name in source.names)


def load(source: Source, options: Options) -> Loaded:
    """Loads parameters of `XClip`, from either layout."""
    layout, prefix, names, dropped = published_names(list(source.tensors), str(source.path))
    if layout == "hf":
        config = source.sizes(config_from_hf)
    else:
        config = config_from_tensors(source.shapes(names), str(source.path))
    described = {"model": to_dict(config), "layout": layout, "prefix": prefix}
    table = list(entries(config, layout))
    return tables.load(source, options, described, names, table, lambda: init(config), dropped=dropped)


def save(folder: Any, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Writes model.safetensors in the layout that it came in, with a config.json where that is Hugging Face's."""
    sizes, layout = from_dict(XClipConfig, dict(config["model"])), config["layout"]
    tensors = tables.save(folder, list(entries(sizes, layout)), lambda: init(sizes), params, config["prefix"])
    if layout == "hf":
        write_json(folder / "config.json", config_to_hf(sizes, float(tensors["logit_scale"])))
