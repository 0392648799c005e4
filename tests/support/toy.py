"""A task of a few parameters for tests of the training loop, and a program that trains it, to be stopped and killed.

    python toy.py WORK [--steps=40] [--checkpoint_every=4] [--eval_every=1] ... [--processes=2 --process=0 --port=N]

The program prints a line at each evaluation. With --order=FOLDER each process writes the ids of the rows it reads.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import resource
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from vtjax.config import Loader, Mesh, Optim, Train
from vtjax.files import as_path
from vtjax.training.task import Task

SPEC = {
    "id": jax.ShapeDtypeStruct((), jnp.int32),
    "x": jax.ShapeDtypeStruct((4,), jnp.float32),
    "y": jax.ShapeDtypeStruct((), jnp.float32),
    "weight": jax.ShapeDtypeStruct((), jnp.float32),
}
RULES = (
    (r"body/kernel", ("embed", "mlp")),
    (r"head/kernel", ("mlp",)),
    (r"head/bias", ()),
)


class Numbers:
    """The integers below `count`; the example of `nan` has no finite target."""

    def __init__(self, count, nan=-1):
        self.count, self.nan = count, nan

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return index, index == self.nan


def transform(record, rng):
    index, broken = record
    x = rng.normal(size=4).astype(np.float32)
    y = np.nan if broken else np.sin(x.sum()) + 0.1 * rng.normal()
    return {
        "id": np.array(index, np.int32),
        "x": x,
        "y": np.array(y, np.float32),
        "weight": np.array((0.5, 1.0, 2.0)[index % 3], np.float32),
    }


def init(rng, batch):
    a, b = jax.random.split(rng)
    width = batch["x"].shape[-1]
    return {
        "body": {"kernel": jax.random.normal(a, (width, 8))},
        "head": {"kernel": jax.random.normal(b, (8,)), "bias": jnp.zeros(())},
    }


def loss(noise, params, batch, rng, train):
    """Weighted squared error; with noise the result depends on the random stream and on each row's place."""
    hidden = jnp.tanh(jnp.matmul(batch["x"], params["body"]["kernel"], precision="highest"))
    hidden = hidden + noise * jax.random.normal(rng, hidden.shape)
    error = jnp.matmul(hidden, params["head"]["kernel"], precision="highest") + params["head"]["bias"] - batch["y"]
    weight = batch["weight"]
    count = jnp.asarray(error.shape[0], jnp.float32)
    return {"loss": (jnp.sum(weight * error**2), jnp.sum(weight)), "error": (jnp.sum(jnp.abs(error)), count)}


def make_task(*, noise=0.0, source=None, evaluate=None, optim=None, fingerprint="toy", **train):
    """The task; `train` are fields of config.Train, `optim` an Optim or its fields."""
    if not isinstance(optim, Optim):
        optim = Optim(**{"learning_rate": 0.03, "warmup_steps": 2, "schedule": "cosine", **(optim or {})})
    return Task(
        name="toy",
        train=Train(**{"steps": 8, "batch_size": 8, "log_every": 2, "checkpoint_every": 0, **train}),
        optim=optim,
        example_spec=SPEC,
        init=init,
        loss=functools.partial(loss, noise),
        rules=RULES,
        source=source or Numbers(24),
        transform=transform,
        evaluate=evaluate,
        fingerprint=fingerprint,
    )


def result(**metrics):
    """What an evaluation returns: one result with a protocol and metrics."""
    return [types.SimpleNamespace(protocol="toy", metrics=metrics)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=as_path)
    for name, default in (("steps", 40), ("checkpoint_every", 4), ("eval_every", 1), ("batch_size", 8), ("keep", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name in ("processes", "process", "port", "width", "file_limit", "keep_every", "fsdp"):
        parser.add_argument(f"--{name}", type=int, default=0)
    for name, default in (("pause", 0.0), ("startup", 60.0), ("save", 60.0), ("heartbeat", 0.5), ("lost", 100.0), ("maintenance", 0.0)):
        parser.add_argument(f"--{name}", type=float, default=default)
    for name in ("order", "fingerprint", "hang", "unreadable"):
        parser.add_argument(f"--{name}", default="")
    options = parser.parse_args()

    from vtjax import command_line
    from vtjax.hosts import google, processes
    from vtjax.sharding.mesh import make_mesh
    from vtjax.training import loop
    from vtjax.training.loop import run_task

    def join():
        jax.config.update("jax_num_cpu_devices", 1)
        limits = processes.Limits(options.startup, options.save, 60.0, options.heartbeat, options.lost)
        processes.join(
            "on", options.work / "heartbeats", limits=limits, coordinator=f"localhost:{options.port}",
            processes=options.processes, process=options.process,
        )  # fmt: skip

    def evaluate(params):
        time.sleep(options.pause)
        print("evaluated", flush=True)
        evaluate.calls += 1
        if options.hang == f"{options.process}:{evaluate.calls}":
            time.sleep(1e6)
        return result(bias=0.0)

    evaluate.calls = 0

    def recorded(*args, **kwargs):
        """train_batches, with a line of each batch: {"step", "rows", "ids", "x"}."""
        batches = train_batches(*args, **kwargs)
        rows = [int(r) for r in kwargs["rows"]]
        with (pathlib.Path(options.order) / f"{options.process}-{time.time_ns()}.jsonl").open("w") as file:
            for step, batch in enumerate(batches, kwargs["start_step"]):
                line = {"step": step, "rows": rows, "ids": batch["id"].tolist(), "x": batch["x"].tolist()}
                file.write(json.dumps(line) + "\n")
                file.flush()
                yield batch

    train_batches = loop.train_batches
    if options.order:
        pathlib.Path(options.order).mkdir(parents=True, exist_ok=True)
        loop.train_batches = recorded

    if options.unreadable:  # "process:step": that process cannot read its part of that checkpoint
        process, step = map(int, options.unreadable.split(":"))
        restore = ocp.StandardCheckpointHandler.restore

        def failing(self, path, *args, **kwargs):
            if options.process == process and path.parent.name == str(step):
                raise OSError(5, "Input/output error")
            return restore(self, path, *args, **kwargs)

        ocp.StandardCheckpointHandler.restore = failing

    def train(_):
        command_line.quiet_libraries()
        if options.processes:
            join()
        elif options.maintenance:  # one process on a machine of a cloud
            google.EVERY = options.maintenance
            processes.join("off", options.work / "heartbeats", limits=processes.Limits(heartbeat=options.heartbeat))
        task = make_task(
            noise=0.1, evaluate=evaluate, steps=options.steps, checkpoint_every=options.checkpoint_every,
            eval_every=options.eval_every, batch_size=options.batch_size, keep=options.keep,
            keep_every=options.keep_every, fingerprint=options.fingerprint or "toy",
        )  # fmt: skip
        if options.width:  # a larger model, to fill a disk with
            spec = {**SPEC, "x": jax.ShapeDtypeStruct((options.width,), jnp.float32)}
            task = dataclasses.replace(task, example_spec=spec, transform=functools.partial(widened, options.width))
        if options.file_limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (options.file_limit, options.file_limit))
        mesh = make_mesh(Mesh(fsdp=options.fsdp or 1))
        outcome = run_task(task, mesh, options.work, seed=5, loader=Loader(threads=1))
        print(f"finished={outcome.finished} step={outcome.step}", flush=True)

    command_line.run(train, ["toy"])


def widened(width, record, rng):
    example = transform(record, rng)
    return {**example, "x": np.resize(example["x"], width)}


if __name__ == "__main__":
    main()
