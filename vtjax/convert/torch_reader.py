"""`.pt`, `.pth` and `.bin` files without torch, and without running anything that they contain.

A torch file is a pickle that describes tensors plus the raw bytes of their storages: a zip archive since torch 1.6, a
plain sequence of pickles before. The pickle is not given to `pickle`. It is read opcode by opcode by a small machine
that has no way to import or call: it builds Python containers, and the few calls that describe a tensor are
recognised by name. Every other name is an error that states it.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import pathlib
import pickletools
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from vtjax.errors import VtjaxError

_DTYPES = {
    "float64": ("Double", np.float64),
    "float32": ("Float", np.float32),
    "float16": ("Half", np.float16),
    "bfloat16": ("BFloat16", ml_dtypes.bfloat16),
    "int64": ("Long", np.int64),
    "int32": ("Int", np.int32),
    "int16": ("Short", np.int16),
    "int8": ("Char", np.int8),
    "uint8": ("Byte", np.uint8),
    "bool": ("Bool", np.bool_),
    "complex64": ("ComplexFloat", np.complex64),
    "complex128": ("ComplexDouble", np.complex128),
    "uint16": ("", np.uint16),
    "uint32": ("", np.uint32),
    "uint64": ("", np.uint64),
    "float8_e4m3fn": ("", ml_dtypes.float8_e4m3fn),
    "float8_e5m2": ("", ml_dtypes.float8_e5m2),
}
_STORAGES = {f"torch.{legacy}Storage": np.dtype(d) for legacy, d in _DTYPES.values() if legacy}
_STORAGES |= {"torch.storage.UntypedStorage": np.dtype(np.uint8), "torch.UntypedStorage": np.dtype(np.uint8)}
_TORCH_DTYPES = {f"torch.{name}": np.dtype(dtype) for name, (_, dtype) in _DTYPES.items()}
_REBUILD = {
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
}
_ORDERED = "collections.OrderedDict"
_ADMITTED = {_ORDERED} | _REBUILD | set(_STORAGES) | set(_TORCH_DTYPES)
_DAMAGE = (ValueError, KeyError, IndexError, TypeError, AttributeError, OSError, RuntimeError, zlib.error)
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
    """The state dict of a torch file: tensor name -> read-only array, mapped from the file where it is a zip.

    key: which entry of the file holds it, "a/b" for an entry of an entry. None takes the file's own top level, or
      the only entry there that is a state dict; of several, the first with a usual name ("state_dict", "model", ...).
    inert, verify: see `read_torch`.

    Raises:
      VtjaxError: as `read_torch`; no state dict under `key`; an entry that is neither tensor nor number.
    """
    found = tree = read_torch(path, inert, verify)
    for part in key.split("/") if key else ():
        if not isinstance(found, Mapping) or part not in found:
            raise VtjaxError(f"{path}: no entry {key!r}; {_contents(tree)}")
        found = found[part]
    if key is None and isinstance(found, Mapping) and not _is_state_dict(found):
        found = found[_entry(found, str(path))]
    if not isinstance(found, Mapping) or not all(isinstance(k, str) for k in found):
        raise VtjaxError(f"{path}: not a dictionary of tensors; {_contents(found)}")
    for name, value in found.items():
        if not isinstance(value, (np.ndarray, bool, int, float)):
            raise VtjaxError(f"{path}: entry {name!r} is a {type(value).__name__}, not a tensor; {_contents(tree)}")
    return {name: np.asarray(value) for name, value in found.items()}


def beside_state_dict(path: str | os.PathLike[str], inert: Sequence[str] = ()) -> tuple[str, ...]:
    """Entries of a torch file that `read_state_dict` does not take: optimizer, epoch, settings, ...

    Raises:
      VtjaxError: as `read_state_dict`.
    """
    tree = read_torch(path, inert, verify=False)
    if not isinstance(tree, Mapping) or _is_state_dict(tree):
        return ()
    taken = _entry(tree, str(path))
    return tuple(str(name) for name in tree if name != taken)


def read_tensor(path: str | os.PathLike[str]) -> np.ndarray:
    """The tensor of a file that holds exactly one, e.g. TMR's mean.pt.

    Raises:
      VtjaxError: as `read_torch`; the file holds something else.
    """
    value = read_torch(path)
    if not isinstance(value, np.ndarray):
        raise VtjaxError(f"{path}: expected a single tensor; {_contents(value)}")
    return value


def read_torch(path: str | os.PathLike[str], inert: Sequence[str] = (), verify: bool = True) -> Any:
    """All that a torch file holds, as dicts, lists, tuples, numbers, strings and arrays.

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
        return _read_zip(path, inert, verify) if start == b"PK\x03\x04" else _read_legacy(path, inert)
    except VtjaxError:
        raise
    except (zipfile.BadZipFile, EOFError, *_DAMAGE) as error:
        what = f"{type(error).__name__}: {error}"
        raise VtjaxError(f"{path}: truncated, damaged, or not a torch file ({what})") from error


