"""A function of parameters over many items, in batches of one static shape, each item computed once on all devices.

Of several processes each reads the rows that its devices hold, and all get all results; rows that fill up the last batch
are left out again.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from vtjax.sharding.mesh import BATCH_AXES, batch_sharding, global_batch, host_rows, replicated


def mesh_of(params: Any) -> jax.sharding.Mesh | None:
    """The mesh of more than one device that parameters lie on, None for arrays of one device or of numpy."""
    for leaf in jax.tree.leaves(params):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, jax.sharding.NamedSharding):
            return sharding.mesh if sharding.mesh.size > 1 else None
    return None


@functools.lru_cache(maxsize=32)
def _gathering(function: Callable, mesh: jax.sharding.Mesh) -> Callable:
    return jax.jit(lambda params, batch: function(params, batch), out_shardings=replicated(mesh))


def in_batches(
    function: Callable[[Any, Any], Any],
    params: Any,
    items: Iterable[Any],
    batch: Callable[[list[Any]], Any],
    size: int,
) -> Any:
    """function(params, batch(rows)) of all items, in order: a tree of numpy arrays [N, ...], the same on every process.

    function: jitted; every array it returns has the batch as its first dimension, and must not mix rows. One and the
    same object for calls with the same shapes, or each compiles anew.
    items: of a sequence only own rows are read, any other iterable is read whole by every process.
    batch: rows to a tree of numpy arrays [rows, ...]. size: rows per batch, rounded up to what the devices divide.
    """
    mesh = mesh_of(params)
    if mesh is None:
        place, call, rows_held = (lambda x: x), function, None
    else:
        ways = int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))
        size = -(-size // ways) * ways
        sharding = batch_sharding(mesh)
        place, call = functools.partial(global_batch, sharding=sharding), _gathering(function, mesh)
        rows_held = host_rows(sharding, size)
    out = []
    for real, row in _chunks(items, size):
        places = [min(int(i), real - 1) for i in (range(size) if rows_held is None else rows_held)]
        read = {i: row(i) for i in dict.fromkeys(places)}
        result = call(params, place(batch([read[i] for i in places])))
        out.append(jax.tree.map(lambda x: np.asarray(x)[:real], result))  # noqa: B023
    return jax.tree.map(lambda *parts: np.concatenate(parts), *out)


def stacked(rows: Sequence[tuple]) -> tuple[np.ndarray, ...]:
    """Rows of several fields to one array of each, for `in_batches`."""
    return tuple(np.stack(field) for field in zip(*rows, strict=True))


def _chunks(items: Iterable[Any], size: int) -> Iterable[tuple[int, Callable[[int], Any]]]:
    """(number of items, a function from the place of one to it) for each batch."""
    if isinstance(items, Sequence):
        for begin in range(0, len(items), size):
            yield min(size, len(items) - begin), lambda i, begin=begin: items[begin + i]
        return
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield len(chunk), chunk.__getitem__
