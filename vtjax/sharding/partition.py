"""Parameter sharding by one table: path regex -> logical axes -> mesh axes, validated before anything is allocated."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from vtjax.errors import VtjaxError, nearest

AnyMesh = jax.sharding.Mesh | jax.sharding.AbstractMesh
Rules = Sequence[tuple[str, tuple[str | None, ...]]]

# Logical axis -> mesh axis. "embed" rows are split by fsdp, the wide dimension of each matmul by tensor.
LOGICAL_AXES: Mapping[str, str | tuple[str, ...] | None] = {
    "embed": "fsdp",
    "mlp": "tensor",
    "heads": "tensor",
    "vocab": "tensor",
    "layers": None,
}


def path_name(path: Sequence[Any]) -> str:
    """A jax key path as "a/b/c"."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves of a pytree by "a/b/c" path."""
    return {path_name(p): leaf for p, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


@dataclasses.dataclass(frozen=True)
class Partition:
    """Shardings of a parameter tree, and what they cost."""

    shardings: Any
    specs: dict[str, PartitionSpec]
    replicated_bytes: int
    total_bytes: int

    def summary(self) -> str:
        share = 100 * self.replicated_bytes / max(self.total_bytes, 1)
        return (
            f"{len(self.specs)} parameter arrays, {self.total_bytes / 2**20:.1f} MiB, "
            f"of which {self.replicated_bytes / 2**20:.1f} MiB ({share:.0f} %) on every device"
        )


def partition(
    params: Any, rules: Rules, mesh: AnyMesh, logical: Mapping[str, Any] = LOGICAL_AXES
) -> Partition:
    """Shardings for `params` (arrays or ShapeDtypeStructs).

    Each leaf takes the first rule whose regex matches its whole path from any "/" on. A rule's axes name the last
    dimensions of the array; leading ones (stacked layers) are whole. A mesh axis of size 1 is left out of the spec.

    Raises:
      VtjaxError: a parameter without a rule, a rule longer than the array's rank or with an unknown axis, or an
        indivisible dimension; all offenders are listed at once.
    """
    specs: dict[str, PartitionSpec] = {}
    problems: list[str] = []
    replicated_bytes = total_bytes = 0
    for name, leaf in flatten(params).items():
        axes = next((a for pattern, a in rules if re.search(rf"(^|/)({pattern})$", name)), None)
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        total_bytes += size
        if axes is None:
            problems.append(f"{name} {leaf.shape}: no partition rule matches")
            continue
        if len(axes) > len(leaf.shape):
            problems.append(f"{name} {leaf.shape}: rule {axes} has more axes than the array")
            continue
        axes = (None,) * (len(leaf.shape) - len(axes)) + tuple(axes)
        spec = []
        for dim, axis in zip(leaf.shape, axes, strict=True):
            if axis is not None and axis not in logical:
                problems.append(f"{name} {leaf.shape}: no logical axis {axis!r}; {nearest(axis, logical)}")
            mesh_axis = logical.get(axis)
            joined = (mesh_axis,) if isinstance(mesh_axis, str) else mesh_axis or ()
            ways = math.prod(mesh.shape[a] for a in joined)
            if dim % ways:
                problems.append(f"{name} {leaf.shape}: {axis}={dim} is not divisible by mesh axis {mesh_axis}={ways}")
            spec.append(mesh_axis if ways > 1 else None)
        while spec and spec[-1] is None:
            spec.pop()
        specs[name] = PartitionSpec(*spec)
        if not spec:
            replicated_bytes += size
    if problems:
        raise VtjaxError("parameters cannot be partitioned:\n  " + "\n  ".join(problems))
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    placed = [NamedSharding(mesh, specs[path_name(p)]) for p, _ in leaves]
    shardings = jax.tree_util.tree_unflatten(structure, placed)
    return Partition(shardings, specs, replicated_bytes, total_bytes)


def like_params(state: Any, params: Any, specs: Mapping[str, PartitionSpec], mesh: AnyMesh) -> Any:
    """Shardings for an optimizer state: a leaf whose path ends in a parameter's path, with its shape, goes with it."""
    shapes = {name: leaf.shape for name, leaf in flatten(params).items()}

    def sharding(path, leaf):
        parts = path_name(path).split("/")
        for start in range(len(parts)):
            name = "/".join(parts[start:])
            if shapes.get(name) == leaf.shape:
                return NamedSharding(mesh, specs[name])
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(sharding, state)


def split(params: Any, pattern: str) -> tuple[dict, dict]:
    """(trainable, frozen) nested dicts by regex over "a/b/c" paths; split before grad so that frozen leaves have none.

    Raises:
      VtjaxError: the pattern matches no parameter.
    """
    trainable: dict = {}
    frozen: dict = {}
    for name, leaf in flatten(params).items():
        target = trainable if re.search(pattern, name) else frozen
        *parents, last = name.split("/")
        for part in parents:
            target = target.setdefault(part, {})
        target[last] = leaf
    if not trainable:
        example = next(iter(flatten(params)))
        raise VtjaxError(f"train.trainable={pattern!r} matches none of the parameters, for example {example!r}")
    return trainable, frozen


def merge(a: dict, b: dict) -> dict:
    """The union of two nested dicts with no leaf in common."""
    out = dict(a)
    for key, value in b.items():
        if key in out:
            out[key] = merge(out[key], value)
        else:
            out[key] = value
    return out
