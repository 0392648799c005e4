"""Key maps as tables: one `Entry` for each published tensor, read and written by the same few lines.

Torch keeps linear weights as [out, in] with heads flat; here a kernel is [in, out], or [in, heads, head_dim].
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vtjax.errors import VtjaxError
from vtjax.trees import flatten, unflatten
from vtjax.weights import report
from vtjax.weights.layout import Loaded, Options
from vtjax.weights.safetensors_io import write_safetensors
from vtjax.weights.source import Source
from vtjax.weights.tensors import Tensors, as_weights

# Published name of each module of a pre-norm layer -> ours; several of ours are stacked in one published tensor.
HF_LAYER: dict[str, str | tuple[str, ...]] = {
    "self_attn.q_proj": "attention/query",
    "self_attn.k_proj": "attention/key",
    "self_attn.v_proj": "attention/value",
    "self_attn.out_proj": "attention/out",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "mlp.fc1": "ffn/up",
    "mlp.fc2": "ffn/down",
}
OPENAI_LAYER: dict[str, str | tuple[str, ...]] = {
    "attn.in_proj_": ("attention/query", "attention/key", "attention/value"),
    "attn.out_proj": "attention/out",
    "ln_1": "norm1",
    "ln_2": "norm2",
    "mlp.c_fc": "ffn/up",
    "mlp.c_proj": "ffn/down",
}
Names = Mapping[str, str | tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One published tensor and the parameters it holds, "a/b/c" names.

    kind: "same" shape and values; "flat" biases, heads and parts concatenated; "dense" matrices, published as
    [out, in] with heads flat and parts stacked; "conv" kernels, published as [out, in, height, width]; "conv1" a dense
    matrix published as a convolution of size 1, [out, in, 1]; "lead" published with a leading axis of 1.
    """

    theirs: str
    ours: tuple[str, ...]
    kind: str

    def published_shape(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """Gives the shape of the tensor for parameters of these shapes."""
        if self.kind in ("dense", "conv1"):
            outs = [math.prod(shape) // _inputs(name, shape) for name, shape in zip(self.ours, shapes, strict=True)]
            return (sum(outs), _inputs(self.ours[0], shapes[0]), *([1] if self.kind == "conv1" else []))
        if self.kind == "flat":
            return (sum(map(math.prod, shapes)),)
        (shape,) = shapes
        if self.kind == "lead":
            return (1, *shape)
        return (shape[3], shape[2], shape[0], shape[1]) if self.kind == "conv" else tuple(shape)

    def publish(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """The published tensor of these parameters."""
        if self.kind in ("dense", "conv1"):
            parts = [v.reshape(_inputs(n, v.shape), -1).T for n, v in zip(self.ours, values, strict=True)]
            matrix = np.concatenate(parts) if len(parts) > 1 else np.ascontiguousarray(parts[0])
            return matrix[..., None] if self.kind == "conv1" else matrix
        if self.kind == "flat":
            return np.concatenate([v.reshape(-1) for v in values])
        (value,) = values
        if self.kind == "lead":
            return value[None]
        return np.ascontiguousarray(value.transpose(3, 2, 0, 1)) if self.kind == "conv" else value

    def parameters(self, value: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        """The inverse of `publish`, new arrays of these shapes."""
        if self.kind == "conv":
            value = value.transpose(2, 3, 1, 0)
        elif self.kind == "conv1":
            value = value[..., 0]
        parts = np.split(value, len(shapes)) if len(shapes) > 1 else [value]
        parts = [part.T if self.kind in ("dense", "conv1") else part for part in parts]
        return [np.array(part, order="C").reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _inputs(name: str, shape: tuple[int, ...]) -> int:
    """Rows of a kernel as a matrix: an attention's `out` takes [heads, head_dim], all others one axis."""
    return math.prod(shape[:-1]) if name.endswith("out/kernel") else shape[0]


def same(ours: str, theirs: str) -> Entry:
    """Makes the entry of one tensor that stays as it is."""
    return Entry(theirs, (ours,), "same")


def modules(ours: str, theirs: str, names: Names, bias: bool = True) -> Iterator[Entry]:
    """Lists weights and biases of dense layers and norms (those with "norm" in our name), `names` below two prefixes.

    A published name that ends in "_" has its leaf's name right behind it: "attn.in_proj_" + "weight".
    """
    for published, mine in names.items():
        mine = (mine,) if isinstance(mine, str) else mine
        dot = "" if published.endswith("_") else "."
        norm = "norm" in mine[0].rsplit("/", 1)[-1]
        leaves = [("weight", "scale" if norm else "kernel", "same" if norm else "dense")]
        for suffix, leaf, kind in leaves + ([("bias", "bias", "flat")] if bias else []):
            paths = tuple(f"{ours}{name}/{leaf}" for name in mine)
            yield Entry(f"{theirs}{published}{dot}{suffix}", paths, kind)


def layers(ours: str, theirs: str, count: int, names: Names) -> Iterator[Entry]:
    """Lists `modules` of a stack of layers; `ours` precedes "layer_0/...", in `theirs` "{i}" is the layer's number."""
    for i in range(count):
        yield from modules(f"{ours}layer_{i}/", theirs.format(i=i), names)


def published(
    names: Sequence[str],
    markers: Mapping[str, str],
    where: str,
    what: str,
    no_parameters: Sequence[tuple[str, str]] = (),
) -> tuple[str, str, dict[str, str], dict[str, str]]:
    """Sorts the names of a checkpoint.

    Args:
      markers: layout -> a name that stands in every checkpoint of it, perhaps behind a prefix ("module.", "clip.").
      what: "a CLIP", for the message. no_parameters: (pattern of complete names without prefix, why); the first counts.

    Returns:
      (layout, prefix of every name, name without it -> name, name that is no parameter -> why).

    Raises:
      VtjaxError: no marker there, so the checkpoint is not `what`.
    """
    for layout, marker in markers.items():  # noqa: B007  the one that was found
        full = next((n for n in names if n == marker or n.endswith("." + marker)), None)
        if full is not None:
            break
    else:
        shown = ", ".join(list(names)[:4])
        raise VtjaxError(f"{where}: no {' or '.join(markers.values())} in it, so not {what}; found {shown}, ...")
    prefix = full[: -len(marker)]
    bare = {name.removeprefix(prefix): name for name in names}
    reasons = {n: next((why for pattern, why in no_parameters if re.fullmatch(pattern, n)), "") for n in bare}
    kept = {n: full for n, full in bare.items() if not reasons[n]}
    return layout, prefix, kept, {bare[n]: why for n, why in reasons.items() if why}


def count(names: Mapping[str, Any], pattern: str) -> int:
    """Counts what the first group of a pattern matches at the names' beginnings: a stack's layers."""
    return len({m[1] for name in names if (m := re.match(pattern, name))})


@dataclasses.dataclass(frozen=True)
class Shape:
    """What `report.match` compares of a tensor that is not read."""

    shape: tuple[int, ...]


def shapes_of(tree: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Gives shapes by "a/b/c" name, of nested dicts of arrays or of anything with a shape."""
    return {name: tuple(leaf.shape) for name, leaf in flatten(tree).items()}


def initial_shapes(init: Callable[[], Mapping[str, Any]]) -> dict[str, tuple[int, ...]]:
    """Gives shapes by "a/b/c" name of a model's initial values, which are not made."""
    import jax

    return shapes_of(jax.eval_shape(init))


def read(
    table: Sequence[Entry],
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, np.ndarray],
    where: str = "checkpoint",
    dtype: Any = np.float32,
    allow_unused: Sequence[str] = (),
    by_ours: bool = False,
) -> tuple[dict[str, Any], report.MatchReport]:
    """Makes parameters from published tensors.

    Shapes are compared as published, before anything is read: turned first, a wrong matrix could pass for a right one.

    Args:
      shapes: of every parameter by "a/b/c" name. tensors: may be lazy; each is read once. where: names them in
        messages. dtype: of the parameters. allow_unused: patterns of names. by_ours: the report has our names of what
        the table holds; else published ones.

    Returns:
      The parameters, nested dicts, and the report.

    Raises:
      VtjaxError: a tensor is missing, of another shape, or unused and not named in `allow_unused`.
    """
    tensors = as_weights(tensors)
    shown = {e.theirs: e.ours[0] if by_ours else e.theirs for e in table}
    expected = {shown[e.theirs]: Shape(e.published_shape([shapes[n] for n in e.ours])) for e in table}
    published = {shown.get(name, name): Shape(tensors.shape(name)) for name in tensors}
    result = report.match(expected, published).raise_if_incomplete(allow_unused=allow_unused, source=where)
    params: dict[str, Any] = {}
    for entry in table:
        value = np.asarray(tensors[entry.theirs]).astype(dtype, copy=False)
        params |= zip(entry.ours, entry.parameters(value, [shapes[n] for n in entry.ours]), strict=True)
    return unflatten(params), result


def write(
    table: Sequence[Entry], shapes: Mapping[str, tuple[int, ...]], params: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Gives tensors under their published names; the exact inverse of `read`.

    Raises:
      VtjaxError: parameters of other names or shapes.
    """
    flat = flatten(params)
    wanted = {name: Shape(shape) for name, shape in shapes.items()}
    report.match(wanted, flat).raise_if_incomplete(source="parameters")
    return {e.theirs: e.publish([np.asarray(flat[n]) for n in e.ours]) for e in table}


def load(
    source: Source,
    options: Options,
    config: dict[str, Any],
    names: Mapping[str, str],
    table: Sequence[Entry],
    init: Callable[[], Mapping[str, Any]],
    *,
    dropped: Mapping[str, str] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    **how: Any,
) -> Loaded:
    """Loads a source, and accounts for every tensor.

    Args:
      config: of the result. names: published name as the table has it -> name in the source. init: the model's initial
        values, made only where --allow_missing lets a tensor be missing. dropped: name in the source -> why it is no
        parameter. shapes: of the parameters, where they are known without `init`. how: `read`'s further arguments.

    Raises:
      VtjaxError: as `read`.
    """
    import jax

    tensors = Tensors(source.tensors, names)
    shapes = initial_shapes(init) if shapes is None else shapes
    expected = {e.theirs: e.ours for e in table}
    done = tensors.reconcile(expected, lambda: write(table, shapes, jax.jit(init)()), options.allow)
    dtype = np.dtype(options.dtype or "float32")
    params, result = read(table, shapes, tensors, str(source.path), dtype, **how)
    result = dataclasses.replace(done.amend(result), dropped=tuple((dropped or {}).items()))
    return Loaded(params, config, result, tensors.published_dtype())


def save(
    folder: Any,
    table: Sequence[Entry],
    init: Callable[[], Mapping[str, Any]],
    params: Mapping[str, Any],
    prefix: str = "",
) -> dict[str, np.ndarray]:
    """Writes model.safetensors; gives the tensors by name without `prefix`.

    Raises:
      VtjaxError: as `write`.
    """
    tensors = write(table, initial_shapes(init), params)
    write_safetensors(pathlib.Path(folder) / "model.safetensors", {prefix + name: x for name, x in tensors.items()})
    return tensors
