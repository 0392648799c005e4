"""Other meshes, batches and settings for an experiment on a topology: estimated all, compiled the most promising.

What may be varied without changing what is learnt a method says itself (`LEVERS` of its pipeline, see
vtjax/methods/__init__.py). The estimate is of memory alone: the state's shards exactly, the activations as traced, the
gradients as the trainable state. Candidates that should fit are tried from the least communication and recomputation
on; what XLA then says decides.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType

from vtjax import methods
from vtjax.config import Experiment, Mesh
from vtjax.errors import VtjaxError
from vtjax.planning import memory
from vtjax.planning.report import Plan, make_plan, planned, usable_hbm
from vtjax.planning.topology import Topology, larger
from vtjax.sharding import partition as partitioning
from vtjax.sharding.mesh import AXES
from vtjax.training.optim import make_optimizer
from vtjax.training.task import Task

LARGEST_TENSOR = 16  # ways of tensor parallelism that are tried
SLACK = 0.92  # of the usable HBM that an estimate may fill


@dataclasses.dataclass
class Candidate:
    """An experiment to try; estimate: bytes per chip; settings: what differs from the one given."""

    experiment: Experiment
    estimate: float
    settings: dict[str, Any]
    cost: tuple


@dataclasses.dataclass
class Ranking:
    """plans: those compiled, the ones that fit first, by examples per second. settings: of each, what differs from the
    experiment given. refused: meshes that cannot be, with reasons. skipped: candidates that were not compiled."""

    plans: list[Plan]
    settings: list[dict[str, Any]]
    refused: list[str]
    skipped: int


def meshes(topology: Topology) -> Iterator[Mesh]:
    """All meshes of the topology's chips, slices along the data axis."""
    chips = topology.chips
    for tensor in _divisors(chips):
        for fsdp in _divisors(chips // tensor):
            data = chips // tensor // fsdp
            if tensor <= LARGEST_TENSOR and data % topology.slices == 0:
                yield Mesh(data, fsdp, tensor, topology.slices)


def candidates(
    experiment: Experiment, topology: Topology, batches: Sequence[int] = ()
) -> tuple[list[Candidate], list[str]]:
    """(all that can be built, from least to most communication and recomputation; reasons why others cannot).

    batches: global batch sizes; none is the experiment's.
    """
    mesh = Mesh(topology.chips, 1, 1, topology.slices)
    experiment = planned(with_settings(experiment, {"mesh": mesh}), topology)
    levers = dict(methods.get(experiment.name).levers)
    refused: dict[str, None] = {}
    possible = []
    parts = levers.pop("train.accumulate", (experiment.train.accumulate,))
    for batch in batches or (experiment.train.batch_size,):
        for values in itertools.product(*levers.values()):
            settings = {"train.batch_size": batch, **dict(zip(levers, values, strict=True))}
            base = with_settings(experiment, {**settings, "train.accumulate": 1})
            try:
                measure = _Measure(methods.get(base.name).abstract(base))
            except VtjaxError as error:
                refused[str(error).splitlines()[0]] = None
                continue
            for accumulate, mesh in itertools.product(parts, meshes(topology)):
                try:
                    bytes_ = measure(mesh, accumulate)
                except VtjaxError as error:
                    refused[f"{_name(mesh)}: {_first_reason(error)}"] = None
                    continue
                changed = {**settings, "train.accumulate": accumulate}
                changed |= {f"mesh.{axis}": getattr(mesh, axis) for axis in AXES}
                place = [levers[name].index(settings[name]) for name in levers]
                cost = (sum(place) + parts.index(accumulate), mesh.tensor, mesh.fsdp)
                possible.append(Candidate(with_settings(base, changed), bytes_, changed, cost))
    return possible, list(refused)


class _Measure:
    """Bytes on one chip by mesh and number of micro-batches, for one setting of everything else; traced once."""

    def __init__(self, task: Task):
        self.task = task
        train = task.train
        batch = {n: jax.ShapeDtypeStruct(s.shape, s.dtype) for n, s in task.batch_spec().items()}
        self.params = jax.eval_shape(task.init, jax.random.key(0), batch)
        self.trainable, _ = partitioning.split(self.params, train.trainable)
        self.optimizer = jax.eval_shape(make_optimizer(task.optim, train.steps).init, self.trainable)
        self.kept = sum(t.bytes for t in memory.kept(task))
        self.again = memory.computed_again(task)
        self.batch = sum(math.prod(s.shape) * s.dtype.itemsize for s in batch.values())

    def __call__(self, mesh: Mesh, accumulate: int) -> float:
        ways, train = mesh.data * mesh.fsdp, self.task.train
        if train.batch_size % (accumulate * ways):
            raise VtjaxError(f"a batch of {train.batch_size} in {accumulate} parts does not split {ways} ways")
        abstract = AbstractMesh((mesh.data, mesh.fsdp, mesh.tensor), AXES, axis_types=(AxisType.Auto,) * len(AXES))
        split = partitioning.partition(self.params, self.task.rules, abstract)
        spread = lambda tree, shardings: sum(
            math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize
            for x, s in zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
        )
        learnt, _ = partitioning.split(split.shardings, train.trainable)
        states = partitioning.like_params(self.optimizer, self.trainable, split.specs, abstract)
        fixed = spread(self.params, split.shardings) + spread(self.optimizer, states) + spread(self.trainable, learnt)
        # What a layer computes again is mostly split by heads and hidden units; what is kept between layers is not.
        return fixed + (self.batch + (self.kept + self.again / mesh.tensor) / accumulate) / ways


def search(
    experiment: Experiment,
    topology: Topology,
    *,
    batches: Sequence[int] = (),
    compiles: int = 8,
    enough: int | None = None,
    on_plan: Callable[[Plan], None] = lambda plan: None,
) -> Ranking:
    """Compiles the most promising candidates and ranks them.

    Args:
      batches: global batch sizes to try; none is the experiment's.
      compiles: at most so many.
      enough: stop after so many that fit.
      on_plan: called with every plan as it is made.
    """
    possible, refused = candidates(experiment, topology, batches)
    limit = SLACK * usable_hbm(topology) or math.inf
    hopeful = [c for c in possible if c.estimate <= limit]
    hopeful.sort(key=lambda c: (-c.experiment.train.batch_size, *c.cost))
    hopeful = hopeful or sorted(possible, key=lambda c: c.estimate)
    devices = topology.devices()
    made: list[tuple[Plan, dict[str, Any]]] = []
    queue, bound = list(hopeful), math.inf
    while queue and len(made) < compiles and sum(p.fits for p, _ in made) < (enough or math.inf):
        # After one that was too large, only what is estimated smaller is worth a try, unless there is nothing else.
        one = next((c for c in queue if c.estimate < bound), None)
        if one is None:
            break
        queue.remove(one)
        plan = make_plan(one.experiment, topology, devices)
        if not plan.fits:
            bound = min(bound, 0.8 * one.estimate)
        made.append((plan, one.settings))
        on_plan(plan)
    made.sort(key=lambda pair: (not pair[0].fits, -(pair[0].examples_per_second or 0.0), pair[0].needed))
    return Ranking([p for p, _ in made], [s for _, s in made], refused, len(possible) - len(made))


def propose(experiment: Experiment, topology: Topology, compiles: int = 4, sizes: int = 3) -> tuple[Plan, dict] | None:
    """(a plan that fits, the settings it needs) for one that does not: here, else on the next larger slices.

    The global batch stays; compiles: per slice.
    """
    place: Topology | None = topology
    for _ in range(sizes):
        if place is None:
            return None
        ranking = search(experiment, place, compiles=compiles, enough=1)
        if ranking.plans and ranking.plans[0].fits:
            return ranking.plans[0], ranking.settings[0]
        place = larger(place)
    return None


def differing(experiment: Experiment, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `settings` that the experiment does not have."""
    return {k: v for k, v in settings.items() if operator.attrgetter(k)(experiment) != v}


def with_settings(experiment: Experiment, settings: Mapping[str, Any]) -> Experiment:
    """A copy with fields such as "train.batch_size" set."""
    experiment = copy.deepcopy(experiment)
    for path, value in settings.items():
        *parents, last = path.split(".")
        holder = operator.attrgetter(".".join(parents))(experiment) if parents else experiment
        setattr(holder, last, value)
    return experiment


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _name(mesh: Mesh) -> str:
    return f"data={mesh.data} fsdp={mesh.fsdp} tensor={mesh.tensor}"


def _first_reason(error: VtjaxError) -> str:
    lines = str(error).splitlines()
    return (lines[1] if len(lines) > 1 else lines[0]).strip()
