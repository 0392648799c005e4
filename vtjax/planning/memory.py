"""Bytes on one chip by what they are for; and, where a program does not fit, what was too large."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from vtjax.planning.flops import abstract_loss
from vtjax.sharding.partition import flatten
from vtjax.training.step import Trainer
from vtjax.training.task import Task


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes per chip. parameters (frozen: those that do not learn), optimizer and batch are summed over shards;
    arguments, temporaries and outputs (those that are not written over arguments) are XLA's, as is total.
    activations: kept from the forward for the backward pass, an estimate; part of the temporaries."""

    parameters: float
    frozen: float
    optimizer: float
    batch: float
    activations: float
    arguments: float
    temporaries: float
    outputs: float

    @property
    def padding(self) -> float:
        """Of the arguments, whose last dimensions fill whole tiles."""
        return max(self.arguments - math.fsum((self.parameters, self.frozen, self.optimizer, self.batch)), 0.0)

    @property
    def total(self) -> float:
        return self.arguments + self.temporaries + self.outputs


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One array on a chip: bytes there, shape there, and what it is."""

    bytes: float
    shape: str
    name: str


def shard_bytes(leaf: Any) -> float:
    """Of one device's part of an abstract array with a sharding."""
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def sum_bytes(tree: Any) -> float:
    """`shard_bytes` of all leaves; random keys and counters aside, which are a few bytes."""
    leaves = [x for x in jax.tree.leaves(tree) if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)]
    return float(sum(map(shard_bytes, leaves)))


def state_memory(trainer: Trainer, activations: float = 0.0, stats: Any = None) -> Memory:
    """Of a trainer's state and batch, with XLA's figures where it has compiled (`memory_analysis`)."""
    state = trainer.abstract_state
    learns, frozen, optimizer = (sum_bytes(state[k]) for k in ("trainable", "frozen", "opt_state"))
    batch = sum_bytes(trainer.abstract_batch)
    xla = (math.fsum([learns, frozen, optimizer, batch]), 0.0, 0.0)
    if stats is not None:
        kept = stats.output_size_in_bytes - stats.alias_size_in_bytes
        xla = stats.argument_size_in_bytes, stats.temp_size_in_bytes, max(kept, 0)
    arguments, temporaries, outputs = map(float, xla)
    return Memory(learns, frozen, optimizer, batch, activations, arguments, temporaries, outputs)


def kept(task: Task) -> list[Tensor]:
    """What all devices together keep between the forward and the backward pass of one micro-batch, largest first.

    Counted on the traced loss: all that its gradient reads and that depends on the batch. XLA may keep less (it fuses)
    or more (copies).
    """
    loss, arguments = abstract_loss(task)
    pulled = lambda trainable, *rest: jax.vjp(lambda t: loss(t, *rest), trainable)[1]
    jaxpr = jax.make_jaxpr(pulled)(*arguments).jaxpr
    fields = len(arguments[-1])
    depends: dict[Any, str] = dict.fromkeys(jaxpr.invars[len(jaxpr.invars) - fields :], "batch")
    given = set(jaxpr.invars)
    for eqn in jaxpr.eqns:
        if any(v in depends for v in eqn.invars if not isinstance(v, Literal)):
            name = f"{eqn.source_info.name_stack}/{eqn.primitive.name}".strip("/")
            depends |= dict.fromkeys(eqn.outvars, name)
    residuals = {v for v in jaxpr.outvars if not isinstance(v, Literal) and v in depends and v not in given}
    tensors = [Tensor(_bytes(v.aval), v.aval.str_short(), depends[v]) for v in residuals]
    return sorted(tensors, key=lambda t: -t.bytes)


def computed_again(task: Task) -> float:
    """Bytes of all devices together that the backward pass makes anew and reads at one time, by rematerialisation: of
    the largest part that is computed again, what its own gradient reads, and so on for the parts inside it."""
    loss, arguments = abstract_loss(task)
    return _again(jax.make_jaxpr(loss)(*arguments).jaxpr)


def _again(jaxpr: Any) -> float:
    most = 0.0
    for eqn in jaxpr.eqns:
        inner = [getattr(x, "jaxpr", x) for x in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr)]
        inside = max((_again(x) for x in inner if hasattr(x, "eqns")), default=0.0)
        if eqn.primitive.name in ("remat2", "remat", "checkpoint"):
            inside += _residuals(eqn.params["jaxpr"])
        most = max(most, inside)
    return most


def _is_jaxpr(x: Any) -> bool:
    return hasattr(x, "eqns") or hasattr(x, "jaxpr")


def _residuals(body: Any) -> float:
    """Bytes that the gradient of an open jaxpr reads, its inputs left out."""
    run = jaxpr_as_fun(ClosedJaxpr(body, ()))
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in body.invars]
    traced = jax.make_jaxpr(lambda *inputs: jax.vjp(run, *inputs)[1])(*shapes).jaxpr
    given = set(traced.invars)
    return sum(_bytes(v.aval) for v in set(traced.outvars) if not isinstance(v, Literal) and v not in given)


def _bytes(aval: Any) -> float:
    """Of an abstract value; 0 for random keys and for what has no tangent."""
    if jax.dtypes.issubdtype(aval.dtype, jax.dtypes.extended) or aval.dtype == jax.dtypes.float0:
        return 0.0
    return float(math.prod(aval.shape) * aval.dtype.itemsize)


def replicated(trainer: Trainer) -> list[Tensor]:
    """Arrays of the state that every chip holds in full, largest first; none where there is one chip."""
    if trainer.mesh.size == 1:
        return []
    tensors = [
        Tensor(shard_bytes(leaf), f"{leaf.dtype}{list(leaf.shape)}", name)
        for name, leaf in flatten({k: trainer.abstract_state[k] for k in ("trainable", "frozen", "opt_state")}).items()
        if leaf.sharding.is_fully_replicated
    ]
    return sorted(tensors, key=lambda t: -t.bytes)


_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def parse_bytes(text: str) -> float:
    """"25.53G" as bytes."""
    match = re.fullmatch(r"([\d.]+)([BKMG]?)", text)
    return float(match[1]) * _UNITS[match[2]] if match else 0.0


@dataclasses.dataclass(frozen=True)
class Overflow:
    """What XLA says of a program that does not fit: bytes needed and there, and the largest tensors."""

    needed: float
    available: float
    largest: Sequence[Tensor]


def parse_overflow(message: str) -> Overflow:
    """Reads XLA's RESOURCE_EXHAUSTED message; what it does not say is 0 or empty."""
    sizes = re.search(r"Used ([\d.]+[BKMG]?) of ([\d.]+[BKMG]?) hbm", message)
    sizes = sizes or re.search(r"\(([\d.]+[BKMG]?)\) exceeds available HBM \(([\d.]+[BKMG]?)\)", message)
    needed, available = (parse_bytes(sizes[i]) for i in (1, 2)) if sizes else (0.0, 0.0)
    tensors = []
    for part in re.split(r"\n\s*\d+\. Size: ", message)[1:]:
        size = re.match(r"([\d.]+[BKMG]?)", part)
        operator = re.search(r'op_name="([^"]*)"', part)
        label = re.search(r"XLA label: (\S+)", part)
        shape = re.search(r"Shape: (\w+\[[\d,]*\])", part)
        kind = re.search(r"Allocation type: (.*)", part)
        name = operator[1] if operator else label[1] if label else kind[1].strip() if kind else ""
        tensors.append(Tensor(parse_bytes(size[1]) if size else 0.0, shape[1] if shape else "", name))
    return Overflow(needed, available, tensors)
