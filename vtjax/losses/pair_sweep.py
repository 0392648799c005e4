"""Sums over all pairs of rows of a global batch, without the matrix of pairs, on a mesh that splits the batch.

`plan` decides how a batch is swept; `Plan.sweep` runs it. Device d holds its n of the N rows of both sides ("own" and
"guests" below):

* ring: the guests' rows go round the devices with `ppermute`, and what is summed for them travels along and comes home
  after the last hop. Every block of pairs is formed once, and no device ever holds more than its own rows, one visiting
  set of rows and one n x tile block, so memory grows linearly with the local batch.
* gather: both sides are gathered once, then read tile by tile. Each device forms its own rows' pairs and its own
  columns' pairs, so every block is formed twice and memory holds both sides of the global batch; one collective in
  place of one per hop, which is kinder to a slow network between slices.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from vtjax.arrays import Array
from vtjax.errors import VtjaxError, nearest
from vtjax.sharding.mesh import BATCH_AXES

IMPLEMENTATIONS = ("auto", "plain", "gather", "ring")
TILE = 1024  # columns of pairs that are formed at once
_LOWEST = -1e30  # stands for minus infinity; the difference of two of them is still a number

Tree = Any  # a pytree of arrays that all have one row per item in front
# (scalars, rows, columns) -> (sums over the columns of the block, sums over its rows)
Pair = Callable[[Any, Tree, Tree], tuple[Tree, Tree]]


class LogSum(NamedTuple):
    """log(sum(exp(x))) in parts: the largest x so far, and the sum of exp(x - largest)."""

    largest: Array
    total: Array

    def log_above(self, x: Array) -> Array:
        """log(sum(exp)) - x; the large parts are subtracted first, as they are nearly equal where it matters."""
        return self.largest - x + jnp.log(self.total)

    def share(self, logits: Array, axis: int) -> Array:
        """Softmax of a block of logits, the sum running along `axis`; of no meaning for items that are not valid."""
        largest, total = jnp.expand_dims(self.largest, axis), jnp.expand_dims(self.total, axis)
        return jnp.exp(logits - largest) / jnp.maximum(total, 1e-30)

    @staticmethod
    def of(logits: Array, valid: Array, axis: int) -> LogSum:
        """Of the logits of one block where `valid`, over one axis."""
        logits = jnp.where(valid, logits, _LOWEST)
        largest = jnp.max(logits, axis=axis)
        return LogSum(largest, jnp.sum(jnp.exp(logits - jnp.expand_dims(largest, axis)), axis=axis))

    def join(self, other: LogSum) -> LogSum:
        largest = jnp.maximum(self.largest, other.largest)
        ours, theirs = jnp.exp(self.largest - largest), jnp.exp(other.largest - largest)
        return LogSum(largest, self.total * ours + other.total * theirs)


def _join(a: Tree, b: Tree) -> Tree:
    is_log_sum = lambda x: isinstance(x, LogSum)
    return jax.tree.map(lambda x, y: x.join(y) if is_log_sum(x) else x + y, a, b, is_leaf=is_log_sum)


def _nothing(shapes: Tree) -> Tree:
    """What `_join` leaves unchanged, in the shape of a result."""

    def empty(x: Any) -> Any:
        if isinstance(x, LogSum):
            return LogSum(jnp.full(x.largest.shape, _LOWEST, x.largest.dtype), empty(x.total))
        return jnp.zeros(x.shape, x.dtype)

    return jax.tree.map(empty, shapes, is_leaf=lambda x: isinstance(x, LogSum))


@dataclasses.dataclass(frozen=True)
class Plan:
    """impl: "plain", "gather" or "ring". mesh, axes: where the batch is split; None and () for one device."""

    impl: str
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh | None
    axes: tuple[str, ...]
    tile: int

    def sweep(self, pair: Pair, scalars: Any, rows: Tree, columns: Tree) -> tuple[Tree, Tree]:
        """(what `pair` sums for each row, what it sums for each column) over all blocks of pairs.

        pair must treat an item whose arrays are all zero as absent: incomplete tiles are filled up with such items.
        Its results are float32 arrays or `LogSum`s with one entry per row, and per column.
        """
        run = _ring if self.impl == "ring" else _gather
        body = functools.partial(run, pair, self.axes, self.tile)
        if self.mesh is None:
            return body(scalars, rows, columns)
        split, whole = PartitionSpec(self.axes), PartitionSpec()
        return jax.shard_map(body, mesh=self.mesh, in_specs=(whole, split, split), out_specs=split)(
            scalars, rows, columns
        )


def plan(
    batch: int,
    impl: str = "auto",
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh | None = None,
    axes: Sequence[str] = BATCH_AXES,
    tile: int = TILE,
) -> Plan:
    """How to sweep a global batch of `batch` rows.

    impl: "auto" is plain for a batch of at most one tile on one device, gather across TPU slices, and ring otherwise.
    mesh: None takes the one of `jax.set_mesh`, if any; that one does not say whether it has several slices.

    Raises:
      VtjaxError: an unknown implementation or axis, a tile below 1, or a batch that the axes do not divide.
    """
    if impl not in IMPLEMENTATIONS:
        raise VtjaxError(f"impl={impl!r}: {nearest(impl, IMPLEMENTATIONS)}")
    if tile < 1:
        raise VtjaxError(f"tile={tile}: must be at least 1")
    if mesh is None:
        context = jax.sharding.get_abstract_mesh()
        mesh = None if context.empty or not any(a in context.shape for a in axes) else context
    if mesh is None:
        axes = ()
    for axis in axes:
        if axis not in mesh.shape:
            raise VtjaxError(f"axes={tuple(axes)}: the mesh has no axis {axis!r}; it has {', '.join(mesh.shape)}")
    ways = math.prod(mesh.shape[a] for a in axes) if axes else 1
    if batch % ways:
        raise VtjaxError(f"a batch of {batch} rows does not split over {ways} devices (axes {', '.join(axes)})")
    if impl == "auto":
        impl = "plain" if ways == 1 and batch <= tile else "gather" if _slices(mesh) > 1 else "ring"
    return Plan(impl, mesh, tuple(axes), tile)


def _slices(mesh: Any) -> int:
    if not isinstance(mesh, jax.sharding.Mesh):  # an abstract mesh has no devices
        return 1
    return len({getattr(d, "slice_index", 0) for d in mesh.devices.flat})


def _fold(visit: Callable[[Tree], tuple[Tree, Tree]], start: Tree, guests: Tree, tile: int) -> tuple[Tree, Tree]:
    """`visit` over tiles of the guests: its first results joined to `start`, its second ones one after another."""

    def step(sums: Tree, part: Tree) -> tuple[Tree, Tree]:
        mine, theirs = visit(part)
        return _join(sums, mine), theirs

    tiles = jax.tree.map(lambda x: x.reshape(-1, tile, *x.shape[1:]), guests)
    sums, theirs = jax.lax.scan(step, start, tiles)
    return sums, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), theirs)


def _tiled(tree: Tree, tile: int) -> tuple[Tree, int]:
    """Rows filled up with zeros to whole tiles of even size, and that size, at most `tile`."""
    rows = jax.tree.leaves(tree)[0].shape[0]
    size = math.ceil(rows / math.ceil(rows / tile))
    missing = -rows % size
    return jax.tree.map(lambda x: jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)), tree), size


def _start(results: Tree, axes: tuple[str, ...]) -> Tree:
    """Sums to begin with. A scan's carry must have one type: these differ from device to device, as the sums will."""
    start = _nothing(results)
    return jax.tree.map(lambda x: jax.lax.pcast(x, axes, to="varying"), start) if axes else start


