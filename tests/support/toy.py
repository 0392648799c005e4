"""A task of a few parameters for tests of the training loop, and a program that trains it, to be stopped and killed.

    python toy.py WORK [--steps=40] [--checkpoint_every=4] [--eval_every=1] ... [--processes=2 --process=0 --port=N]

The program prints a line at each evaluation.
"""

import argparse
import dataclasses
import functools
import pathlib
import resource
import time
import types

import jax
import jax.numpy as jnp
import numpy as np

from vtjax.config import Loader, Mesh, Optim, Train
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
    parser.add_argument("work", type=pathlib.Path)
    for name, default in (("steps", 40), ("checkpoint_every", 4), ("eval_every", 1), ("batch_size", 8), ("keep", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name in ("processes", "process", "port", "width", "file_limit"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.0)
    options = parser.parse_args()
    if options.processes:
        jax.config.update("jax_num_cpu_devices", 1)
        jax.distributed.initialize(f"localhost:{options.port}", options.processes, options.process)

    from vtjax import mains
    from vtjax.parallel.mesh import make_mesh
    from vtjax.training.loop import run_task

    def evaluate(params):
        time.sleep(options.pause)
        print("evaluated", flush=True)
        return result(bias=0.0)

    def train(_):
        mains.quiet_libraries()
        task = make_task(
            noise=0.1, evaluate=evaluate, steps=options.steps, checkpoint_every=options.checkpoint_every,
            eval_every=options.eval_every, batch_size=options.batch_size, keep=options.keep,
        )  # fmt: skip
        if options.width:  # a larger model, to fill a disk with
            spec = {**SPEC, "x": jax.ShapeDtypeStruct((options.width,), jnp.float32)}
            task = dataclasses.replace(task, example_spec=spec, transform=functools.partial(widened, options.width))
        if options.file_limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (options.file_limit, options.file_limit))
        outcome = run_task(task, make_mesh(Mesh()), options.work, seed=5, loader=Loader(threads=1))
        print(f"finished={outcome.finished} step={outcome.step}", flush=True)

    mains.run(train, ["toy"])


def widened(width, record, rng):
    example = transform(record, rng)
    return {**example, "x": np.resize(example["x"], width)}


if __name__ == "__main__":
    main()
