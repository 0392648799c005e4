"""`.pt`, `.pth` and `.bin` files without torch, and without running anything that they contain.

A torch file is a pickle that describes tensors plus the raw bytes of their storages: a zip archive since torch 1.6, a
plain sequence of pickles before. The pickle is read by an unpickler that has no way to import or call
(`vtjax.weights.pickle_machine`): it builds Python containers, and the few calls that describe a tensor are recognised
by name. Every other name is an error that states it.
"""

from __future__ import annotations

import io
import os
import pathlib
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vtjax.errors import VtjaxError
from vtjax.weights.pickle_machine import Global, Machine, Storage, Tensor

# What damaged bytes make zipfile, struct and the unpickler raise.
DAMAGE = (zipfile.BadZipFile, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, OSError,
          RuntimeError, OverflowError, zlib.error, struct.error, pickle.UnpicklingError)  # fmt: skip
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# Classes of the settings and numbers that released checkpoints keep beside their weights: read as nothing (`Inert`).
SETTINGS = (
    "yacs.config.CfgNode",
    "mmcv.utils.config.Config",
    "mmcv.utils.config.ConfigDict",
    "argparse.Namespace",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "_codecs.encode",
)
_USUAL_KEYS = ("state_dict", "model_state_dict", "model", "net", "module")


def read_state_dict(
    path: str | os.PathLike[str], key: str | None = None, inert: Sequence[str] = (), verify: bool = True
) -> dict[str, np.ndarray]:
    """Reads the state dict of a torch file.

    Args:
      key: which entry of the file holds it, "a/b" for an entry of an entry. None takes the file's top level, or the
        only entry there that is a state dict; of several, the first with a usual name ("state_dict", "model", ...).
      inert, verify: see `read_torch`.

    Returns:
      Tensor name -> read-only array, mapped from the file where it is a zip.

    Raises:
      VtjaxError: as `read_torch`; no state dict under `key`; an entry that is neither tensor nor number.
    """
    entry = tree = read_torch(path, inert, verify)
    for part in key.split("/") if key else ():
        if not isinstance(entry, Mapping) or part not in entry:
            raise VtjaxError(f"{path}: no entry {key!r}; {_contents(tree)}")
        entry = entry[part]
    if key is None and isinstance(entry, Mapping) and not _is_state_dict(entry):
        entry = entry[_entry(entry, str(path))]
    if not isinstance(entry, Mapping) or not all(isinstance(k, str) for k in entry):
        raise VtjaxError(f"{path}: not a dictionary of tensors; {_contents(entry)}")
    for name, value in entry.items():
        if not isinstance(value, (np.ndarray, bool, int, float)):
            raise VtjaxError(f"{path}: entry {name!r} is a {type(value).__name__}, not a tensor; {_contents(tree)}")
    return {name: np.asarray(value) for name, value in entry.items()}


def beside_state_dict(path: str | os.PathLike[str], inert: Sequence[str] = ()) -> tuple[str, ...]:
    """Lists entries of a torch file that `read_state_dict` does not take: optimizer, epoch, settings, ...

    Raises:
      VtjaxError: as `read_state_dict`.
    """
    tree = read_torch(path, inert, verify=False)
    if not isinstance(tree, Mapping) or _is_state_dict(tree):
        return ()
    taken = _entry(tree, str(path))
    return tuple(str(name) for name in tree if name != taken)


