"""Tensors by published name, read one by one when they are asked for."""

from __future__ import annotations

import abc
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vtjax.weights import report
from vtjax.weights.layout import Allow

Index = tuple[slice, ...]


class Weights(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint, none of them held; `_where` maps each name to what a subclass needs to read it."""

    _where: dict[str, Any]

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def __getitem__(self, name: str) -> np.ndarray:
        return self.read(name)

    @abc.abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Gives the shape of a tensor, without reading it."""

    @abc.abstractmethod
    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """A tensor, or the part of it that `index` names."""


class ArrayWeights(Weights):
    """Tensors that are in memory already."""

    def __init__(self, tensors: Mapping[str, np.ndarray]):
        self._where = dict(tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._where[name].shape)

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        return np.asarray(self._where[name])[index or ...]


def as_weights(tensors: Mapping[str, np.ndarray]) -> Weights:
    """`tensors` themselves where they are `Weights`."""
    return tensors if isinstance(tensors, Weights) else ArrayWeights(tensors)


class Tensors(Weights):
    """Tensors under other names, some left out and some added. names: name here -> name in `weights`; None is all."""

    def __init__(self, weights: Weights, names: Mapping[str, str] | None = None):
        self._weights = weights
        self._where = dict(names) if names is not None else {name: name for name in weights}

    def shape(self, name: str) -> tuple[int, ...]:
        where = self._where[name]
        return tuple(self._weights.shape(where) if isinstance(where, str) else where.shape)

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        where = self._where[name]
        return self._weights.read(where, index) if isinstance(where, str) else where[index or ...]

    def published_dtype(self) -> str:
        """Type of the first published tensor of floating point, "" where there is none; files have one type."""
        for name in (name for name, where in self._where.items() if isinstance(where, str)):
            first = self.read(name, tuple(slice(0, 1) for _ in self.shape(name)))
            if first.dtype.kind == "f" or first.dtype.name.startswith(("bfloat", "float")):
                return first.dtype.name
        return ""

    def reconcile(
        self, expected: Mapping[str, Sequence[str]], random: Callable[[], Mapping[str, np.ndarray]], allow: Allow
    ) -> Reconciled:
        """Takes out the unused tensors that `allow` names, and puts random ones in for missing ones that it names.

        Args:
          expected: published name -> names of the parameters made from it. random: all tensors, from the model's
            initial values; called only where something is missing. allow: the named misfits.
        """
        left_out = [name for name in self if name not in expected and _matches(name, allow.unused)]
        for name in left_out:
            del self._where[name]

        def may_be_missing(name: str) -> bool:
            ours = expected[name]
            return _matches(name, allow.missing) or (bool(ours) and all(_matches(o, allow.missing) for o in ours))

        made = [name for name in expected if name not in self and may_be_missing(name)]
        if made:
            initial = random()
            self._where |= {name: np.asarray(initial[name]) for name in made}
        names = {n for name in made for n in (name, *expected[name])}
        return Reconciled(tuple(left_out), tuple(made), frozenset(names))


@dataclasses.dataclass(frozen=True)
class Reconciled:
    """left_out, made: published names. made_names: those, and the parameters' own."""

    left_out: tuple[str, ...]
    made: tuple[str, ...]
    made_names: frozenset[str]

    def amend(self, result: report.MatchReport) -> report.MatchReport:
        """Adds to a report of `report.match` what it was not shown."""
        return dataclasses.replace(
            result,
            matched=tuple(n for n in result.matched if n not in self.made_names),
            missing=(*result.missing, *self.made),
            unused=(*result.unused, *self.left_out),
        )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)
