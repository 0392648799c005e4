"""Reading a compiled program's text: how often each instruction runs, what collectives move, what memory is read.

Shapes in the text of a partitioned program are those of one device. A loop's body counts as often as it runs: XLA notes
the number, or the loop's condition compares with it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Iterator

import numpy as np

from vtjax.errors import VtjaxError

_BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2,
    "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16, "token": 0, "opaque": 0,
}  # fmt: skip
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# Names and bookkeeping: nothing is read or written.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "opt-barrier", "async-start", "async-update", "async-done", "copy-done",
}  # fmt: skip
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array of a result. fast: kept in the chip's on-core memory, so that HBM is not touched."""

    dtype: str
    dims: tuple[int, ...]
    fast: bool = False

    @property
    def bytes(self) -> float:
        return math.prod(self.dims) * _BYTES.get(self.dtype, 1 if self.dtype.startswith("f8") else 4)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    op: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str
    root: bool = False

    @property
    def bytes(self) -> float:
        return sum(s.bytes for s in self.shapes)

    @property
    def source(self) -> str:
        """The program's own name for what this computes."""
        name = re.search(r'op_name="([^"]*)"', self.attributes)
        return name[1] if name else self.name

    def called(self, *keys: str) -> list[str]:
        """Computations named by attributes such as body= and calls=."""
        names = []
        for key in keys:
            match = re.search(rf"\b{key}=(\{{[^}}]*\}}|%[\w.\-]+)", self.attributes)
            names += _NAME.findall(match[1]) if match else []
        return names


class Program:
    """The computations of a compiled text by name, each a dict of instructions in order."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        current: dict[str, Instruction] | None = None
        for line in text.splitlines():
            head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*(/\*.*\*/)?$", line)
            if head and not line.startswith(" "):
                current = self.computations.setdefault(head[2], {})
                self.entry = head[2] if head[1] else self.entry
            elif line.startswith("}"):
                current = None
            elif current is not None:
                instruction = _instruction(line)
                if instruction:
                    current[instruction.name] = instruction

    def running(self) -> Iterator[tuple[Instruction, dict[str, Instruction], float, bool]]:
        """(instruction, its computation, how often it runs, whether it is inside a fusion) of all that is reached."""
        yield from self._running(self.entry, 1.0, False)

    def _running(self, name: str, times: float, fused: bool) -> Iterator:
        computation = self.computations.get(name, {})
        for one in computation.values():
            yield one, computation, times, fused
            if one.op == "while":
                for body in one.called("body"):
                    yield from self._running(body, times * self.trips(one), fused)
            elif one.op == "fusion":
                for inner in one.called("calls"):
                    yield from self._running(inner, times, True)
            elif one.op in ("call", "async-start", "conditional"):
                keys = ("to_apply", "calls", "branch_computations", "true_computation", "false_computation")
                for inner in one.called(*keys):
                    yield from self._running(inner, times, fused)

    @functools.cache  # noqa: B019
    def trips(self, loop: Instruction) -> float:
        """How often a while loop's body runs; 1 where neither XLA nor its condition says."""
        known = re.search(r'known_trip_count"?:\{"n":"(\d+)"', loop.attributes)
        if known:
            return float(known[1])
        for name in loop.called("condition"):
            condition = self.computations.get(name, {})
            constants = [re.match(r"(\d+)\)", i.attributes) for i in condition.values() if i.op == "constant"]
            limits = [int(m[1]) for m in constants if m]
            if len(limits) == 1:
                return float(max(limits[0], 1))
        return 1.0

    def largest(self, count: int) -> list[tuple[float, Shape, str]]:
        """(bytes, shape, what it is) of the largest results outside fusions, each shape once, by the program's own name
        where it has one."""
        names: dict[Shape, str] = {}
        for one, _, _, fused in self.running():
            if not fused and one.op not in _FREE - {"parameter"}:
                for shape in one.shapes:
                    if "/" not in names.get(shape, ""):
                        names[shape] = one.source
        rows = [(shape.bytes, shape, name) for shape, name in names.items()]
        return sorted(rows, key=lambda row: -row[0])[:count]

    def traffic(self) -> float:
        """Bytes that one device reads from and writes to its HBM, each instruction's operands and results.

        An estimate: what a fusion keeps in registers is left out, as is what lies in on-core memory; of an array that
        is only sliced, or updated in place, the slice counts.
        """
        total = 0.0
        for one, computation, times, fused in self.running():
            if fused or one.op in _FREE or one.op.endswith("-done"):
                continue
            total += times * self._touched(one, computation)
        return total

    def _touched(self, one: Instruction, computation: dict[str, Instruction]) -> float:
        operands = [computation[name] for name in one.operands if name in computation]
        sizes = [_hbm(operand) for operand in operands]
        written = _hbm(one)
        if one.op.endswith("-start"):  # its tuple holds the operands once more
            written = max(written - sum(operand.bytes for operand in operands), 0.0)
        if one.op in ("dynamic-slice", "gather"):
            return 2 * written + sum(sizes[1:])
        if one.op == "dynamic-update-slice":
            return 2 * sizes[1] if len(sizes) > 1 else written
        if one.op == "fusion":
            inner = self._inner(one)
            parameters = self._parameters(inner)
            sizes = [min(s, self._read(inner, parameters[i])) if i in parameters else s for i, s in enumerate(sizes)]
            root = next((i for i in inner.values() if i.root), None)
            if root is not None:
                parts = [inner[n] for n in root.operands if n in inner] if root.op == "tuple" else [root]
                if len(parts) == len(one.shapes):
                    written = sum(
                        min(shape.bytes, self._written(inner, part))
                        for shape, part in zip(one.shapes, parts, strict=True) if not shape.fast
                    )  # fmt: skip
        return sum(sizes) + written

    def _inner(self, fusion: Instruction) -> dict[str, Instruction]:
        return self.computations.get(next(iter(fusion.called("calls")), ""), {})

    @staticmethod
    def _parameters(computation: dict[str, Instruction]) -> dict[int, str]:
        return {int(i.attributes.split(")")[0]): i.name for i in computation.values() if i.op == "parameter"}

    def _read(self, computation: dict[str, Instruction], name: str) -> float:
        """Bytes of a fusion's operand that are read: slices of it, where nothing else uses it."""
        whole, total = computation[name].bytes, 0.0
        for user in computation.values():
            if name not in user.operands:
                continue
            first = user.operands[0] == name
            if first and user.op in ("dynamic-slice", "slice", "gather"):
                total += user.bytes
            elif user.op in ("bitcast", "reshape"):
                total += self._read(computation, user.name)
            elif user.op == "fusion":
                inner = self._inner(user)
                parameters = self._parameters(inner)
                places = [i for i, operand in enumerate(user.operands) if operand == name and i in parameters]
                total += sum(self._read(inner, parameters[i]) for i in places)
            elif not (first and user.op == "dynamic-update-slice"):  # which writes into it, in place
                return whole
        return min(total, whole)

    def _written(self, computation: dict[str, Instruction], one: Instruction) -> float:
        """Bytes of a fusion's result that are written: the update, where it is an array updated in place."""
        operands = [computation[name] for name in one.operands if name in computation]
        if one.op == "dynamic-update-slice" and len(operands) > 1:
            return operands[1].bytes
        if one.op in ("bitcast", "reshape") and operands:
            return self._written(computation, operands[0])
        if one.op == "fusion":
            inner = self._inner(one)
            root = next((i for i in inner.values() if i.root), None)
            return self._written(inner, root) if root is not None and root.op != "tuple" else one.bytes
        return one.bytes


