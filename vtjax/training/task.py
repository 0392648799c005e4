"""What a method hands to the training loop: a handful of pure functions over plain pytrees, and its data."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from vtjax.config import Optim, Train
from vtjax.errors import VtjaxError
from vtjax.sharding.partition import Rules

Batch = Mapping[str, Any]
Metrics = Mapping[str, tuple[jax.Array, jax.Array]]


class Examples(Protocol):
    """Random access: a list, or anything that has a length and gives a record for each index below it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Task:
    """One stage of a method; without source and transform it can be compiled and timed, not trained.

    example_spec: shape and dtype of every field of one example; a batch adds a leading dimension of train.batch_size.
    init: (rng, batch) -> params, a nested dict of arrays; traced only.
    loss: (params, batch, rng, train) -> {name: (sum, weight)}, scalars over the whole batch; "loss" is the objective.
    rules: partition table of the parameters (sharding/partition.py).
    source: random-access examples; source[i] is a dict or any record that `transform` takes.
    transform: (record, rng) -> dict of example_spec's arrays; its rng depends on the seed and the position only.
    evaluate: (params) -> results with .protocol and .metrics, called at train.eval_every and at the end.
    start: (params) -> params with pretrained weights put in, called once on a fresh start.
    fingerprint: names the data; a resumed run must have the same.
    """

    name: str
    train: Train
    optim: Optim
    example_spec: Mapping[str, jax.ShapeDtypeStruct]
    init: Callable[[jax.Array, Batch], dict]
    loss: Callable[[dict, Batch, jax.Array, bool], Metrics]
    rules: Rules
    source: Examples = ()
    transform: Callable[[Any, np.random.Generator], dict[str, np.ndarray]] | None = None
    evaluate: Callable[[dict], list[Any]] | None = None
    start: Callable[[dict], dict] | None = None
    fingerprint: str = ""

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of one global batch."""
        return {
            name: jax.ShapeDtypeStruct((self.train.batch_size, *spec.shape), spec.dtype)
            for name, spec in self.example_spec.items()
        }


def field(batch: Batch, name: str) -> Any:
    """Takes a field of a batch.

    Raises:
      VtjaxError: it is not there; those that are there are named.
    """
    if name not in batch:
        raise VtjaxError(f"batch has no {name!r}, which this configuration needs; it has {', '.join(sorted(batch))}")
    return batch[name]


def stream(rng: jax.Array, name: str) -> jax.Array:
    """Folds a key for one purpose out of `rng`: streams of different names are independent."""
    return jax.random.fold_in(rng, zlib.crc32(name.encode()) & 0x7FFFFFFF)
