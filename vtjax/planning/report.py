"""One plan: the train step of an experiment compiled for a topology, and what it would take there."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from typing import Any

import jax

from vtjax import methods
from vtjax.config import Experiment
from vtjax.planning import hlo, memory, network
from vtjax.planning.flops import executed_flops, model_flops
from vtjax.planning.memory import Memory, Overflow, Tensor
from vtjax.planning.topology import Topology
from vtjax.sharding.mesh import make_mesh, mesh_shape
from vtjax.training.step import Trainer, params_of

SHOWN = 8  # of the largest tensors


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds a step takes at full rate of each resource; a step takes the longest of them at least."""

    products: float  # matrix products, those computed again counted
    hbm: float
    ici: float
    dcn: float

    @property
    def step(self) -> float:
        return max(dataclasses.astuple(self))

    @property
    def serial(self) -> float:
        """Seconds if nothing happened beside anything else."""
        return self.products + self.hbm + self.ici + self.dcn

    @property
    def bound(self) -> str:
        names = {"products": "matrix products", "hbm": "HBM", "ici": "ICI", "dcn": "DCN"}
        return names[max(names, key=lambda n: getattr(self, n))]


@dataclasses.dataclass(frozen=True)
class Plan:
    """fits: whether XLA could place the program; None of what needs the compiled program is there where it did not.

    memory: per chip. available: bytes of HBM that XLA may use, 0 where unknown. largest: arrays on one chip, those that
    did not fit where it does not. replicated: arrays of the state that every chip holds in full. times, mfu,
    examples_per_second: bounds from the chip's peak rates, None for "cpu".
    """

    topology: Topology
    mesh: dict[str, int]
    batch_size: int
    accumulate: int
    remat: str | None
    parameters: int
    fits: bool
    memory: Memory
    needed: float
    available: float
    largest: list[Tensor]
    replicated: list[Tensor]
    model_flops: float
    executed_flops: float
    open_loops: int
    hbm_bytes: float | None = None
    collectives: dict[str, dict[str, float]] | None = None
    times: Times | None = None
    compile_seconds: float = 0.0

    @property
    def examples_per_second(self) -> float | None:
        return self.batch_size / self.times.step if self.times else None

    @property
    def mfu(self) -> float | None:
        """Model FLOPs over what the chips could do in a step, both as bounds: of a perfect overlap."""
        if self.times is None or self.topology.chip is None:
            return None
        return self.model_flops / (self.times.step * self.topology.chips * self.topology.chip.flops)

    @property
    def fewest_chips(self) -> int | None:
        """Chips that could hold the state and the kept activations if all of it were split; a lower bound."""
        if not self.available:
            return None
        one = self.memory
        split = (one.parameters + one.frozen + one.optimizer + one.batch + one.activations) * self.topology.chips
        whole = sum(t.bytes for t in self.replicated)
        split -= whole * (self.topology.chips - 1)
        return max(1, math.ceil(split / max(self.available - whole, 1.0)))

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values; bytes, seconds and operations."""
        values = dataclasses.asdict(self)
        values["topology"] = {"name": str(self.topology), "chips": self.topology.chips, "slices": self.topology.slices}
        values["memory"]["total"] = self.memory.total
        values["replicated"] = {
            "bytes": sum(t.bytes for t in self.replicated),
            "largest": [dataclasses.asdict(t) for t in self.replicated[:SHOWN]],
        }
        if self.times:
            values["times"] |= {"step": self.times.step, "bound": self.times.bound}
        extra = ("examples_per_second", "mfu", "fewest_chips")
        return values | {name: getattr(self, name) for name in extra}


def planned(experiment: Experiment, topology: Topology) -> Experiment:
    """A copy as it would run there: bfloat16 where "auto" says so, and as many slices as the topology has.

    Raises:
      VtjaxError: a mesh that the chips cannot have.
    """
    experiment = copy.deepcopy(experiment)
    if experiment.compute_dtype == "auto":
        experiment.compute_dtype = "float32" if topology.kind == "cpu" else "bfloat16"
    experiment.mesh.slices = topology.slices
    mesh_shape(experiment.mesh, topology.chips)
    return experiment


@dataclasses.dataclass(frozen=True)
class Step:
    """A train step for a topology. compiled: None where it does not fit; overflow: what XLA then said."""

    experiment: Experiment
    topology: Topology
    trainer: Trainer
    traced: jax.stages.Traced
    compiled: jax.stages.Compiled | None
    overflow: Overflow | None
    seconds: float


def compile_step(experiment: Experiment, topology: Topology, devices: list | None = None) -> Step:
    """Builds the step that vtjax.train would run on the topology, and compiles it.

    devices: those of `topology.devices()`, where they are there already.

    Raises:
      VtjaxError: settings that cannot work on this topology; not where the program merely is too large.
    """
    experiment = planned(experiment, topology)
    devices = topology.devices() if devices is None else devices  # before anything starts JAX
    task = methods.get(experiment.name).abstract(experiment)
    trainer = Trainer(task, make_mesh(experiment.mesh, devices), experiment.seed)
    traced = trainer.trace()
    compiled, overflow, began = None, None, time.perf_counter()
    try:
        compiled = compile_uncached(traced.lower())
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        overflow = memory.parse_overflow(str(error))
    return Step(experiment, topology, trainer, traced, compiled, overflow, time.perf_counter() - began)


def describe(step: Step) -> Plan:
    """What a step takes."""
    trainer, topology = step.trainer, step.topology
    train, needs = trainer.task.train, model_flops(trainer.task)
    executed, ways = executed_flops(step.traced), trainer.mesh.shape["data"] * trainer.mesh.shape["fsdp"]
    tensors = memory.kept(trainer.task)
    kept = sum(t.bytes for t in tensors) / ways
    common = dict(
        topology=topology,
        mesh=dict(trainer.mesh.shape),
        batch_size=train.batch_size,
        accumulate=train.accumulate,
        remat=remat_of(step.experiment),
        parameters=sum(math.prod(x.shape) for x in jax.tree.leaves(params_of(trainer.abstract_state))),
        replicated=memory.replicated(trainer),
        model_flops=needs.total,
        executed_flops=executed,
        open_loops=needs.open_loops,
        compile_seconds=step.seconds,
    )
    if step.compiled is None:
        overflow = step.overflow or Overflow(0.0, 0.0, ())
        # Where XLA names no tensor, those that the backward pass reads, as they were traced.
        traced = [dataclasses.replace(t, bytes=t.bytes / ways, shape=f"{t.shape} / {ways}") for t in tensors[:SHOWN]]
        return Plan(
            fits=False, memory=memory.state_memory(trainer, kept), needed=overflow.needed,
            available=overflow.available or usable_hbm(topology), largest=list(overflow.largest) or traced, **common,
        )  # fmt: skip
    program = hlo.Program(step.compiled.as_text() or "")
    used = memory.state_memory(trainer, kept, step.compiled.memory_analysis())
    collectives = hlo.collectives(program, trainer.mesh.size)
    sent = network.transfers(collectives, list(trainer.mesh.devices.flat), topology.shape, topology.chip)
    sums, touched = network.by_kind(sent), program.traffic()
    largest = [Tensor(size, str(shape), name) for size, shape, name in program.largest(SHOWN)]
    return Plan(
        fits=True, memory=used, needed=used.total, available=usable_hbm(topology), largest=largest, hbm_bytes=touched,
        collectives=sums, times=_times(topology, executed, touched, sums), **common,
    )  # fmt: skip


def make_plan(experiment: Experiment, topology: Topology, devices: list | None = None) -> Plan:
    """Compiles the train step for the topology and reads off what it takes; raises as `compile_step`."""
    return describe(compile_step(experiment, topology, devices))


def _times(topology: Topology, executed: float, touched: float, sums: dict[str, dict[str, float]]) -> Times | None:
    chip = topology.chip
    if chip is None:
        return None
    return Times(
        products=executed / (topology.chips * chip.flops),
        hbm=touched / chip.hbm_bandwidth,
        ici=sum(row["ici_seconds"] for row in sums.values()),
        dcn=sum(row["dcn_seconds"] for row in sums.values()),
    )


def compile_uncached(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiled without JAX's cache, which can keep programs for absent devices but not read them."""
    enabled = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        return lowered.compile()
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)


def usable_hbm(topology: Topology) -> float:
    """Bytes that programs may use on one chip; 0 where unknown."""
    return float(topology.chip.hbm * 63 / 64) if topology.chip else 0.0


def remat_of(experiment: Experiment) -> str | None:
    """The rematerialisation policy of a method that has one (see vtjax/methods/__init__.py)."""
    return getattr(getattr(experiment.method, "model", None), "remat", None)
