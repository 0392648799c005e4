"""Checkpoints read tensor by tensor, or slice by slice, and laid straight into sharded arrays."""

from __future__ import annotations

import functools
import json
import mmap
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from vtjax.errors import VtjaxError
from vtjax.weights import torch_reader
from vtjax.weights.safetensors_io import SafetensorsReader

TORCH_INDEX = "pytorch_model.bin.index.json"
TORCH_FILE = "pytorch_model.bin"
Index = tuple[slice, ...]


class Weights(Protocol):
    """Tensors by published name, none of them held."""

    def __iter__(self) -> Iterator[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def read(self, name: str, index: Index | None = None) -> np.ndarray: ...


class ArrayWeights:
    """Tensors that are in memory already."""

    def __init__(self, tensors: Mapping[str, np.ndarray]):
        self._tensors = tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        return np.asarray(self._tensors[name])[index or ...]


class TorchShards:
    """The `.bin` files of a Hugging Face folder, one open at a time; names come shard by shard.

    Raises:
      VtjaxError: as `torch_reader`; an index that names a shard that is not there or a tensor that is not in its shard.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = pathlib.Path(folder)
        self._open: tuple[pathlib.Path, dict[str, np.ndarray]] | None = None
        listed = self._listed()
        lost = [str(path) for path in listed if not path.is_file()]
        if lost:
            raise VtjaxError(f"{self.folder}: {len(lost)} of {len(listed)} shards are not there: {', '.join(lost[:5])}")
        self._where: dict[str, tuple[pathlib.Path, tuple[int, ...]]] = {}
        for path, names in listed.items():
            held = torch_reader.read_state_dict(path, verify=False)
            for name in held if names is None else names:
                if name not in held:
                    raise VtjaxError(f"{path}: tensor {name!r} is listed in the index but is not in this file")
                self._where[name] = path, held[name].shape

    def _listed(self) -> dict[pathlib.Path, list[str] | None]:
        index = self.folder / TORCH_INDEX
        if not index.is_file():
            return {self.folder / TORCH_FILE: None}
        try:
            weight_map = json.loads(index.read_text())["weight_map"]
            shards: dict[pathlib.Path, list[str] | None] = {}
            for name, shard in weight_map.items():
                shards.setdefault(self.folder / pathlib.PurePath(shard).name, []).append(name)
            return shards
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise VtjaxError(f"{index}: not an index with a 'weight_map' of names ({error})") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._where[name][1])

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """A copy of a tensor, or of the part of it that `index` names."""
        path = self._where[name][0]
        if self._open is None or self._open[0] != path:
            self._open = None
            self._open = path, torch_reader.read_state_dict(path)
            for value in self._open[1].values():
                _drop_pages(value)  # the check of the sums has touched them all
        value = self._open[1][name]
        part = np.array(value[index or ...])
        _drop_pages(value)
        return part


def open_weights(folder: str | os.PathLike[str]) -> SafetensorsReader | TorchShards:
    """The weights of a Hugging Face folder: safetensors where there are any, else `pytorch_model*.bin`.

    Raises:
      VtjaxError: neither, or as the readers.
    """
    folder = pathlib.Path(folder)
    if any(folder.glob("*.safetensors")):
        return SafetensorsReader(folder)
    if (folder / TORCH_FILE).is_file() or (folder / TORCH_INDEX).is_file():
        return TorchShards(folder)
    raise VtjaxError(f"{folder}: no weights; expected model.safetensors or pytorch_model.bin, whole or in shards")


def place(read: Callable[[Index | None], np.ndarray], shape: tuple[int, ...], sharding: Any) -> jax.Array:
    """A global array whose shards are read one by one; each host reads only what its own devices hold."""
    parts: dict[str, np.ndarray] = {}

    def part(index: Index) -> np.ndarray:
        if str(index) not in parts:  # replicas ask for the same part
            value = np.ascontiguousarray(read(tuple(index)))
            parts[str(index)] = value.astype(np.float32) if value.dtype == np.float64 else value
        return parts[str(index)]

    return jax.make_array_from_callback(shape, sharding, part)


def zeros(leaf: jax.ShapeDtypeStruct, sharding: Any) -> jax.Array:
    """An array of zeros that is born sharded."""
    return jax.jit(functools.partial(jnp.zeros, leaf.shape, leaf.dtype), out_shardings=sharding)()


def _drop_pages(value: np.ndarray) -> None:
    """Gives back the memory behind an array that is mapped from a file; whoever reads it again reads the file."""
    base: Any = value
    while base is not None and not isinstance(base, np.memmap):
        base = getattr(base, "base", None)
    mapped = getattr(base, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
