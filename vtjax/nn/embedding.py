"""Looking rows up in a table that is split over the mesh."""

from __future__ import annotations

from collections.abc import Callable

import jax

from vtjax.sharding.activations import constrain


def lookup(table: Callable[[jax.Array], jax.Array], ids: jax.Array) -> jax.Array:
    """table(ids): int32 [B, ...] -> [B, ..., width], the batch split as that of any activation.

    On a mesh each device looks its columns up for its whole row of the fsdp axis, and the columns are then exchanged
    for rows: ids and results travel, never the table, which may be larger than either.
    """
    ids = constrain(ids, "rows", ...)
    return constrain(constrain(table(ids), "rows", ..., "embed"), "batch", ...)
