"""Floating point operations, counted on traced programs: matrix products and convolutions, two per multiply-add.

Model FLOPs are what the definition of a loss and its gradient needs: every product once forwards, and once backwards
for each operand that depends on something learnt. Nothing computed again (rematerialisation, ring losses) counts, nor
does what no learnt value needs; frozen matrices have no weight gradient. This is the numerator of MFU (PaLM, arXiv
2204.02311, appendix B). XLA's own count cannot serve: it takes a loop's body once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from vtjax.sharding.partition import merge, split
from vtjax.training.task import Task


@dataclasses.dataclass(frozen=True)
class Flops:
    """forward, backward: operations. open_loops: loops without a known length, whose bodies were counted once."""

    forward: float
    backward: float
    open_loops: int = 0

    @property
    def total(self) -> float:
        return self.forward + self.backward

    def __add__(self, other: Flops) -> Flops:
        return Flops(
            self.forward + other.forward, self.backward + other.backward, self.open_loops + other.open_loops
        )

    def __mul__(self, times: float) -> Flops:
        return Flops(self.forward * times, self.backward * times, self.open_loops)


_NONE = Flops(0.0, 0.0)


def abstract_loss(task: Task) -> tuple[Callable[..., jax.Array], tuple[dict, dict, Any, dict]]:
    """(function, shapes of its arguments): the sum of the loss of one micro-batch of the global batch.

    The function takes (trainable, frozen, rng, batch).
    """
    train = task.train
    batch = {
        name: jax.ShapeDtypeStruct((train.batch_size // train.accumulate, *spec.shape), spec.dtype)
        for name, spec in task.example_spec.items()
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    trainable, frozen = split(jax.eval_shape(task.init, key, batch), train.trainable)

    def loss(trainable: dict, frozen: dict, rng: jax.Array, batch: dict) -> jax.Array:
        return task.loss(merge(trainable, frozen), batch, rng, True)["loss"][0]

    return loss, (trainable, frozen, key, batch)


def model_flops(task: Task) -> Flops:
    """Of one train step of the whole global batch: the objective and its gradient, by definition."""
    loss, arguments = abstract_loss(task)
    learnt = len(jax.tree.leaves(arguments[0]))
    return count(jax.make_jaxpr(loss)(*arguments).jaxpr, range(learnt)) * task.train.accumulate


def executed_flops(traced: Any) -> float:
    """Of all devices together, in a traced step (`jax.stages.Traced`): what is computed again counts again."""
    return count(traced.jaxpr.jaxpr, ()).forward


def count(jaxpr: Any, learnt: Sequence[int] = ()) -> Flops:
    """Of a jaxpr whose inputs numbered `learnt` are differentiated; what its outputs do not need is left out."""
    inputs = [i in set(learnt) for i in range(len(jaxpr.invars))]
    return _walk(jaxpr, inputs, [_GRADED] * len(jaxpr.outvars))[0]


# How far a value is needed: not, to compute the outputs, or also for a gradient that comes back through it.
_UNUSED, _NEEDED, _GRADED = 0, 1, 2


def _walk(jaxpr: Any, learnt: Sequence[bool], wanted: Sequence[int]) -> tuple[Flops, list[int]]:
    """(operations, how far each input is needed)."""
    reads = _flow(jaxpr, learnt)
    needs: dict[Any, int] = {}

    def need(variables: Sequence[Any], levels: Sequence[int]) -> None:
        for v, level in zip(variables, levels, strict=True):
            if not isinstance(v, Literal):
                needs[v] = max(needs.get(v, _UNUSED), level)

    need(jaxpr.outvars, wanted)
    total = _NONE
    for eqn in reversed(jaxpr.eqns):
        # A gradient comes back only to what depends on something learnt.
        live = [min(needs.get(v, _UNUSED), _GRADED if reads(v) else _NEEDED) for v in eqn.outvars]
        if any(live) or eqn.effects:
            flops, uses = _equation(eqn, [reads(v) for v in eqn.invars], live)
            total += flops
            need(eqn.invars, uses)
    return total, [needs.get(v, _UNUSED) for v in jaxpr.invars]


def _flow(jaxpr: Any, learnt: Sequence[bool]) -> Callable[[Any], bool]:
    """Which variables depend on something learnt."""
    depends = dict(zip(jaxpr.invars, learnt, strict=True))
    reads = lambda v: not isinstance(v, Literal) and depends.get(v, False)
    for eqn in jaxpr.eqns:
        for var, value in zip(eqn.outvars, _depends(eqn, [reads(v) for v in eqn.invars]), strict=True):
            depends[var] = value
    return reads


def _outputs(jaxpr: Any, learnt: Sequence[bool]) -> list[bool]:
    reads = _flow(jaxpr, learnt)
    return [reads(v) for v in jaxpr.outvars]


def _open(jaxpr: Any) -> Any:
    return getattr(jaxpr, "jaxpr", jaxpr)


def _depends(eqn: Any, learnt: list[bool]) -> list[bool]:
    """Which outputs of an equation depend on something learnt."""
    kind, params = eqn.primitive.name, eqn.params
    if kind == "stop_gradient" or not any(learnt):
        return [False] * len(eqn.outvars)
    if kind == "scan":
        body, consts, carries = _open(params["jaxpr"]), params["num_consts"], params["num_carry"]
        return _steady(body, learnt, consts, carries)
    if kind == "while":
        body, first, second = _open(params["body_jaxpr"]), params["cond_nconsts"], params["body_nconsts"]
        return _steady(body, learnt[first:], second, len(eqn.outvars))
    if kind == "cond":
        each = [_outputs(_open(b), learnt[1:]) for b in params["branches"]]
        return [any(outs) for outs in zip(*each, strict=True)]
    inner = _inner(eqn)
    if inner is not None:
        return _outputs(inner, learnt)
    return [any(learnt) and jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in eqn.outvars]


def _steady(body: Any, learnt: list[bool], consts: int, carries: int) -> list[bool]:
    """A loop's outputs: what a carry depends on in one round it depends on in all."""
    learnt = list(learnt)
    while True:
        outs = _outputs(body, learnt)
        merged = [a or b for a, b in zip(learnt[consts : consts + carries], outs, strict=False)]
        if merged == learnt[consts : consts + carries]:
            return outs
        learnt[consts : consts + carries] = merged