def _ring(pair: Pair, axes: tuple[str, ...], tile: int, scalars: Any, rows: Tree, columns: Tree) -> tuple[Tree, Tree]:
    ways = jax.lax.axis_size(axes) if axes else 1
    onward = [(i, (i + 1) % ways) for i in range(ways)]

    def shift(tree: Tree) -> Tree:
        return tree if ways == 1 else jax.tree.map(lambda x: jax.lax.ppermute(x, axes, onward), tree)

    own = jax.tree.leaves(columns)[0].shape[0]
    columns, tile = _tiled(columns, tile)
    results = jax.eval_shape(pair, scalars, rows, columns)
    visit = lambda guests: pair(scalars, rows, guests)

    def hop(carry: tuple[Tree, Tree, Tree], _: None) -> tuple[tuple[Tree, Tree, Tree], None]:
        guests, mine, theirs = carry
        # The next guests, and the sums for these ones, are under way while the block is computed.
        coming, theirs = shift(guests), shift(theirs)
        mine, found = _fold(visit, mine, guests, tile)
        return (coming, mine, _join(theirs, found)), None

    mine, theirs = (_start(result, axes) for result in results)
    (_, mine, theirs), _ = jax.lax.scan(hop, (columns, mine, theirs), length=ways)
    return mine, jax.tree.map(lambda x: x[:own], shift(theirs))


def _gather(pair: Pair, axes: tuple[str, ...], tile: int, scalars: Any, rows: Tree, columns: Tree) -> tuple[Tree, Tree]:
    own = jax.tree.leaves(rows)[0].shape[0]
    (rows, columns), tile = _tiled((rows, columns), tile)
    results = jax.eval_shape(pair, scalars, rows, columns)
    everyone = lambda x: jax.lax.all_gather(x, axes, tiled=True) if axes else x
    sums = []
    for side, guests in enumerate((columns, rows)):
        if not jax.tree.leaves(results[side]):
            sums.append(results[side])
            continue
        visit = lambda part: (pair(scalars, rows, part)[0], ())
        if side:
            visit = lambda part: (pair(scalars, part, columns)[1], ())
        sums.append(_fold(visit, _start(results[side], axes), jax.tree.map(everyone, guests), tile)[0])
    return jax.tree.map(lambda x: x[:own], tuple(sums))