def _hbm(one: Instruction) -> float:
    return sum(s.bytes for s in one.shapes if not s.fast)


def _instruction(line: str) -> Instruction | None:
    head = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if not head:
        return None
    rest = line[head.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
    types, rest = rest[:end], rest[end:].lstrip()
    op = re.match(r"([\w\-]+)\(", rest)
    if not op:
        return None
    close = _closing(rest, op.end() - 1)
    inside, attributes = rest[op.end() : close], rest[close:]
    if op[1] in ("constant", "parameter"):
        attributes = rest[op.end() :]
    return Instruction(head[2], op[1], shapes_of(types), tuple(_NAME.findall(inside)), attributes, bool(head[1]))


def _closing(text: str, start: int) -> int:
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    return len(text)


def shapes_of(text: str) -> tuple[Shape, ...]:
    """All array types in a type's text."""
    return tuple(
        Shape(m[1], tuple(map(int, m[2].split(","))) if m[2] else (), bool(re.search(r"S\([1-9]", m[3] or "")))
        for m in _SHAPE.finditer(text)
    )


@dataclasses.dataclass(frozen=True)
class Collective:
    """kind: one of COLLECTIVES. bytes: of one device's operands (of a reduce-scatter: before it). groups: int
    [groups, members] of devices by their place in the mesh; of a permutation, (from, to) pairs; empty for one between
    slices that libtpu hands to the hosts as a send and a receive. times: how often it runs in a step."""

    kind: str
    bytes: float
    groups: np.ndarray
    times: float
    shapes: tuple[Shape, ...]
    source: str


def collectives(program: Program, devices: int) -> list[Collective]:
    """All collectives of a program on `devices` devices, asynchronous ones by their start.

    One that libtpu spreads over several fusions, to run beside them, is printed in each with one channel; it counts
    once.

    Raises VtjaxError: groups of devices written in a form that is not known.
    """
    out: list[Collective] = []
    channels: set[str] = set()
    for one, computation, times, _ in program.running():
        kind = one.op.removesuffix("-start")
        across = re.search(r'_xla_megascale_transfer_type="?(\w+)', one.attributes) if one.op == "send" else None
        if across:
            payload = computation[one.operands[0]].shapes if one.operands[0] in computation else one.shapes[:1]
            name = across[1].lower().replace("_", "-")
            size = sum(s.bytes for s in payload)
            out.append(Collective(name, size, np.zeros((0, 0), int), times, payload, one.source))
        channel = re.search(r"channel_id=(\d+)", one.attributes)
        if kind not in COLLECTIVES or (channel and channel[1] in channels):
            continue
        if channel:
            channels.add(channel[1])
        operands = [computation[name] for name in one.operands if name in computation]
        shapes = tuple(s for operand in operands for s in operand.shapes) or one.shapes
        groups = _groups(one.attributes, devices)
        if groups.size and groups.shape[1] > 1:
            out.append(Collective(kind, sum(s.bytes for s in shapes), groups, times, one.shapes, one.source))
    return out


def _groups(attributes: str, devices: int) -> np.ndarray:
    pairs = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", attributes)
    if pairs:
        return np.array([list(map(int, p)) for p in re.findall(r"\{(\d+),(\d+)\}", pairs[1])], int).reshape(-1, 2)
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if iota:
        shape, dims = (tuple(map(int, iota[i].split(","))) for i in (1, 2))
        order = np.arange(math.prod(dims)).reshape(dims)
        if iota[3]:
            order = order.transpose(tuple(map(int, iota[3].split(","))))
        return order.reshape(shape)
    mesh = _MESH_GROUPS.search(attributes)
    if mesh:
        return _mesh_groups(*mesh.groups())
    listed = re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", attributes)
    if listed and listed[1]:
        rows = [list(map(int, g.split(","))) for g in re.findall(r"\{([\d,]+)\}", listed[1])]
        width = max(map(len, rows))
        return np.array([row for row in rows if len(row) == width], int)
    unread = re.search(r"replica_groups=(?!\{\}).{0,80}", attributes)
    if unread:
        raise VtjaxError(f"a compiled program's {unread[0]!r} cannot be read; vtjax.plan is tested with libtpu 0.0.42")
    return np.arange(devices)[None]


_MESH_GROUPS = re.compile(
    r"replica_groups=@?mesh[\[<]([^\]>]*)[\]>](?:, device_ids=\((\[[\d,]+\](?:T\([\d,]+\))?|[\d,]+)\))? \{([^}]*)\}"
)


def _mesh_groups(axes: str, devices: str | None, grouped: str) -> np.ndarray:
    """Groups along axes of a mesh: "'a'=4,'b'=6", "[6,4]T(1,0)", "'a','b':(2)3" are those along all of a and along the
    part of b that follows its first factor of 2 and is 3 long, of devices numbered by the transposed array."""
    sizes = {name: int(size) for name, size in re.findall(r"'?([\w.\-]+)'?=(\d+)", axes)}
    ids = np.arange(math.prod(sizes.values()))
    if devices and devices.startswith("["):
        dims, *order = [tuple(map(int, part.split(","))) for part in re.findall(r"[\d,]+", devices)]
        ids = ids.reshape(dims)
        ids = ids.transpose(order[0]) if order else ids
    elif devices:
        ids = np.array(list(map(int, devices.split(","))))
    parts = [  # (axis, first stride, stride after the last)
        (name, int(before or 1), int(before or 1) * int(size or sizes[name]))
        for name, before, size in re.findall(r"'?([\w.\-]+)'?(?::\((\d+)\)(\d+))?", grouped)
    ]
    factors = []  # (axis, stride, size), of all axes in order, cut where a part begins or ends
    for name, size in sizes.items():
        cuts = sorted({1, size, *(cut for axis, *ends in parts if axis == name for cut in ends)})
        factors += [(name, a, b // a) for a, b in itertools.pairwise(cuts)] or [(name, 1, 1)]
    inside = [i for axis, a, b in parts for i, (name, at, _) in enumerate(factors) if name == axis and a <= at < b]
    outside = [i for i in range(len(factors)) if i not in inside]
    members = math.prod(factors[i][2] for i in inside)
    return ids.reshape([size for *_, size in factors]).transpose(*outside, *inside).reshape(-1, members)