def read_torch(path: str | os.PathLike[str], inert: Sequence[str] = (), verify: bool = True) -> Any:
    """Reads all that a torch file holds, as dicts, lists, tuples, numbers, strings and arrays.

    Args:
      inert: full names of classes whose objects may stand in the file; each is replaced by an `Inert` that knows only
        that name. verify: check the sums that a zip keeps of its storages (one read through the file).

    Raises:
      VtjaxError: not a torch file, truncated or damaged, a TorchScript archive, a sparse or quantized tensor, or a
        global other than those that describe tensors: it is named, and not run.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise VtjaxError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if start != b"PK\x03\x04" and tarfile.is_tarfile(path):
            raise VtjaxError(
                f"{path}: a tar archive. Where torch before 0.1.10 wrote it, load and save it there again; otherwise "
                "unpack it and name the file of weights"
            )
        return read_zip(path, inert, verify) if start == b"PK\x03\x04" else _read_legacy(path, inert)
    except VtjaxError:
        raise
    except DAMAGE as error:
        what = f"{type(error).__name__}: {error}"
        raise VtjaxError(f"{path}: truncated, damaged, or not a torch file ({what})") from error


def _materialise(tree: Any, raw: Callable[[Storage], np.ndarray], where: str) -> Any:
    """Replaces every described tensor in nested containers by an array; what is shared stays shared."""
    done: dict[int, Any] = {}

    def visit(value: Any, where: str) -> Any:
        if id(value) not in done:
            done[id(value)] = convert(value, where)
        return done[id(value)]

    def convert(value: Any, where: str) -> Any:
        if isinstance(value, Tensor):
            return value.rebuild(raw(value.storage), where)
        if isinstance(value, dict):
            return {k: visit(v, f"{where}: {k}") for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(visit(v, f"{where}: {i}") for i, v in enumerate(value))
        return value.name if isinstance(value, Global) else value

    return visit(tree, where)


def read_zip(path: pathlib.Path, inert: Sequence[str], verify: bool, machine: type[Machine] = Machine) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename.split("/", 1)[-1]: info for info in archive.infolist()}
        read = [e for name, e in entries.items() if name in ("data.pkl", "byteorder") or name.startswith("data/")]
        packed = next((e for e in read if e.compress_type != zipfile.ZIP_STORED and e.file_size), None)
        if packed is not None:
            raise VtjaxError(
                f"{path}: {packed.filename} is compressed to {packed.compress_size:,} from a claimed "
                f"{packed.file_size:,} bytes, which torch.save does not do; save it again with torch"
            )
        if "constants.pkl" in entries and machine is Machine:
            raise VtjaxError(
                f"{path}: a TorchScript program, not weights; save its state_dict() instead, or read the weights out "
                "of it with vtjax.weights.torchscript"
            )
        if "data.pkl" not in entries:
            raise VtjaxError(f"{path}: a zip archive, but without the data.pkl of a torch file")
        if "byteorder" in entries and archive.read(entries["byteorder"]).strip() != b"little":
            raise VtjaxError(f"{path}: saved on a big-endian machine, which is not supported")
        tree = machine(io.BytesIO(archive.read(entries["data.pkl"])), str(path), inert).load()
        raws: dict[str, np.ndarray] = {}

        def raw(storage: Storage) -> np.ndarray:
            if storage.key not in raws:
                entry = entries.get(f"data/{storage.key}")
                if entry is None:
                    raise VtjaxError(f"{path}: the bytes of storage {storage.key} are not in the archive")
                raws[storage.key] = _zip_bytes(path, archive, entry, verify)
            return raws[storage.key]

        return _materialise(tree, raw, str(path))


def _zip_bytes(path: pathlib.Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, verify: bool) -> np.ndarray:
    if entry.file_size == 0:
        return np.zeros(0, np.uint8)
    with path.open("rb") as file:  # the local header has its own name and padding lengths
        file.seek(entry.header_offset + 26)
        lengths = file.read(4)
    start = entry.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
    mapped = np.memmap(path, np.uint8, "r", start, (entry.file_size,))
    if verify:
        total = 0
        for at in range(0, entry.file_size, 1 << 24):
            total = zlib.crc32(mapped[at : at + (1 << 24)].data, total)
        if total != entry.CRC:
            raise VtjaxError(f"{path}: the bytes of {entry.filename} do not match their check sum; the file is damaged")
    return mapped


class _Bounded:
    """A file that is never asked for more than it holds: a pickle may claim strings of any length."""

    def __init__(self, file: io.BufferedReader):
        self._file, self._size = file, os.fstat(file.fileno()).st_size
        self.readline = file.readline

    def left(self) -> int:
        return self._size - self._file.tell()

    def read(self, count: int) -> bytes:
        return self._file.read(min(count, self.left()))


def _read_legacy(path: pathlib.Path, inert: Sequence[str]) -> Any:
    """Before torch 1.6: pickles of magic, version, machine, object, storage keys; then length and bytes of each."""
    with path.open("rb") as raw_file:
        file = _Bounded(raw_file)
        magic = Machine(file, str(path)).load()
        if magic != _LEGACY_MAGIC:
            raise VtjaxError(f"{path}: a pickle, but not one that torch.save wrote")
        version, system = (Machine(file, str(path)).load() for _ in range(2))
        if version != 1001 or not system.get("little_endian", True):
            raise VtjaxError(f"{path}: torch file of version {version} ({system}) is not supported")
        machine = Machine(file, str(path), inert)
        tree = machine.load()
        keys = Machine(file, str(path)).load()
        raws = {}
        for key in map(str, keys):
            size = int.from_bytes(file.read(8), "little") * machine.itemsizes[key]
            if size > file.left():
                raise VtjaxError(f"{path}: ends inside storage {key}; the file is truncated")
            raws[key] = np.frombuffer(file.read(size), np.uint8)
    return _materialise(tree, lambda storage: raws[storage.key], str(path))


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(v, (np.ndarray, bool, int, float)) for k, v in value.items())
        and any(isinstance(v, np.ndarray) for v in value.values())
    )


def _entry(tree: Mapping[str, Any], path: str) -> str:
    """The entry of a file that is its state dict: the only one, or of several the first with a usual name."""
    inside = [k for k, v in tree.items() if _is_state_dict(v)]
    usual = [k for k in _USUAL_KEYS if k in inside]
    if len(inside) != 1 and not usual:
        raise VtjaxError(f"{path}: not one state dict, name its entry; {_contents(tree)}")
    return usual[0] if usual else inside[0]


def _contents(value: Any) -> str:
    if not isinstance(value, Mapping):
        return f"the file holds a {type(value).__name__}"
    lines = []
    for key, item in list(value.items())[:12]:
        tensors = sum(isinstance(v, np.ndarray) for v in item.values()) if isinstance(item, Mapping) else None
        lines.append(f"{key} ({type(item).__name__}" + (f", {tensors} tensors)" if tensors is not None else ")"))
    return "its entries: " + ", ".join(lines) + (f" and {len(value) - 12} more" if len(value) > 12 else "")
