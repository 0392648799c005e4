"""Released names of the temporal alignment network (arXiv 2204.02968) to `vtjax.nn.temporal_aligner`, and back.

MPTVA released nothing; a student of ours is written in the same grammar, its text transformer under the names that the
grammar would give it (text_temporal_encoder, ln_text_post_enc).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vtjax.config import from_dict, to_dict
from vtjax.errors import VtjaxError
from vtjax.nn.temporal_aligner import AlignerConfig
from vtjax.weights import tables
from vtjax.weights.layout import Loaded, Options
from vtjax.weights.source import Source

TEACHER = "the teacher, a moving average of the online model"
ALIAS = "the online model's words once more"
UNUSED = "declared but not used by the model"
WORDS = ("lang_model", "bert")  # spellings of the text module


@dataclasses.dataclass(frozen=True)
class Spelling:
    """prefix: before every name ("module.online."). words: the text module's name."""

    prefix: str = ""
    words: str = WORDS[0]


def published_names(names: Sequence[str]) -> tuple[Spelling, dict[str, str], dict[str, str]]:
    """Sorts names into (spelling, name without prefix -> name, name that is no parameter -> why)."""
    module = "module." if names and all(n.startswith("module.") for n in names) else ""
    online = any(n.startswith(f"{module}online.") for n in names)
    prefix = module + ("online." if online else "")
    bare = {n.removeprefix(prefix): n for n in names if n.startswith(prefix)}
    words = next((w for w in WORDS if f"{w}.word_embd.weight" in bare), WORDS[0])
    dropped = {}
    for name in names if online else ():
        inner = name.removeprefix(module)
        if inner.startswith("target."):
            dropped[name] = TEACHER
        elif inner.startswith(tuple(f"{w}." for w in WORDS)):
            dropped[name] = ALIAS
    for leaf in ("mlp.weight", "mlp.bias"):
        if leaf in bare:
            dropped[bare.pop(leaf)] = UNUSED
    # What is under no known prefix stays visible under its whole name.
    bare |= {n: n for n in names if n not in dropped and not n.startswith(prefix)}
    return Spelling(prefix, words), bare, dropped


def config_from_tensors(shapes: Mapping[str, tuple[int, ...]], words: str, where: str = "checkpoint") -> AlignerConfig:
    """Reads sizes from the tensors; they do not tell the number of heads, which is 8 in all that was released.

    Raises:
      VtjaxError: a tensor is missing that a size is read from.
    """

    layers: dict[str, Any] = {
        f"{stack}_layers": tables.count(shapes, rf"{stack}_temporal_encoder\.resblocks\.(\d+)\.")
        for stack in ("video", "text", "joint")
    }
    try:
        width, features = shapes["video_pre_proj.weight"]
        return AlignerConfig(
            features=features,
            words=shapes[f"{words}.word_embd.weight"][0],
            word_width=shapes[f"{words}.word_embd.weight"][1],
            word_hidden=shapes[f"{words}.fc1.weight"][0],
            text_features=shapes[f"{words}.fc2.weight"][0],
            width=width,
            ffn_width=shapes["joint_temporal_encoder.resblocks.0.mlp.c_fc.weight"][0],
            **layers,
            positions=shapes["temporal_pos_embed"][0],
            joint_from="encoded" if layers["text_layers"] else "embedded",
            alignability="binary_head.weight" in shapes,
        )
    except (KeyError, ValueError) as error:
        raise VtjaxError(f"{where}: no tensor {error}, so not a temporal alignment network") from error


def entries(config: AlignerConfig, words: str = WORDS[0]) -> Iterator[tables.Entry]:
    """Lists every published tensor, without its prefix."""
    yield tables.same("position_embedding", "temporal_pos_embed")
    yield tables.same("text_position_embedding", "text_temporal_pos_embed")
    yield tables.same("words/embedding/embedding", f"{words}.word_embd.weight")
    yield from tables.modules("words/", f"{words}.", {"fc1": "hidden", "fc2": "out"})
    projections = {"video_pre_proj": "video_projection", "text_pre_proj": "text_projection"}
    yield from tables.modules("", "", projections, bias=False)
    norms = {"ln_text_init": "text_norm", "ln_video_init": "video_norm", "ln_position_init": "position_norm"}
    yield from tables.modules("", "", norms)
    for stack in ("video", "text", "joint"):
        count = getattr(config, f"{stack}_layers")
        inner = f"{stack}_temporal_encoder.resblocks." + "{i}."
        yield from tables.layers(f"{stack}_encoder/", inner, count, tables.OPENAI_LAYER)
        if count:
            yield from tables.modules(f"{stack}_encoder/", "", {f"ln_{stack}_post_enc": "final_norm"})
    if config.alignability:
        yield from tables.modules("", "", {"binary_head": "alignability"})


def init(config: AlignerConfig) -> dict[str, Any]:
    """Makes the module's initial values; under `jax.eval_shape`, their shapes."""
    import jax
    import jax.numpy as jnp

    from vtjax.nn.temporal_aligner import TemporalAligner

    features, ids = jnp.zeros((1, 1, config.features)), jnp.zeros((1, 1, 1), jnp.int32)
    return TemporalAligner(config).init(jax.random.key(0), features, ids)["params"]


def detect(source: Source) -> bool:
    """Says whether its tensors have the joint transformer's names."""
    return any("joint_temporal_encoder.resblocks." in name for name in source.names)


def load(source: Source, options: Options) -> Loaded:
    """Loads parameters of `TemporalAligner`, of the online model of its training or of one model alone."""
    spelling, names, dropped = published_names(list(source.tensors))
    config = config_from_tensors(source.shapes(names), spelling.words, str(source.path))
    described = {"aligner": to_dict(config), "spelling": to_dict(spelling)}
    table = list(entries(config, spelling.words))
    return tables.load(source, options, described, names, table, lambda: init(config), dropped=dropped)


def save(folder: Any, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Writes model.safetensors with the released names, prefix and spelling as they came."""
    aligner = from_dict(AlignerConfig, dict(config["aligner"]))
    spelling = from_dict(Spelling, dict(config["spelling"]))
    table = list(entries(aligner, spelling.words))
    tables.save(folder, table, lambda: init(aligner), params, spelling.prefix)
