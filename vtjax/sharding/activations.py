"""Where activations lie on the mesh, by logical names; does nothing without one.

XLA places what no rule speaks of. Between layers one thing must be said, that the batch stays split: parameters
are split over the batch's axes too (fsdp), and it may otherwise move the activations to them and not the other way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vtjax.errors import VtjaxError, nearest
from vtjax.sharding.mesh import BATCH_AXES

# Logical dimension of an activation -> mesh axes. Those of parameters are in sharding/partition.py.
LOGICAL: Mapping[str, tuple[str, ...]] = {
    "batch": BATCH_AXES,
    "rows": ("data",),  # of a batch while the fsdp axis splits its width
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
}


def constrain(x: jax.Array, *names: Any, logical: Mapping[str, tuple[str, ...]] = LOGICAL) -> jax.Array:
    """`x` with each dimension split as its name says: None is whole, names of `logical` over their mesh axes.

    names: one for each dimension; the first may be followed by `...` for any number of whole ones. The mesh is that of
    the program being traced, read off the type of `x`; without one, inside `shard_map`, and on a single device x comes
    back as it is. A dimension that its axes do not divide is left to XLA.

    Raises:
      VtjaxError: an unknown name, or another number of them than x has dimensions.
    """
    if ... in names:
        at = names.index(...)
        names = (*names[:at], *(None,) * (x.ndim - len(names) + 1), *names[at + 1 :])
    unknown = [n for n in names if n is not None and n not in logical]
    if unknown or len(names) != x.ndim:
        reason = nearest(unknown[0], logical) if unknown else f"x has the shape {x.shape}"
        raise VtjaxError(f"constrain(x, {', '.join(map(str, names))}): {reason}")
    mesh = jax.typeof(x).sharding.mesh
    if mesh.empty or mesh.size == 1 or any(kind != AxisType.Auto for kind in mesh.axis_types):
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, _spec(x.shape, names, mesh, logical)))


def _spec(shape: Sequence[int], names: Sequence[str | None], mesh, logical) -> PartitionSpec:
    parts = []
    for size, name in zip(shape, names, strict=True):
        axes = tuple(a for a in logical.get(name, ()) if mesh.shape.get(a, 1) > 1)
        divides = size % math.prod(mesh.shape[a] for a in axes) == 0
        parts.append((axes or None) if divides else PartitionSpec.UNCONSTRAINED)
    return PartitionSpec(*parts)
