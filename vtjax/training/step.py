"""The train state and the one train step: trainable and frozen trees split before grad, sums and weights, donated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vtjax.errors import VtjaxError
from vtjax.sharding import partition as partitioning
from vtjax.sharding.mesh import batch_sharding, replicated
from vtjax.training.optim import make_optimizer, make_schedule
from vtjax.training.task import Task

State = dict[str, Any]  # step int32, trainable, frozen, opt_state, rng (typed key)


class Trainer:
    """A task on a mesh: abstract state, shardings, initial state and the compiled step.

    The step is `jax.jit` with NamedShardings in and out (what was once called pjit); `lower()` is also what
    ahead-of-time plans compile.
    """

    def __init__(self, task: Task, mesh: jax.sharding.Mesh, seed: int):
        self.task, self.mesh, self.seed = task, mesh, seed
        self.tx = make_optimizer(task.optim, task.train.steps)
        self.schedule = make_schedule(task.optim, task.train.steps)
        ways = mesh.shape["data"] * mesh.shape["fsdp"]
        micro = task.train.batch_size // task.train.accumulate
        if micro % ways:
            raise VtjaxError(
                f"config.train.batch_size / accumulate = {micro} is not divisible by the {ways} data-parallel devices"
            )
        self.batch_sharding = batch_sharding(mesh)
        self.abstract_batch = {
            name: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=self.batch_sharding)
            for name, spec in task.batch_spec().items()
        }
        params = jax.eval_shape(task.init, jax.random.key(0), self.abstract_batch)
        self.partition = partitioning.partition(params, task.rules, mesh)
        abstract = jax.eval_shape(self._initial, jax.random.key(0))
        whole = replicated(mesh)
        trainable_names = set(partitioning.flatten(abstract["trainable"]))
        shardings, frozen = partitioning.split(self.partition.shardings, self.task.train.trainable)
        assert set(partitioning.flatten(shardings)) == trainable_names
        self.state_shardings = {
            "step": whole,
            "rng": whole,
            "trainable": shardings,
            "frozen": frozen,
            "opt_state": partitioning.like_params(
                abstract["opt_state"], abstract["trainable"], self.partition.specs, mesh
            ),
        }
        self.abstract_state = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, self.state_shardings
        )

    def _initial(self, key: jax.Array, params: dict | None = None) -> State:
        init_key, run_key = jax.random.split(key)
        if params is None:
            batch = {name: jnp.zeros(s.shape, s.dtype) for name, s in self.abstract_batch.items()}
            params = self.task.init(init_key, batch)
        trainable, frozen = partitioning.split(params, self.task.train.trainable)
        return {
            "step": jnp.zeros((), jnp.int32),
            "rng": run_key,
            "trainable": trainable,
            "frozen": frozen,
            "opt_state": self.tx.init(trainable),
        }

    def init_state(self) -> State:
        """A fresh state, born sharded; the task's `start` then puts pretrained weights in."""
        state = jax.jit(self._initial, out_shardings=self.state_shardings)(jax.random.key(self.seed))
        if self.task.start is None:
            return state
        return self.with_params(state, self.task.start(params_of(state)))

    def with_params(self, state: State, params: dict) -> State:
        """`state` with other parameters of the same shapes, placed on the mesh, and a fresh optimizer state."""
        trainable, frozen = partitioning.split(params, self.task.train.trainable)
        place = lambda tree, where: jax.tree.map(
            lambda x, s: jax.device_put(jnp.asarray(x, jnp.result_type(x)), s), tree, where
        )
        trainable = place(trainable, self.state_shardings["trainable"])
        opt_state = jax.jit(self.tx.init, out_shardings=self.state_shardings["opt_state"])(trainable)
        frozen = place(frozen, self.state_shardings["frozen"])
        return {**state, "trainable": trainable, "frozen": frozen, "opt_state": opt_state}

    def step_fn(self) -> Callable[[State, dict], tuple[State, dict]]:
        """(state, batch) -> (state, metrics); metrics are {name: (sum, weight)} of the global batch."""
        task, accumulate = self.task, self.task.train.accumulate

        def objective(trainable, frozen, batch, rng):
            metrics = task.loss(partitioning.merge(trainable, frozen), batch, rng, True)
            return metrics["loss"][0], dict(metrics)

        grad_fn = jax.value_and_grad(objective, has_aux=True)

        def one(trainable, frozen, batch, rng):
            (_, metrics), grads = grad_fn(trainable, frozen, batch, rng)
            return grads, metrics

        def step(state: State, batch: dict) -> tuple[State, dict]:
            rng = jax.random.fold_in(state["rng"], state["step"])
            trainable, frozen = state["trainable"], state["frozen"]
            if accumulate == 1:
                grads, metrics = one(trainable, frozen, batch, rng)
            else:
                # Row r goes to micro-batch r % accumulate, so that every device keeps its own rows.
                parts = jax.tree.map(
                    lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch
                )

                def body(carry, part):
                    index, micro = part
                    update = one(trainable, frozen, micro, jax.random.fold_in(rng, index))
                    return jax.tree.map(jnp.add, carry, update), None

                shapes = jax.eval_shape(one, trainable, frozen, jax.tree.map(lambda x: x[0], parts), rng)
                zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
                (grads, metrics), _ = jax.lax.scan(body, zero, (jnp.arange(accumulate), parts))
            weight = jnp.maximum(metrics["loss"][1], 1e-12).astype(jnp.float32)
            grads = jax.tree.map(lambda g: g / weight.astype(g.dtype), grads)
            updates, opt_state = self.tx.update(grads, state["opt_state"], trainable)
            one_count = jnp.ones((), jnp.float32)
            for name, tree in (("grad_norm", grads), ("update_norm", updates), ("param_norm", trainable)):
                metrics[name] = (optax.global_norm(tree).astype(jnp.float32), one_count)
            metrics["learning_rate"] = (jnp.asarray(self.schedule(state["step"]), jnp.float32), one_count)
            new = {**state, "trainable": optax.apply_updates(trainable, updates), "opt_state": opt_state}
            new["step"] = state["step"] + 1
            return new, metrics

        return step

    def trace(self) -> jax.stages.Traced:
        """The train step traced for this mesh; vtjax.plan counts its operations."""
        whole = replicated(self.mesh)
        jitted = jax.jit(
            self.step_fn(),
            in_shardings=(self.state_shardings, dict.fromkeys(self.abstract_batch, self.batch_sharding)),
            out_shardings=(self.state_shardings, whole),
            donate_argnums=(0,),
        )
        return jitted.trace(self.abstract_state, self.abstract_batch)

    def lower(self) -> jax.stages.Lowered:
        """The train step lowered for this mesh; `.compile()` runs or, for a topology, is measured."""
        return self.trace().lower()


def params_of(state: State) -> dict:
    """The whole parameter tree of a state."""
    return partitioning.merge(state["trainable"], state["frozen"])


def memory_line(compiled: jax.stages.Compiled) -> str:
    """Bytes per device of a compiled step, as XLA counts them."""
    stats = compiled.memory_analysis()
    if stats is None:
        return "this backend does not report memory"
    mib = lambda n: f"{n / 2**20:.1f} MiB"
    kept = stats.output_size_in_bytes - stats.alias_size_in_bytes
    peak = stats.argument_size_in_bytes + stats.temp_size_in_bytes + kept
    return (
        f"per device: arguments {mib(stats.argument_size_in_bytes)}, temporaries {mib(stats.temp_size_in_bytes)}, "
        f"outputs not donated {mib(kept)}, total {mib(peak)}"
    )
