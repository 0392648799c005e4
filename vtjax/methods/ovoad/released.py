"""OV-OAD's released names to this method's parameters, and back (docs/methods/ovoad.md).

The released code has the encoder with one cross attention, or none; of the paper's decoder no names are known. The
tensors do not tell how a window is split (24 past frames and 8 near ones in all that was released), nor the heads (8).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vtjax.config import from_dict, to_dict
from vtjax.errors import VtjaxError
from vtjax.methods.ovoad.config import OvoadConfig, OvoadModelConfig, OvoadTextConfig
from vtjax.nn.clip import ClipConfig, TextConfig
from vtjax.weights import tables
from vtjax.weights.layout import Loaded, Options
from vtjax.weights.source import Source

MARKER = "img_encoder.layers.1.group_token"
VISION = "a copy of CLIP's vision tower; frame features come from their own encoder here"
NEAR = 8
_NO_PARAMETERS = ((r"img_encoder\.vision_backbone\.(?!.*adaptmlp).+", VISION),)


# A block's modules, query, key and value in one.
_BLOCK: tables.Names = {
    "norm1": "norm1",
    "attn.qkv": ("attention/query", "attention/key", "attention/value"),
    "attn.proj": "attention/out",
    "norm2": "norm2",
    "mlp.fc1": "ffn/up",
    "mlp.fc2": "ffn/down",
}


def published_names(names: Sequence[str], where: str = "checkpoint") -> tuple[str, dict[str, str], dict[str, str]]:
    """Sorts names into (prefix of every name, name without it -> name, name that is no parameter -> why).

    Raises:
      VtjaxError: not an OV-OAD.
    """
    return tables.published(names, {"released": MARKER}, where, "an OV-OAD", _NO_PARAMETERS)[1:]


def config_from_tensors(
    shapes: Mapping[str, tuple[int, ...]], where: str = "checkpoint"
) -> tuple[OvoadConfig, ClipConfig]:
    """Reads the method's settings from the tensors, and the encoder's sizes, of which the text tower's are known.

    Raises:
      VtjaxError: a tensor is missing that a size is read from.
    """
    try:
        _, length, width = shapes["img_encoder.pos_embed"]
        dntr, cluster, group = (tables.count(shapes, rf"img_encoder\.layers\.{i}\.blocks\.(\d+)\.") for i in range(3))
        branch = "img_encoder.layers.0.long_short_xattn.norm_post.weight" in shapes
        adapter = shapes.get("text_encoder.transformer.resblocks.0.adaptmlp.down_proj.weight", (0,))[0]
        joint, hidden = shapes["img_projector.linear_out.weight"]
        model = OvoadModelConfig(
            width=width,
            past=length - NEAR,
            near=NEAR,
            mlp_ratio=shapes["img_encoder.layers.0.blocks.0.mlp.fc1.weight"][0] // width,
            dntr="encoder_xattn" if branch else "encoder",
            dntr_layers=dntr,
            cluster_layers=cluster,
            group_layers=group,
            groups=shapes[MARKER][1],
            out_groups=shapes["img_encoder.layers.1.downsample.mlp_inter.fc2.weight"][0],
            project_hidden=hidden,
            joint_width=joint,
        )
        text = _text_config(shapes)
        space = "eot" if shapes["saliency_projector"][1] == text.width else "projected"
        embed_dim = shapes["text_encoder.text_projection"][1]
    except (KeyError, ValueError, IndexError) as error:
        raise VtjaxError(f"{where}: no tensor {error}, so not an OV-OAD") from error
    method = OvoadConfig(model=model, text=OvoadTextConfig(adapter=adapter, current_space=space))
    return method, ClipConfig(embed_dim, text=text)


def _text_config(shapes: Mapping[str, tuple[int, ...]]) -> TextConfig:
    """Reads sizes of the text tower; heads are 64 wide.

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


def _cross_attention() -> dict[str, str]:
    """Names of a `CrossAttentionBlock`."""
    names = {f"attn.{n[0]}_proj": f"attention/{n}" for n in ("query", "key", "value")}
    ffn = {"mlp.fc1": "ffn/up", "mlp.fc2": "ffn/down"}
    return names | {"attn.proj": "attention/out", "norm2": "norm2", "norm_post": "norm_post"} | ffn


def _grouping(ours: str, theirs: str) -> Iterator[tables.Entry]:
    """Entries of a `GroupingBlock`."""
    norms = {n: n for n in ("norm_tokens", "norm_post_tokens", "norm_x", "norm_new_x")}
    mix = {"mlp_inter.fc1": "mix/up", "mlp_inter.fc2": "mix/down"}
    assign = {f"assign.{n[0]}_proj": f"assign/{n}" for n in ("query", "key", "value")} | {"assign.proj": "assign/out"}
    channels = {"mlp_channels.fc1": "ffn/up", "mlp_channels.fc2": "ffn/down"}
    yield from tables.modules(ours, theirs, norms | mix | assign | channels)
    yield from tables.modules(f"{ours}pre_assign/", f"{theirs}pre_assign_attn.", _cross_attention())