def _inner(eqn: Any) -> Any:
    """The one jaxpr that an equation calls with its own operands, or None."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if name in eqn.params and len(_open(eqn.params[name]).invars) == len(eqn.invars):
            return _open(eqn.params[name])
    return None


def _equation(eqn: Any, learnt: list[bool], live: list[int]) -> tuple[Flops, list[int]]:
    """Operations of a live equation, and how far it needs its operands."""
    kind, params = eqn.primitive.name, eqn.params
    level = max(live, default=_NEEDED)
    if kind in ("dot_general", "conv_general_dilated"):
        flops = 2.0 * math.prod(eqn.outvars[0].aval.shape) * _summed(eqn)
        return Flops(flops, flops * sum(learnt) * (level == _GRADED)), [level] * 2
    if kind == "scan":
        flops, uses = _loop(_open(params["jaxpr"]), learnt, live, params["num_consts"], params["num_carry"])
        return flops * params["length"], uses
    if kind == "while":
        first, body = params["cond_nconsts"], _open(params["body_jaxpr"])
        flops, uses = _loop(body, learnt[first:], [_NEEDED] * len(live), params["body_nconsts"], len(live))
        return dataclasses.replace(flops, open_loops=flops.open_loops + 1), [_NEEDED] * first + uses
    if kind == "cond":
        each = [_walk(_open(b), learnt[1:], live) for b in params["branches"]]
        uses = [max(parts) for parts in zip(*(needs for _, needs in each), strict=True)]
        return max((flops for flops, _ in each), key=lambda f: f.total), [_NEEDED, *uses]
    inner = _inner(eqn)
    if inner is None:
        return _NONE, [level] * len(eqn.invars)
    flops, uses = _walk(inner, learnt, live)
    if kind == "shard_map":  # shapes inside are one device's
        sizes = params["mesh"].shape
        flops *= math.prod(sizes[axis] for axis in params.get("newly_manual_axes", params.get("manual_axes", ())))
    return flops, uses


def _loop(
    body: Any, learnt: Sequence[bool], live: Sequence[int], consts: int, carries: int
) -> tuple[Flops, list[int]]:
    """One round of a loop in its steady state: a carry that any round needs is needed from the start."""
    learnt, live, carried = list(learnt), list(live), slice(consts, consts + carries)
    outs = _steady(body, learnt, consts, carries)
    learnt[carried] = [a or b for a, b in zip(learnt[carried], outs[:carries], strict=True)]
    while True:
        flops, uses = _walk(body, learnt, live)
        merged = [max(a, b) for a, b in zip(live[:carries], uses[carried], strict=True)]
        if merged == live[:carries]:
            return flops, uses
        live[:carries] = merged


def _summed(eqn: Any) -> float:
    """Products that are added up for one element of the result."""
    shape = eqn.invars[1].aval.shape
    if eqn.primitive.name == "dot_general":
        (_, axes), _ = eqn.params["dimension_numbers"]
        return math.prod(shape[a] for a in axes)
    return math.prod(shape) / shape[eqn.params["dimension_numbers"].rhs_spec[0]]
