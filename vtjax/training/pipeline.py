"""Batches whose content is a pure function of (seed, step): the same on any number of hosts, workers or restarts.

Randomness is attached to an example's global position before the hosts' rows are cut out of it, so
nothing but the seed and the step has to be saved. A row has the same place in the global batch on any number of hosts:
what a step draws by row (dropout, sampling) then stays with its example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import jax
import numpy as np
from absl import flags

from vtjax.config import Loader
from vtjax.errors import VtjaxError
from vtjax.training.task import Examples


class _Transform(grain.transforms.RandomMap):
    """Applies a task's transform and checks what comes out against its spec."""

    def __init__(self, function: Callable, spec: Mapping[str, jax.ShapeDtypeStruct]):
        self._function = function
        self._spec = {name: (tuple(s.shape), np.dtype(s.dtype)) for name, s in spec.items()}

    def random_map(self, element: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
        example = self._function(element, rng)
        check_example(example, self._spec)
        return example


class _Rows(grain.MapDataset):
    """Of an endless stream of global batches from `start_step` on, the given rows of each, batch after batch."""

    def __init__(self, parent: grain.MapDataset, rows: Sequence[int] | np.ndarray, batch_size: int, start_step: int):
        super().__init__(parent)
        self._rows, self._batch_size, self._start_step = tuple(int(r) for r in rows), batch_size, start_step

    def __len__(self) -> int:
        return (len(self._parent) // self._batch_size - self._start_step) * len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        step, place = divmod(index, len(self._rows))
        return self._parent[(self._start_step + step) * self._batch_size + self._rows[place]]


def check_example(example: Mapping[str, np.ndarray], spec: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> None:
    """Raises VtjaxError where an example differs from {field: (shape, dtype)}, naming the field and both sides."""
    if set(example) != set(spec):
        missing, extra = sorted(set(spec) - set(example)), sorted(set(example) - set(spec))
        raise VtjaxError(f"an example has the wrong fields: missing {missing}, unexpected {extra}")
    for name, (shape, dtype) in spec.items():
        value = example[name]
        if value.shape != shape or value.dtype != dtype:
            raise VtjaxError(f"field {name!r} is {value.dtype}{list(value.shape)}, expected {dtype}{list(shape)}")


def train_batches(
    source: Examples,
    transform: Callable[[Any, np.random.Generator], dict[str, np.ndarray]],
    spec: Mapping[str, jax.ShapeDtypeStruct],
    *,
    seed: int,
    batch_size: int,
    start_step: int = 0,
    loader: Loader = Loader(),
    rows: Sequence[int] | np.ndarray | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches from `start_step` on.

    rows: places in the global batch that are read, in this order; None is all of them. On several hosts each reads
    those that its devices hold (parallel.mesh.host_rows).
    Each epoch is shuffled anew; batches run across epoch ends, so no example is dropped.

    Raises:
      VtjaxError: an empty source.
    """
    if len(source) == 0:
        raise VtjaxError("the training data is empty")
    rows = range(batch_size) if rows is None else rows
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags
    data = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    data = data.random_map(_Transform(transform, spec))
    data = _Rows(data, rows, batch_size, start_step).batch(len(rows), drop_remainder=True)
    threads = max(1, loader.threads)
    data = data.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(loader.prefetch, 1)))
    if loader.workers:
        ahead = max(1, loader.prefetch)
        data = data.mp_prefetch(grain.MultiprocessingOptions(loader.workers, per_worker_buffer_size=ahead))
    return iter(data)
