"""Safetensors files, single or sharded, read one tensor at a time."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vtjax.errors import VtjaxError, nearest
from vtjax.files import write_atomically
from vtjax.weights.tensors import Weights

INDEX_SUFFIX = ".safetensors.index.json"
MAPPED_BYTES = 16 << 20  # read through one mapping before it is given up; its pages count as this process's memory


class SafetensorsReader(Weights):
    """Reads the tensors of one checkpoint by name, each from disk when it is asked for; none is kept.

    Args:
      path: a .safetensors file, an index.json of a sharded checkpoint, or a folder that holds exactly one of them.

    Raises:
      VtjaxError: no checkpoint or more than one, a damaged or truncated file, an index that names a shard
        or a tensor that is not there.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = _find(pathlib.Path(path))
        self._handles: dict[pathlib.Path, safe_open] = {}
        self._where: dict[str, pathlib.Path] = {}
        self._mapped = 0
        if self.path.name.endswith(".json"):
            self._open_index()
        else:
            self._where = dict.fromkeys(self._open(self.path).keys(), self.path)

    def _open(self, path: pathlib.Path) -> safe_open:
        try:
            self._handles[path] = safe_open(str(path), "numpy")
        except (SafetensorError, OSError, ValueError) as error:
            raise VtjaxError(
                f"{path}: not a whole safetensors file ({error}; {path.stat().st_size} bytes). "
                "It is truncated or damaged: copy or download it again"
            ) from error
        return self._handles[path]

    def _open_index(self) -> None:
        try:
            weight_map = json.loads(self.path.read_text())["weight_map"]
            shards = sorted(set(weight_map.values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise VtjaxError(f"{self.path}: not a safetensors index with a 'weight_map' of names ({error})") from error
        paths = {shard: self.path.parent / pathlib.PurePath(shard).name for shard in shards}
        lost = [shard for shard, path in paths.items() if not path.is_file()]
        if lost:
            raise VtjaxError(f"{self.path}: {len(lost)} of {len(shards)} shards are not there: {', '.join(lost[:5])}")
        held = {shard: set(self._open(path).keys()) for shard, path in paths.items()}
        for name, shard in weight_map.items():
            if name not in held[shard]:
                raise VtjaxError(f"{self.path}: tensor {name!r} is listed in {shard} but is not in that file")
            self._where[name] = paths[shard]

    def _handle(self, name: str) -> safe_open:
        if name not in self._where:
            raise KeyError(f"{self.path}: no tensor {name!r}; {nearest(name, self._where)}")
        path = self._where[name]
        return self._handles.get(path) or self._open(path)

    def shape(self, name: str) -> tuple[int, ...]:
        """Gives the shape of a tensor, from the header alone."""
        return tuple(self._handle(name).get_slice(name).get_shape())

    def dtype_name(self, name: str) -> str:
        """Type of a tensor as the format names it ("F32", "BF16", ...), from the header alone."""
        return self._handle(name).get_slice(name).get_dtype()

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        """Reads a tensor, or only the part of it that `index` names.

        Raises:
          KeyError: no such tensor.
          VtjaxError: a type that numpy cannot hold, or a damaged file.
        """
        if self._mapped > MAPPED_BYTES:
            self._handles.clear()
            self._mapped = 0
        handle = self._handle(name)
        try:
            value = handle.get_tensor(name) if index is None else handle.get_slice(name)[index]
            self._mapped += value.nbytes
            return value
        except AttributeError as error:
            raise VtjaxError(f"{self._where[name]}: {name!r} has type {self.dtype_name(name)}, not readable") from error
        except (SafetensorError, OSError, ValueError) as error:
            raise VtjaxError(f"{self._where[name]}: cannot read {name!r} ({error})") from error


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    max_shard_bytes: int = 5_000_000_000,
) -> list[pathlib.Path]:
    """Writes `tensors` to `path`, or to numbered shards beside it with an index where they pass `max_shard_bytes`.

    Every file appears complete or not at all.

    Args:
      path: ends in .safetensors. tensors: may be lazy; they are iterated once and at most one shard is held.
      max_shard_bytes: of one file.

    Returns:
      The files written, the index last.

    Raises:
      VtjaxError: another ending than .safetensors, a type that the format does not have, or no room on the disk.
    """
    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise VtjaxError(f"{path}: the name of a safetensors file must end in .safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial: list[tuple[pathlib.Path, list[str]]] = []
    total = held = 0
    shard: dict[str, np.ndarray] = {}

    def flush() -> None:
        temporary = path.with_name(f".{path.stem}.{os.getpid()}.{len(partial)}.partial")
        partial.append((temporary, list(shard)))
        try:
            save_file(shard, str(temporary), metadata={"format": "pt"})
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        except SafetensorError as error:
            raise VtjaxError(f"{path}: cannot be written ({error})") from error
        shard.clear()

    try:
        for name, value in tensors.items():
            value = np.asarray(value)
            if shard and held + value.nbytes > max_shard_bytes:
                flush()
                held = 0
            shard[name] = value if value.flags.c_contiguous else np.array(value, order="C")
            held += value.nbytes
            total += value.nbytes
        flush()
        if len(partial) == 1:
            os.replace(partial[0][0], path)
            return [path]
        weight_map, written = {}, []
        for number, (temporary, names) in enumerate(partial, 1):
            target = path.with_name(f"{path.stem}-{number:05d}-of-{len(partial):05d}.safetensors")
            os.replace(temporary, target)
            written.append(target)
            weight_map.update(dict.fromkeys(names, target.name))
        index = path.with_name(path.stem + INDEX_SUFFIX)
        write_atomically(index, json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=1))
        return [*written, index]
    finally:
        for temporary, _ in partial:
            temporary.unlink(missing_ok=True)


def _find(path: pathlib.Path) -> pathlib.Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise VtjaxError(f"{path}: no such file or folder; expected a .safetensors file or a folder with one")
    files = sorted(path.glob("*" + INDEX_SUFFIX)) or sorted(path.glob("*.safetensors"))
    preferred = [f for f in files if f.name in ("model.safetensors", "model" + INDEX_SUFFIX)]
    if len(files) != 1 and len(preferred) != 1:
        what = ", ".join(f.name for f in files[:5]) or "none"
        raise VtjaxError(f"{path}: expected one safetensors checkpoint, found {what}; name the file itself")
    return (preferred or files)[0]
