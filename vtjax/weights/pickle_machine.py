"""Reads a torch file's pickle by Python's own unpickler, less all that imports, calls or sets attributes: containers
and descriptions of tensors come out.

The unpickler is the one in Python, not the one in C: its memo is a dictionary, where the other takes as much memory as
a file claims, and each of its operations can be replaced.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
import pickletools
from collections.abc import Callable, Sequence
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
# A tensor may repeat its storage (torch's expand); beyond this many bytes and times it is a file made to fill memory.
_REPEATED_BYTES, _REPEATED_TIMES = 1 << 28, 16


@dataclasses.dataclass
class Inert:
    """What stands in for an object of a class that the caller named: its items and its state are dropped."""

    name: str

    def append(self, item: Any) -> None:
        """Drops an item."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Drops an entry."""


@dataclasses.dataclass(frozen=True)
class Global:
    """A name that the pickle asked for. call: what is made of the pickle's arguments to it."""

    name: str
    call: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.call(self.name, *arguments)


@dataclasses.dataclass(frozen=True)
class Storage:
    """The bytes that tensors are views of, by their key in the file."""

    key: str
    dtype: np.dtype
    offset: int = 0  # elements, of a legacy view into another storage


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage: offset and strides in elements of `dtype`."""

    storage: Storage
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
        size = math.prod(self.shape) * item
        if size > max(_REPEATED_BYTES, _REPEATED_TIMES * raw.nbytes):
            claim = f"claims {size:,} bytes of a storage of {raw.nbytes:,}"
            raise VtjaxError(f"{where}: tensor of shape {self.shape} {claim}")
        flat = np.ndarray(((last - first) // item,), self.dtype, raw, first)
        view = np.lib.stride_tricks.as_strided(flat, self.shape, [s * item for s in self.strides], writeable=False)
        return view


class Machine(pickle._Unpickler):
    """Reads one pickle. Values it can produce: plain containers, numbers, strings, Global, Tensor, Storage, Inert.

    Of these only a Global can be called, and what it calls is `value`.

    Args:
      where: names the file in messages. inert: full names of classes whose objects are read as `Inert`.
    """

    stack: list[Any]  # both are pickle's own, which its types leave out
    load_reduce: Callable[[], None]

    def __init__(self, file: Any, where: str, inert: Sequence[str] = ()):
        super().__init__(file, encoding="latin1")
        self.where, self.inert = where, frozenset(inert)
        self.itemsizes: dict[str, int] = {}  # of the storages, by key

    def admits(self, name: str) -> bool:
        """Says whether a file may ask for a name."""
        return name in _ADMITTED or name in self.inert

    def find_class(self, module: str, name: str) -> Global:
        full = f"{module}.{name}"
        if not self.admits(full):
            raise VtjaxError(
                f"{self.where}: refused, the file asks for {full!r}, which is not part of a tensor. Nothing was run. "
                "Save the tensors alone (a state dict, or safetensors), or name a harmless class (--inert)"
            )
        return Global(full, self.value)

    def value(self, name: str, *arguments: Any) -> Any:
        """What stands for the result of calling `name`."""
        if name in self.inert:
            return Inert(name)
        if name == _ORDERED:
            return dict(*arguments[:1])
        if name == "torch._utils._rebuild_parameter":
            if not isinstance(arguments[0], Tensor):
                raise TypeError("a parameter that is not a tensor")
            return arguments[0]
        if name in _REBUILD:
            storage, offset, shape, strides = arguments[:4]
            if not isinstance(storage, Storage):
                raise TypeError("a tensor without a storage")
            dtype = _TORCH_DTYPES[arguments[6].name] if name.endswith("_v3") else storage.dtype
            return Tensor(storage, offset, tuple(shape), tuple(strides), dtype)
        raise VtjaxError(f"{self.where}: refused, the file calls {name!r}, which does not rebuild a tensor")

    def persistent_load(self, identity: Any) -> Storage:
        kind, storage, key, _location, _numel, *view = identity
        if kind != "storage" or not isinstance(storage, Global) or storage.name not in _STORAGES:
            raise TypeError(f"a persistent id of kind {kind!r}")
        offset = view[0][1] if view and view[0] is not None else 0
        dtype = _STORAGES[storage.name]
        self.itemsizes[str(key)] = dtype.itemsize
        return Storage(str(key), dtype, int(offset))

    def load_build(self) -> None:
        """State for the object below. An OrderedDict's is torch's version note; nothing that is read depends on it."""
        self.stack.pop()
        if not isinstance(self.stack[-1], (dict, Inert)):
            raise TypeError(f"state for a {type(self.stack[-1]).__name__}")

    def load_newobj(self) -> None:
        self.load_reduce()

    def load_newobj_ex(self) -> None:
        self.stack.pop()  # keywords
        self.load_reduce()


# The operations of pickletools.opcodes that a file of tensors may hold; a set is read as a list.
_OPERATIONS = {
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE",
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "LIST", "APPEND", "APPENDS",
    "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS",
    "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET",
    "GLOBAL", "STACK_GLOBAL", "BINPERSID", "REDUCE",
}  # fmt: skip
_REPLACED = {
    "BUILD": lambda machine: machine.load_build(),
    "NEWOBJ": lambda machine: machine.load_newobj(),
    "NEWOBJ_EX": lambda machine: machine.load_newobj_ex(),
    "EMPTY_SET": lambda machine: machine.load_empty_list(),
    "ADDITEMS": lambda machine: machine.load_appends(),
}


def _refused(name: str) -> Callable[[Machine], None]:
    def load(machine: Machine) -> None:
        raise VtjaxError(f"{machine.where}: pickle operation {name} has no place in a file of tensors; not run")

    return load


_CODES = {operation.name: ord(operation.code) for operation in pickletools.opcodes}
Machine.dispatch = {code: _REPLACED.get(name, _refused(name)) for name, code in _CODES.items()}
Machine.dispatch |= {_CODES[name]: pickle._Unpickler.dispatch[_CODES[name]] for name in _OPERATIONS}
