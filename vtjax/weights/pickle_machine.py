"""The machine that reads a torch file's pickle opcode by opcode: it builds containers and descriptions of tensors, and
has no way to import or to call anything."""

from __future__ import annotations

import dataclasses
import io
import math
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
    """What stands in for an object of a class that the caller named: its state is dropped."""

    name: str


@dataclasses.dataclass(frozen=True)
class Global:
    name: str


@dataclasses.dataclass(frozen=True)
class Storage:
    key: str
    dtype: np.dtype
    offset: int = 0  # elements, of a legacy view into another storage


@dataclasses.dataclass(frozen=True)
class Tensor:
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


_MARK = object()


class Machine:
    """Reads one pickle. Values it can produce: plain containers, numbers, strings, Global, Tensor, Inert."""

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
        self.stack.append(Global(full))

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
        if not isinstance(function, Global):
            raise TypeError(f"call of a {type(function).__name__}")
        self.stack.append(self.value(function.name, arguments))

    def value(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name in self.inert:
            return Inert(name)
        if name == _ORDERED:
            return dict(arguments[0]) if arguments else {}
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

    def persistent(self, _: Any) -> None:
        (identity,) = self.pop(1)
        kind, storage, key, _location, _numel, *view = identity
        if kind != "storage" or not isinstance(storage, Global) or storage.name not in _STORAGES:
            raise TypeError(f"a persistent id of kind {kind!r}")
        offset = view[0][1] if view and view[0] is not None else 0
        dtype = _STORAGES[storage.name]
        self.itemsizes[str(key)] = dtype.itemsize
        self.stack.append(Storage(str(key), dtype, int(offset)))


def _stack_global(m: Machine, _: Any) -> None:
    m.push_global(*m.pop(2))


def _dup(m: Machine, _: Any) -> None:
    m.stack.append(m.stack[-1])


def _pairs(m: Machine, _: Any) -> None:
    items = m.marked()
    m.stack.append(dict(zip(items[::2], items[1::2], strict=True)))


_PUSH = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE "
    "SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 "
    "BYTEARRAY8".split()
)
_SIMPLE: dict[str, Callable[[Machine, Any], Any]] = {
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