def _text(ours: str, layers: int) -> Iterator[tables.Entry]:
    """The text tower's names, which are CLIP's below "text_encoder."."""
    yield tables.same(f"{ours}token_embedding/embedding", "text_encoder.token_embedding.weight")
    yield tables.same(f"{ours}position_embedding", "text_encoder.positional_embedding")
    inner = "text_encoder.transformer.resblocks.{i}."
    yield from tables.layers(f"{ours}transformer/", inner, layers, tables.OPENAI_LAYER)
    yield from tables.modules(ours, "text_encoder.", {"ln_final": "final_norm"})


def entries(config: OvoadConfig, sizes: ClipConfig) -> Iterator[tables.Entry]:
    """Lists every published tensor, without its prefix.

    Raises:
      VtjaxError: a variant of the model for which no names were released.
    """
    model = config.model
    if model.dntr not in ("encoder_xattn", "encoder") or model.unit != "grouping" or not model.clustering:
        raise VtjaxError(
            f"no names were released for an OV-OAD with dntr={model.dntr!r}, unit={model.unit!r}, "
            f"clustering={model.clustering}; they are known for dntr='encoder_xattn' or 'encoder' with unit='grouping'"
        )
    yield tables.Entry("img_encoder.pos_embed", ("visual/position",), "lead")
    stages = (("dntr", model.dntr_layers), ("cluster", model.cluster_layers), ("group_layers", model.group_layers))
    for i, (ours, depth) in enumerate(stages):
        for j in range(depth):
            theirs = f"img_encoder.layers.{i}.blocks.{j}."
            yield from tables.modules(f"visual/{ours}_{j}/", theirs, _BLOCK)
    if model.dntr == "encoder_xattn":
        branch = "img_encoder.layers.0.long_short_xattn."
        yield from tables.modules("visual/current_attention/", branch, _cross_attention())
    yield tables.Entry(MARKER, ("visual/group_token",), "lead")
    yield from _grouping("visual/unit/", "img_encoder.layers.1.downsample.")
    yield from tables.modules("visual/", "img_encoder.", {"norm": "norm"})
    for ours, theirs in (("visual_projector/", "img_projector."), ("text_projector/", "text_projector.")):
        names = {"linear_hidden.0": "hidden", "linear_hidden.1": "norm", "linear_out": "out"}
        yield from tables.modules(ours, theirs, names)
    yield from _text("text/", sizes.text.layers)
    yield tables.same("text/projection/kernel", "text_encoder.text_projection")
    for i in range(sizes.text.layers if config.text.adapter else 0):
        ours, theirs = f"text/transformer/layer_{i}/parallel_adapter/", f"text_encoder.transformer.resblocks.{i}."
        yield from tables.modules(ours, theirs, {"adaptmlp.down_proj": "down", "adaptmlp.up_proj": "up"})
    yield tables.same("current_projection/kernel", "saliency_projector")
    yield tables.same("logit_scale", "logit_scale")
    yield tables.same("multi_label_scale", "multi_label_logit_scale")


def init(config: OvoadConfig, sizes: ClipConfig) -> dict[str, Any]:
    """Makes the module's initial values; under `jax.eval_shape`, their shapes."""
    import jax
    import jax.numpy as jnp

    from vtjax.methods.ovoad.task import OvoadObjective

    length = config.model.past + config.model.near
    batch = {
        "features": jnp.zeros((1, length, config.model.width)),
        "valid": jnp.ones((1, length), bool),
        "current_ids": jnp.zeros((1, 2), jnp.int32),
    }
    return OvoadObjective(config, sizes).init(jax.random.key(0), batch)


def detect(source: Source) -> bool:
    """Says whether its tensors have a grouping encoder's names over frames, and not over image patches (GroupViT)."""
    patches = any(name.endswith("img_encoder.patch_embed.proj.weight") for name in source.names)
    return any(name.endswith(MARKER) for name in source.names) and not patches


def load(source: Source, options: Options) -> Loaded:
    """Loads this method's parameters, from a state dict of the released code's grammar."""
    prefix, names, dropped = published_names(list(source.tensors), str(source.path))
    method, sizes = config_from_tensors(source.shapes(names), str(source.path))
    described = {"method": to_dict(method), "sizes": to_dict(sizes), "prefix": prefix}
    table = list(entries(method, sizes))
    return tables.load(source, options, described, names, table, lambda: init(method, sizes), dropped=dropped)


def save(folder: Any, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Writes model.safetensors with the released names."""
    method, sizes = from_dict(OvoadConfig, dict(config["method"])), from_dict(ClipConfig, dict(config["sizes"]))
    table = list(entries(method, sizes))
    tables.save(folder, table, lambda: init(method, sizes), params, config["prefix"])
