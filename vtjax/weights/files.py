"""From a path to the one checkpoint in it, whatever its format."""

from __future__ import annotations

import json
import mmap
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vtjax.errors import VtjaxError
from vtjax.files import write_atomically
from vtjax.weights import torch_reader, torchscript
from vtjax.weights.safetensors_io import SafetensorsReader
from vtjax.weights.tensors import ArrayWeights, Index, Weights

TORCH_INDEX = "pytorch_model.bin.index.json"
TORCH_FILE = "pytorch_model.bin"
_OPEN_CLIP_FILE = "open_clip_pytorch_model.bin"


def read_json(path: pathlib.Path) -> Any:
    """Reads a JSON file.

    Raises:
      VtjaxError: not there, or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise VtjaxError(f"{path}: no such file; expected a folder in the Hugging Face layout") from error
    except ValueError as error:
        raise VtjaxError(f"{path}: not JSON ({error})") from error


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a settings file."""
    write_atomically(path, json.dumps(value, indent=2))


def open_weights(path: str | os.PathLike[str], inert: Sequence[str] = ()) -> Weights:
    """Opens the tensors of one file, or of the one checkpoint in a folder; each is mapped, or read when asked for.

    Args:
      path: of a folder, its safetensors where there are any, else its `pytorch_model*.bin`, open_clip's .bin, or its
        only .pt file. inert: see `torch_reader.read_torch`.

    Raises:
      VtjaxError: none or several in a folder, or as the readers.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        if any(path.glob("*.safetensors")):
            return SafetensorsReader(path)
        if (path / TORCH_FILE).is_file() or (path / TORCH_INDEX).is_file():
            return TorchShards(path)
        files = [path / _OPEN_CLIP_FILE] if (path / _OPEN_CLIP_FILE).is_file() else sorted(path.glob("*.pt"))
        if len(files) != 1:
            listed = f"; found {', '.join(f.name for f in files)}" if files else ""
            expected = f"expected model.safetensors or {TORCH_FILE}, whole or in shards, or {_OPEN_CLIP_FILE}"
            raise VtjaxError(f"{path}: {'several' if files else 'no'} weights; {expected}{listed}")
        path = files[0]
    if path.suffix in (".safetensors", ".json"):
        return SafetensorsReader(path)
    if torchscript.is_torchscript(path):
        return ArrayWeights(torchscript.read_torchscript(path))
    return ArrayWeights(torch_reader.read_state_dict(path, inert=inert))


class TorchShards(Weights):
    """Reads the `.bin` files of a Hugging Face folder, one open at a time; names come shard by shard.

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


def _drop_pages(value: np.ndarray) -> None:
    """Gives back the memory behind an array that is mapped from a file; whoever reads it again reads the file."""
    base: Any = value
    while base is not None and not isinstance(base, np.memmap):
        base = getattr(base, "base", None)
    mapped = getattr(base, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
