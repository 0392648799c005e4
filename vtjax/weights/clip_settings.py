"""Configurations of published CLIPs: Hugging Face's config.json, open_clip's, or the shapes of the weights alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vtjax.errors import VtjaxError
from vtjax.nn.clip import ClipConfig, TextConfig, with_activation
from vtjax.nn.vit import VisionConfig
from vtjax.weights import tables

# Hugging Face's names; those of both towers, then of one.
_TOWER = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "eps": "layer_norm_eps",
    "attention_dropout": "attention_dropout",
}
_VISION = _TOWER | {"image_size": "image_size", "patch_size": "patch_size"}
_TEXT = _TOWER | {"vocab_size": "vocab_size", "context_length": "max_position_embeddings"}
_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
_ACTIVATIONS_OUT = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}
_LEGACY_EOT = 2  # config.json files from before transformers 4.32; the largest id in the text is then taken
_EOT = 49407
_HEAD = 64  # width of a head in every published CLIP
# open_clip settings that change the architecture away from OpenAI's, and the values that do not.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "timm_model_name": (None,),
    "hf_model_name": (None,),
    "attentional_pool": (False, None),
    "pool_type": ("tok", "argmax", None),
    "no_ln_pre": (False,),
    "pos_embed_type": ("learnable",),
    "ls_init_value": (None,),
    "global_average_pool": (False,),
    "embed_cls": (False,),
    "no_causal_mask": (False,),
    "final_ln_after_pool": (False,),
    "proj_bias": (False,),
    "norm_kwargs": (None, {}),
    "act_kwargs": (None, {}),
    "output_tokens": (False, True),
}


def config_from_hf(settings: Mapping[str, Any], where: str = "config.json") -> ClipConfig:
    """Reads `ClipConfig` from a config.json of model type "clip".

    Raises:
      VtjaxError: another model type or activation, other than three channels, or no single end-of-text id.
    """
    if settings.get("model_type") != "clip":
        raise VtjaxError(f"{where}: model_type {settings.get('model_type')!r}; expected 'clip'")
    towers: dict[str, Any] = {}
    for tower, cls, names in (("vision", VisionConfig, _VISION), ("text", TextConfig, _TEXT)):
        stated = {**(settings.get(f"{tower}_config") or {}), **(settings.get(f"{tower}_config_dict") or {})}
        act = stated.get("hidden_act", "quick_gelu")
        if act not in _ACTIVATIONS:
            raise VtjaxError(f"{where}: {tower} activation {act!r}; known: {', '.join(_ACTIVATIONS)}")
        if stated.get("num_channels", 3) != 3:
            raise VtjaxError(f"{where}: images of {stated['num_channels']} channels; only RGB is supported")
        values = {field: stated[name] for field, name in names.items() if name in stated}
        if tower == "text":
            eot = stated.get("eos_token_id", _EOT)
            if not isinstance(eot, int):
                raise VtjaxError(f"{where}: eos_token_id {eot!r} of the text tower; expected one id")
            values["eot_id"] = None if eot == _LEGACY_EOT else eot
        towers[tower] = cls(activation=_ACTIVATIONS[act], **values)
    return ClipConfig(settings.get("projection_dim", 512), **towers)


def config_to_hf(config: ClipConfig, logit_scale: float = math.log(1 / 0.07)) -> dict[str, Any]:
    """Gives the config.json that transformers reads for `config`.

    Raises:
      VtjaxError: an activation that transformers does not have.
    """
    towers: dict[str, Any] = {}
    for tower, names in ((config.vision, _VISION), (config.text, _TEXT)):
        if tower.activation not in _ACTIVATIONS_OUT:
            raise VtjaxError(f"activation {tower.activation!r} has no name in transformers' CLIP")
        kind = "vision" if tower is config.vision else "text"
        towers[kind] = {"model_type": f"clip_{kind}_model", "projection_dim": config.embed_dim}
        towers[kind] |= {name: getattr(tower, field) for field, name in names.items()}
        towers[kind]["hidden_act"] = _ACTIVATIONS_OUT[tower.activation]
    eot = config.text.eot_id
    towers["text"] |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": _LEGACY_EOT if eot is None else eot}
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": config.embed_dim,
        "logit_scale_init_value": logit_scale,
        "vision_config": towers["vision"],
        "text_config": towers["text"],
    }


def config_from_open_clip(settings: Mapping[str, Any], where: str = "open_clip_config.json") -> ClipConfig:
    """Reads `ClipConfig` from an open_clip_config.json, or the model configuration inside it.

    Raises:
      VtjaxError: an architecture that is not OpenAI's two transformers; the setting is named.
    """
    model = settings.get("model_cfg", settings)
    try:
        vision, text, embed_dim = model["vision_cfg"], model["text_cfg"], model["embed_dim"]
        for tower in (vision, text):
            for name, plain in _PLAIN.items():
                if name in tower and tower[name] not in plain:
                    raise VtjaxError(f"{where}: {name}={tower[name]!r}: not the architecture of OpenAI's CLIP")
        act = "quick_gelu" if model.get("quick_gelu", False) else "gelu"
        width, text_width = vision.get("width", 768), text.get("width", 512)
        return ClipConfig(
            embed_dim,
            VisionConfig(
                image_size=vision.get("image_size", 224),
                patch_size=vision.get("patch_size", 16),
                width=width,
                layers=vision.get("layers", 12),
                heads=width // vision.get("head_width", _HEAD),
                mlp_width=int(width * vision.get("mlp_ratio", 4)),
                activation=act,
            ),
            TextConfig(
                vocab_size=text.get("vocab_size", 49408),
                context_length=text.get("context_length", 77),
                width=text_width,
                layers=text.get("layers", 12),
                heads=text.get("heads", 8),
                mlp_width=int(text_width * text.get("mlp_ratio", 4)),
                activation=act,
            ),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise VtjaxError(f"{where}: not a model of open_clip ({type(error).__name__}: {error})") from error


def config_from_tensors(
    shapes: Mapping[str, tuple[int, ...]], where: str = "checkpoint", activation: str | None = None
) -> ClipConfig:
    """Reads `ClipConfig` from the shapes of tensors under OpenAI's names; heads are 64 wide, as in all published ones.

    Args:
      activation: None where the file says itself that it is one of OpenAI's, which keep their sizes among the tensors.

    Raises:
      VtjaxError: a tensor is missing that a size is read from, or the activation cannot be known.
    """
    if activation is None and "input_resolution" not in shapes:
        raise VtjaxError(
            f"{where}: does not say which activation it was trained with; give activation='gelu' (most of open_clip's "
            "models) or 'quick_gelu' (OpenAI's, and open_clip's with -quickgelu in their name)"
        )
    try:
        width, _, patch, _ = shapes["visual.conv1.weight"]
        tokens, _ = shapes["visual.positional_embedding"]
        context, text_width = shapes["positional_embedding"]
        vision = VisionConfig(
            image_size=math.isqrt(tokens - 1) * patch,
            patch_size=patch,
            layers=tables.count(shapes, r"visual\.transformer\.resblocks\.(\d+)\."),
            mlp_width=shapes["visual.transformer.resblocks.0.mlp.c_fc.weight"][0],
            **_width(width),
        )
        text = TextConfig(
            vocab_size=shapes["token_embedding.weight"][0],
            context_length=context,
            layers=tables.count(shapes, r"transformer\.resblocks\.(\d+)\."),
            mlp_width=shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
            **_width(text_width),
        )
        config = ClipConfig(shapes["text_projection"][1], vision, text)
    except (KeyError, ValueError, IndexError) as error:
        if isinstance(error, VtjaxError):
            raise
        raise VtjaxError(f"{where}: sizes cannot be read from its tensors ({error})") from error
    return with_activation(config, activation or "quick_gelu")


def _width(width: int) -> dict[str, Any]:
    return {"width": width, "heads": max(1, width // _HEAD)}