@dataclasses.dataclass
class Inert:
    """What stands in for an object of a class that the caller named: its state is dropped."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Global:
    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype
    offset: int = 0  # elements, of a legacy view into another storage


@dataclasses.dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    def rebuild(self, raw: np.ndarray, where: str) -> np.ndarray:
        """A view of the storage's bytes, after checking that every element lies inside."""
        item = self.dtype.itemsize
        first = self.storage.offset * self.storage.dtype.itemsize + self.offset * item
        numbers = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or not all(type(n) is int and n >= 0 for n in numbers):
            raise VtjaxError(f"{where}: tensor of shape {self.shape} and strides {self.strides} is not well formed")
        last = first + item * (1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)))
        if math.prod(self.shape) == 0:
            return np.zeros(self.shape, self.dtype)
        if last > raw.nbytes:
            raise VtjaxError(f"{where}: tensor of shape {self.shape} reaches past its storage of {raw.nbytes} bytes")
        flat = np.ndarray(((last - first) // item,), self.dtype, raw, first)
        view = np.lib.stride_tricks.as_strided(flat, self.shape, [s * item for s in self.strides], writeable=False)
        return view


_MARK = object()


class _Machine:
    """Reads one pickle. Values it can produce: plain containers, numbers, strings, _Global, _Tensor, Inert."""

    def __init__(self, where: str, inert: Sequence[str]):
        self.where, self.inert = where, frozenset(inert)
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.itemsizes: dict[str, int] = {}  # of the storages, by key

    def run(self, file: io.BufferedIOBase) -> Any:
        for opcode, argument, _ in pickletools.genops(file):
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _PUSH:
                self.stack.append(argument)
            elif name in _SIMPLE:
                _SIMPLE[name](self, argument)
            else:
                raise VtjaxError(f"{self.where}: pickle operation {name} has no place in a file of tensors; not run")
        raise EOFError("no end of the pickle")

    def marked(self) -> list[Any]:
        at = len(self.stack) - 1
        while at >= 0 and self.stack[at] is not _MARK:
            at -= 1
        if at < 0:
            raise EOFError("the pickle closes what it did not open")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def pop(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise EOFError("the pickle takes more than it holds")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def push_global(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in _ADMITTED and full not in self.inert:
            raise VtjaxError(
                f"{self.where}: refused, the file asks for {full!r}, which is not part of a tensor. Nothing was run. "
                "Save the tensors alone (a state dict, or safetensors), or name a harmless class (--inert)"
            )
        self.stack.append(_Global(full))

    def remember(self, slot: int | None) -> None:
        self.memo[len(self.memo) if slot is None else int(slot)] = self.stack[-1]

    def append(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)
        elif not isinstance(self.stack[-1], Inert):
            raise TypeError("items for something that is not a list")

    def set_items(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], dict):
            self.stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif not isinstance(self.stack[-1], Inert):
            raise TypeError("entries for something that is not a dictionary")

    def build(self, _: Any) -> None:
        """State for the object below. An OrderedDict's is torch's version note; nothing that is read depends on it."""
        target, _state = self.pop(2)
        if not isinstance(target, (dict, Inert)):
            raise TypeError(f"state for a {type(target).__name__}")
        self.stack.append(target)

    def call(self, count: int = 2) -> None:
        function, arguments = self.pop(count)[:2]
        if not isinstance(function, _Global):
            raise TypeError(f"call of a {type(function).__name__}")
        self.stack.append(self.value(function.name, arguments))

    def value(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name in self.inert:
            return Inert(name)
        if name == _ORDERED:
            return dict(arguments[0]) if arguments else {}
        if name == "torch._utils._rebuild_parameter":
            if not isinstance(arguments[0], _Tensor):
                raise TypeError("a parameter that is not a tensor")
            return arguments[0]
        if name in _REBUILD:
            storage, offset, shape, strides = arguments[:4]
            if not isinstance(storage, _Storage):
                raise TypeError("a tensor without a storage")
            dtype = _TORCH_DTYPES[arguments[6].name] if name.endswith("_v3") else storage.dtype
            return _Tensor(storage, offset, tuple(shape), tuple(strides), dtype)
        raise VtjaxError(f"{self.where}: refused, the file calls {name!r}, which does not rebuild a tensor")

    def persistent(self, _: Any) -> None:
        (identity,) = self.pop(1)
        kind, storage, key, _location, _numel, *view = identity
        if kind != "storage" or not isinstance(storage, _Global) or storage.name not in _STORAGES:
            raise TypeError(f"a persistent id of kind {kind!r}")
        offset = view[0][1] if view and view[0] is not None else 0
        dtype = _STORAGES[storage.name]
        self.itemsizes[str(key)] = dtype.itemsize
        self.stack.append(_Storage(str(key), dtype, int(offset)))


def _stack_global(m: _Machine, _: Any) -> None:
    m.push_global(*m.pop(2))


def _dup(m: _Machine, _: Any) -> None:
    m.stack.append(m.stack[-1])


def _pairs(m: _Machine, _: Any) -> None:
    items = m.marked()
    m.stack.append(dict(zip(items[::2], items[1::2], strict=True)))


_PUSH = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE "
    "SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8".split()
)
_SIMPLE: dict[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "NONE": lambda m, _: m.stack.append(None),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    "MARK": lambda m, _: m.stack.append(_MARK),
    "POP": lambda m, _: m.pop(1),
    "POP_MARK": lambda m, _: m.marked(),
    "DUP": _dup,
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "EMPTY_SET": lambda m, _: m.stack.append([]),
    "DICT": _pairs,
    "LIST": lambda m, _: m.stack.append(m.marked()),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.marked())),
    "TUPLE1": lambda m, _: m.stack.append(tuple(m.pop(1))),
    "TUPLE2": lambda m, _: m.stack.append(tuple(m.pop(2))),
    "TUPLE3": lambda m, _: m.stack.append(tuple(m.pop(3))),
    "APPEND": lambda m, _: m.append(m.pop(1)),
    "APPENDS": lambda m, _: m.append(m.marked()),
    "ADDITEMS": lambda m, _: m.append(m.marked()),
    "SETITEM": lambda m, _: m.set_items(m.pop(2)),
    "SETITEMS": lambda m, _: m.set_items(m.marked()),
    "PUT": lambda m, a: m.remember(a),
    "BINPUT": lambda m, a: m.remember(a),
    "LONG_BINPUT": lambda m, a: m.remember(a),
    "MEMOIZE": lambda m, _: m.remember(None),
    "GET": lambda m, a: m.stack.append(m.memo[int(a)]),
    "BINGET": lambda m, a: m.stack.append(m.memo[a]),
    "LONG_BINGET": lambda m, a: m.stack.append(m.memo[a]),
    "GLOBAL": lambda m, a: m.push_global(*a.split(" ", 1)),
    "STACK_GLOBAL": _stack_global,
    "BINPERSID": lambda m, _: m.persistent(None),
    "REDUCE": lambda m, _: m.call(),
    "NEWOBJ": lambda m, _: m.call(),
    "NEWOBJ_EX": lambda m, _: m.call(3),
    "BUILD": lambda m, _: m.build(None),
}


def _materialise(tree: Any, raw: Callable[[_Storage], np.ndarray], where: str) -> Any:
    """Replaces every described tensor in nested containers by an array; what is shared stays shared."""
    done: dict[int, Any] = {}

    def visit(value: Any, where: str) -> Any:
        if id(value) not in done:
            done[id(value)] = convert(value, where)
        return done[id(value)]

    def convert(value: Any, where: str) -> Any:
        if isinstance(value, _Tensor):
            return value.rebuild(raw(value.storage), where)
        if isinstance(value, dict):
            return {k: visit(v, f"{where}: {k}") for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(visit(v, f"{where}: {i}") for i, v in enumerate(value))
        return value.name if isinstance(value, _Global) else value

    return visit(tree, where)


def _read_zip(path: pathlib.Path, inert: Sequence[str], verify: bool, machine: type[_Machine] = _Machine) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename.split("/", 1)[-1]: info for info in archive.infolist()}
        if "constants.pkl" in entries and machine is _Machine:
            raise VtjaxError(
                f"{path}: a TorchScript program, not weights; save its state_dict() instead, or read the weights out "
                "of it with vtjax.convert.torchscript"
            )
        if "data.pkl" not in entries:
            raise VtjaxError(f"{path}: a zip archive, but without the data.pkl of a torch file")
        if "byteorder" in entries and archive.read(entries["byteorder"]).strip() != b"little":
            raise VtjaxError(f"{path}: saved on a big-endian machine, which is not supported")
        tree = machine(str(path), inert).run(io.BytesIO(archive.read(entries["data.pkl"])))
        raws: dict[str, np.ndarray] = {}

        def raw(storage: _Storage) -> np.ndarray:
            if storage.key not in raws:
                entry = entries.get(f"data/{storage.key}")
                if entry is None:
                    raise VtjaxError(f"{path}: the bytes of storage {storage.key} are not in the archive")
                raws[storage.key] = _zip_bytes(path, archive, entry, verify)
            return raws[storage.key]

        return _materialise(tree, raw, str(path))


def _zip_bytes(path: pathlib.Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, verify: bool) -> np.ndarray:
    if entry.compress_type != zipfile.ZIP_STORED:
        return np.frombuffer(archive.read(entry), np.uint8)
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
            total = zlib.crc32(mapped[at : at + (1 << 24)], total)
        if total != entry.CRC:
            raise VtjaxError(f"{path}: the bytes of {entry.filename} do not match their check sum; the file is damaged")
    return mapped


def _read_legacy(path: pathlib.Path, inert: Sequence[str]) -> Any:
    """Before torch 1.6: pickles of magic, version, machine, object, storage keys; then length and bytes of each."""
    with path.open("rb") as file:
        magic = _Machine(str(path), inert).run(file)
        if magic != _LEGACY_MAGIC:
            raise VtjaxError(f"{path}: a pickle, but not one that torch.save wrote")
        version, system = (_Machine(str(path), inert).run(file) for _ in range(2))
        if version != 1001 or not system.get("little_endian", True):
            raise VtjaxError(f"{path}: torch file of version {version} ({system}) is not supported")
        machine = _Machine(str(path), inert)
        tree = machine.run(file)
        keys = _Machine(str(path), inert).run(file)
        raws = {}
        for key in map(str, keys):
            size = int.from_bytes(file.read(8), "little") * machine.itemsizes[key]
            if size > os.fstat(file.fileno()).st_size - file.tell():
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
