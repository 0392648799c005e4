"""GroupViT's weights to `vtjax.nn.groupvit` and back: the released .pth, whose names OV-OAD's are made of
(docs/methods/ovoad.md), and Hugging Face's layout."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vtjax.config import from_dict, to_dict
from vtjax.errors import VtjaxError
from vtjax.nn.clip import TextConfig
from vtjax.nn.groupvit import GroupVitConfig
from vtjax.weights import tables
from vtjax.weights.files import write_json
from vtjax.weights.layout import Loaded, Options
from vtjax.weights.source import Source

LAYOUTS = ("hf", "released")
_MARKERS = {"hf": "vision_model.embeddings.position_embeddings", "released": "img_encoder.patch_embed.proj.weight"}
COUNTER, INDEX = "a counter of batch normalisation", "an index, no weight"
LOSS = "the scale of a loss of the training"
_DROPPED = (
    (r".*\.num_batches_tracked", COUNTER),
    (r"text_model\.embeddings\.position_ids", INDEX),
    (r"multi_label_logit_scale", LOSS),
)
# A block's modules as `timm` names them, with query, key and value in one; also OV-OAD's.
BLOCK = {
    "norm1": "norm1",
    "attn.qkv": ("attention/query", "attention/key", "attention/value"),
    "attn.proj": "attention/out",
    "norm2": "norm2",
    "mlp.fc1": "ffn/up",
    "mlp.fc2": "ffn/down",
}


def cross_attention(out: str = "proj") -> dict[str, str]:
    """Names of a `CrossAttentionBlock`."""
    names = {f"attn.{n[0]}_proj": f"attention/{n}" for n in ("query", "key", "value")}
    ffn = {"mlp.fc1": "ffn/up", "mlp.fc2": "ffn/down"}
    return names | {f"attn.{out}": "attention/out", "norm2": "norm2", "norm_post": "norm_post"} | ffn


def grouping(ours: str, theirs: str, out: str = "proj") -> Iterator[tables.Entry]:
    """Entries of a `GroupingBlock`. out: how the output of its inner attention is called."""
    norms = {n: n for n in ("norm_tokens", "norm_post_tokens", "norm_x", "norm_new_x")}
    mix = {"mlp_inter.fc1": "mix/up", "mlp_inter.fc2": "mix/down"}
    assign = {f"assign.{n[0]}_proj": f"assign/{n}" for n in ("query", "key", "value")} | {"assign.proj": "assign/out"}
    channels = {"mlp_channels.fc1": "ffn/up", "mlp_channels.fc2": "ffn/down"}
    yield from tables.modules(ours, theirs, norms | mix | assign | channels)
    yield from tables.modules(f"{ours}pre_assign/", f"{theirs}pre_assign_attn.", cross_attention(out))


def published_names(names: Sequence[str], where: str = "checkpoint") -> tuple[str, str, dict[str, str], dict[str, str]]:
    """(layout, prefix of every name, name without it -> name, name that is no parameter -> why).

    Raises:
      VtjaxError: not a GroupViT.
    """
    return tables.published(names, _MARKERS, where, "a GroupViT", _DROPPED)


def config_from_tensors(shapes: Mapping[str, tuple[int, ...]], where: str = "checkpoint") -> GroupVitConfig:
    """Sizes from the tensors of the released layout; heads are 64 wide, as in all that was released.

    Raises:
      VtjaxError: a tensor is missing that a size is read from.
    """
    try:
        width, _, patch, _ = shapes["img_encoder.patch_embed.proj.weight"]
        stages = range(tables.count(shapes, r"img_encoder\.layers\.(\d+)\."))
        stem = "img_encoder.layers.{}."
        groups = [shapes.get(stem.format(i) + "downsample.mlp_inter.fc2.weight", (0,))[0] for i in stages]
        tokens = [shapes.get(stem.format(i) + "group_token", (1, 0, width))[1] for i in stages]
        return GroupVitConfig(
            image_size=math.isqrt(shapes["img_encoder.pos_embed"][1]) * patch,
            patch_size=patch,
            width=width,
            heads=max(1, width // 64),
            mlp_width=shapes["img_encoder.layers.0.blocks.0.mlp.fc1.weight"][0],
            depths=tuple(tables.count(shapes, rf"img_encoder\.layers\.{i}\.blocks\.(\d+)\.") for i in stages),
            group_tokens=tuple(tokens),
            groups=tuple(groups),
            text=released_text_config(shapes),
            project_hidden=shapes["img_projector.linear_out.weight"][1],
            embed_dim=shapes["img_projector.linear_out.weight"][0],
        )
    except (KeyError, ValueError, IndexError) as error:
        raise VtjaxError(f"{where}: no tensor {error}, so not a GroupViT") from error


def released_text_config(shapes: Mapping[str, tuple[int, ...]]) -> TextConfig:
    """Sizes of the text tower; heads are 64 wide.

    Raises:
      KeyError: a tensor is missing that a size is read from.
    """
    vocab, width = shapes["text_encoder.token_embedding.weight"]
    return TextConfig(
        vocab_size=vocab,
        context_length=shapes["text_encoder.positional_embedding"][0],
        width=width,
        layers=tables.count(shapes, r"text_encoder\.transformer\.resblocks\.(\d+)\."),
        heads=max(1, width // 64),
        mlp_width=shapes["text_encoder.transformer.resblocks.0.mlp.c_fc.weight"][0],
    )


def config_from_hf(settings: Mapping[str, Any], where: str = "config.json") -> GroupVitConfig:
    """`GroupVitConfig` from a config.json of model type "groupvit"; missing settings have transformers' defaults.

    Raises:
      VtjaxError: another model type, or a setting that changes what is computed.
    """
    if settings.get("model_type") != "groupvit":
        raise VtjaxError(f"{where}: model_type {settings.get('model_type')!r}; expected 'groupvit'")
    vision, text = settings.get("vision_config") or {}, settings.get("text_config") or {}
    fixed = {"assign_eps": 1.0, "assign_mlp_ratio": [0.5, 4], "hidden_act": "gelu", "num_channels": 3}
    for key, value in fixed.items():
        found = vision.get(key, value)
        if (list(found) if isinstance(found, (list, tuple)) else found) != value:
            raise VtjaxError(f"{where}: {key} {found!r} is not supported; expected {value!r}")
    width, mlp_width = vision.get("hidden_size", 384), vision.get("intermediate_size", 1536)
    if mlp_width != 4 * width:
        raise VtjaxError(f"{where}: intermediate_size {mlp_width} is not supported; expected 4 times {width}")
    tokens = tuple(vision.get("num_group_tokens", (64, 8, 0)))
    groups = tuple(vision.get("num_output_groups", (64, 8, 8)))
    eot, vocab = text.get("eos_token_id", 49407), text.get("vocab_size", 49408)
    return GroupVitConfig(
        image_size=vision.get("image_size", 224),
        patch_size=vision.get("patch_size", 16),
        width=width,
        heads=vision.get("num_attention_heads", 6),
        mlp_width=mlp_width,
        depths=tuple(vision.get("depths", (6, 3, 3))),
        group_tokens=tokens,
        groups=tuple(g if t else 0 for g, t in zip(groups, tokens, strict=True)),
        text=TextConfig(
            vocab_size=vocab,
            context_length=text.get("max_position_embeddings", 77),
            width=text.get("hidden_size", 256),
            layers=text.get("num_hidden_layers", 12),
            heads=text.get("num_attention_heads", 4),
            mlp_width=text.get("intermediate_size", 1024),
            activation=text.get("hidden_act", "quick_gelu"),
            eot_id=None if eot in (2, vocab - 1) else eot,
        ),
        project_hidden=settings.get("projection_intermediate_dim", 4096),
        embed_dim=settings.get("projection_dim", 256),
        eps=vision.get("layer_norm_eps", 1e-5),
    )


def config_to_hf(config: GroupVitConfig, logit_scale: float) -> dict[str, Any]:
    """The config.json that transformers reads for `config`."""
    text = {
        "model_type": "groupvit_text_model",
        "vocab_size": config.text.vocab_size,
        "max_position_embeddings": config.text.context_length,
        "hidden_size": config.text.width,
        "num_hidden_layers": config.text.layers,
        "num_attention_heads": config.text.heads,
        "intermediate_size": config.text.mlp_width,
        "hidden_act": config.text.activation,
        "eos_token_id": 2 if config.text.eot_id is None else config.text.eot_id,  # 2: the largest id of the text
    }
    groups: list[int] = []  # a stage without grouping is said to keep the groups of the one before it
    for made, tokens in zip(config.groups, config.group_tokens, strict=True):
        groups.append(made if tokens else groups[-1] if groups else 0)
    vision = {
        "model_type": "groupvit_vision_model",
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": sum(config.depths),
        "depths": list(config.depths),
        "num_group_tokens": list(config.group_tokens),
        "num_output_groups": groups,
        "layer_norm_eps": config.eps,
    }
    return {
        "model_type": "groupvit",
        "architectures": ["GroupViTModel"],
        "projection_dim": config.embed_dim,
        "projection_intermediate_dim": config.project_hidden,
        "logit_scale_init_value": logit_scale,
        "vision_config": vision,
        "text_config": text,
    }


def entries(config: GroupVitConfig, layout: str) -> Iterator[tables.Entry]:
    """Every published tensor, without its prefix."""
    yield from (_hf if layout == "hf" else _released)(config)
    yield tables.same("logit_scale", "logit_scale")


def _stages(config: GroupVitConfig, stem: str, block: str, names: tables.Names, out: str) -> Iterator[tables.Entry]:
    previous = False
    for i, depth in enumerate(config.depths):
        ours, theirs = f"vision/stage_{i}/", stem.format(i=i)
        yield from tables.layers(ours, theirs + block, depth, names)
        if config.group_tokens[i]:
            yield tables.Entry(f"{theirs}group_token", (f"{ours}group_token",), "lead")
            yield from grouping(f"{ours}grouping/", f"{theirs}downsample.", out)
            if previous:
                mix = {"0": "projector_norm", "1.fc1": "projector_mix/up", "1.fc2": "projector_mix/down"}
                yield from tables.modules(ours, f"{theirs}group_projector.", mix)
        previous = bool(config.group_tokens[i])


def _projector(ours: str, hidden: str, norm: str, out: str, kind: str) -> Iterator[tables.Entry]:
    yield tables.Entry(f"{hidden}.weight", (f"{ours}hidden/kernel",), kind)
    yield tables.Entry(f"{hidden}.bias", (f"{ours}hidden/bias",), "flat")
    for leaf, mine in (("weight", "scale"), ("bias", "bias"), ("running_mean", "mean"), ("running_var", "variance")):
        yield tables.same(f"{ours}norm/{mine}", f"{norm}.{leaf}")
    yield tables.Entry(f"{out}.weight", (f"{ours}out/kernel",), kind)
    yield tables.Entry(f"{out}.bias", (f"{ours}out/bias",), "flat")


def _hf(config: GroupVitConfig) -> Iterator[tables.Entry]:
    embeddings = "vision_model.embeddings."
    yield tables.Entry(f"{embeddings}patch_embeddings.projection.weight", ("vision/patch_embedding/kernel",), "conv")
    yield tables.same("vision/patch_bias", f"{embeddings}patch_embeddings.projection.bias")
    yield tables.Entry(f"{embeddings}position_embeddings", ("vision/position_embedding",), "lead")
    yield from tables.modules("vision/", embeddings, {"layernorm": "patch_norm"})
    yield from _stages(config, "vision_model.encoder.stages.{i}.", "layers.{i}.", tables.HF_LAYER, "out_proj")
    yield from tables.modules("vision/", "vision_model.", {"layernorm": "norm"})
    yield tables.same("text/token_embedding/embedding", "text_model.embeddings.token_embedding.weight")
    yield tables.same("text/position_embedding", "text_model.embeddings.position_embedding.weight")
    inner = "text_model.encoder.layers.{i}."
    yield from tables.layers("text/transformer/", inner, config.text.layers, tables.HF_LAYER)
    yield from tables.modules("text/", "text_model.", {"final_layer_norm": "final_norm"})
    for ours, theirs in (("vision_projector/", "visual_projection"), ("text_projector/", "text_projection")):
        yield from _projector(ours, f"{theirs}.0", f"{theirs}.1", f"{theirs}.3", "dense")


def _released(config: GroupVitConfig) -> Iterator[tables.Entry]:
    yield tables.Entry("img_encoder.patch_embed.proj.weight", ("vision/patch_embedding/kernel",), "conv")
    yield tables.same("vision/patch_bias", "img_encoder.patch_embed.proj.bias")
    yield tables.Entry("img_encoder.pos_embed", ("vision/position_embedding",), "lead")
    yield from tables.modules("vision/", "img_encoder.", {"patch_embed.norm": "patch_norm", "norm": "norm"})
    yield from _stages(config, "img_encoder.layers.{i}.", "blocks.{i}.", BLOCK, "proj")
    yield from released_text("text/", config.text.layers)
    for ours, theirs in (("vision_projector/", "img_projector"), ("text_projector/", "text_projector")):
        hidden = f"{theirs}.linear_hidden"
        yield from _projector(ours, f"{hidden}.0", f"{hidden}.1", f"{theirs}.linear_out", "conv1")


def released_text(ours: str, layers: int) -> Iterator[tables.Entry]:
    """The text tower's names, which are CLIP's below "text_encoder."."""
    yield tables.same(f"{ours}token_embedding/embedding", "text_encoder.token_embedding.weight")
    yield tables.same(f"{ours}position_embedding", "text_encoder.positional_embedding")
    inner = "text_encoder.transformer.resblocks.{i}."
    yield from tables.layers(f"{ours}transformer/", inner, layers, tables.OPENAI_LAYER)
    yield from tables.modules(ours, "text_encoder.", {"ln_final": "final_norm"})


def init(config: GroupVitConfig) -> dict[str, Any]:
    """The module's own initial values; under `jax.eval_shape`, their shapes."""
    import jax
    import jax.numpy as jnp

    from vtjax.nn.groupvit import GroupVit

    images, ids = jnp.zeros((1, config.image_size, config.image_size, 3)), jnp.zeros((1, 2), jnp.int32)
    return GroupVit(config).init(jax.random.key(0), images, ids)["params"]


def detect(source: Source) -> bool:
    """Whether its settings say so, or its tensors have a grouping encoder's names over image patches."""
    if "model_type" in source.settings:
        return source.settings["model_type"] == "groupvit"
    return any(name.endswith(_MARKERS["released"]) for name in source.names)


def load(source: Source, options: Options) -> Loaded:
    """Parameters of `GroupVit`, from either layout."""
    layout, prefix, names, dropped = published_names(list(source.tensors), str(source.path))
    if layout == "hf":
        config = source.sizes(config_from_hf)
    else:
        config = config_from_tensors(source.shapes(names), str(source.path))
    described = {"model": to_dict(config), "layout": layout, "prefix": prefix}
    table = list(entries(config, layout))
    return tables.load(source, options, described, names, table, lambda: init(config), dropped=dropped)


def save(folder: Any, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """model.safetensors in the layout that it came in, with a config.json where that is Hugging Face's."""
    sizes, layout = from_dict(GroupVitConfig, dict(config["model"])), config["layout"]
    tensors = tables.save(folder, list(entries(sizes, layout)), lambda: init(sizes), params, config["prefix"])
    if layout == "hf":
        write_json(folder / "config.json", config_to_hf(sizes, float(tensors["logit_scale"])))
