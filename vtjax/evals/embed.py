"""Embeddings of many items in batches of one static shape, each computed once on all devices; means and cosines.

Of several processes each reads the rows that its devices hold, and all get all results; rows that fill up the last
batch are left out again.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from vtjax.arrays import Array
from vtjax.errors import VtjaxError
from vtjax.sharding.mesh import BATCH_AXES, batch_sharding, global_batch, host_rows, replicated


def mesh_of(params: Any) -> jax.sharding.Mesh | None:
    """The mesh of more than one device that parameters lie on, None for arrays of one device or of numpy."""
    for leaf in jax.tree.leaves(params):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, jax.sharding.NamedSharding):
            return sharding.mesh if sharding.mesh.size > 1 else None  # type: ignore[return-value]
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
    """Computes function(params, batch(rows)) of all items, in order.

    Args:
      function: jitted; every array it returns has the batch as its first dimension, and must not mix rows. One and the
        same object for calls with the same shapes, or each compiles anew.
      params: the function's first argument; the mesh they lie on is the one that batches are shared out over.
      items: of a sequence each process reads only the rows its devices hold, any other iterable is read whole by all.
      batch: rows to a tree of numpy arrays [rows, ...].
      size: rows per batch, rounded up to what the devices divide.

    Returns:
      A tree of numpy arrays [N, ...], the same on every process.
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


def embed_distinct(items: Sequence[Hashable], encode: Callable[[list[Any]], Any]) -> Any:
    """Encodes each distinct item once, so that equal items have bitwise equal rows.

    Args:
      items: N texts, or other hashable things.
      encode: the K distinct items to a tree of arrays [K, ...].

    Returns:
      A tree of numpy arrays [N, ...], one row per item, in order.

    Raises:
      VtjaxError: `encode` gives another number of rows.
    """
    places = {item: place for place, item in enumerate(dict.fromkeys(items))}
    rows = [places[item] for item in items]

    def take(encoded):
        encoded = np.asarray(encoded)
        if encoded.shape[:1] != (len(places),):
            raise VtjaxError(
                f"encoding {len(places)} items must give a row or one number each, got {list(encoded.shape)}"
            )
        return encoded[rows]

    return jax.tree.map(take, encode(list(places)))


def class_means(
    rows: Float[Array, "prompts width"], counts: Sequence[int], normalise: bool = True
) -> Float[Array, "classes width"]:
    """Averages the embeddings of each class's prompts (CLIP, section 3.1.4).

    Args:
      rows: embeddings [P, D] of all classes' prompts, one class after the other.
      counts: the number of prompts of each of C classes; they sum to P.
      normalise: whether each mean is scaled to length 1.

    Returns:
      [C, D], of the type of `rows`.
    """
    means = np.stack([part.mean(axis=0) for part in np.split(rows, np.cumsum(counts)[:-1])])
    return unit_rows(means) if normalise else means


def unit_rows(x: Float[Array, "*rows width"]) -> Float[Array, "*rows width"]:
    """Scales rows [..., D] to length 1; rows of zeros stay."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def cosines(a: Float[Array, "n width"], b: Float[Array, "m width"]) -> Float[Array, "n m"]:
    """Cosines [N, M] of rows [N, D] and [M, D]."""
    return unit_rows(a) @ unit_rows(b).T


def _chunks(items: Iterable[Any], size: int) -> Iterable[tuple[int, Callable[[int], Any]]]:
    """(number of items, a function from the place of one to it) for each batch."""
    if isinstance(items, Sequence):
        for begin in range(0, len(items), size):
            yield min(size, len(items) - begin), lambda i, begin=begin: items[begin + i]  # type: ignore[misc]
        return
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield len(chunk), chunk.__getitem__
