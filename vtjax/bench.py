"""Times a train step on made-up batches: python -m vtjax.bench --config=configs/car.py [--steps=20]

Needs no data and neither grain nor tensorflow-datasets. Prints compile time, memory, step time and examples per second.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence

from absl import flags

from vtjax import command_line

command_line.define_config()
flags.DEFINE_integer("steps", 20, "Steps to time, after two that are not.", lower_bound=1)
flags.DEFINE_string("json", "", "File to write the figures to.")


def random_batch(spec, seed: int = 0) -> dict:
    """A batch of the right shapes and dtypes: normal floats, small non-negative integers, True masks; numpy."""
    import numpy as np

    rng = np.random.default_rng(seed)
    make = {
        "f": lambda s: rng.standard_normal(s.shape).astype(s.dtype),
        "i": lambda s: rng.integers(0, 16, s.shape).astype(s.dtype),
        "u": lambda s: rng.integers(0, 256, s.shape).astype(s.dtype),
        "b": lambda s: np.ones(s.shape, bool),
    }
    return {name: make[np.dtype(s.dtype).kind if s.dtype != "bfloat16" else "f"](s) for name, s in spec.items()}


def measure(experiment, steps: int) -> dict:
    """Figures of the method's last stage on all devices of this process; times in seconds."""
    import jax

    from vtjax import methods
    from vtjax.sharding.mesh import global_batch, make_mesh
    from vtjax.training.step import Trainer, memory_line

    task = methods.get(experiment.name).abstract(experiment)
    trainer = Trainer(task, make_mesh(experiment.mesh), experiment.seed)
    began = time.perf_counter()
    compiled = trainer.lower().compile()
    compile_seconds = time.perf_counter() - began
    state = trainer.init_state()
    batch = global_batch(random_batch(task.batch_spec()), trainer.batch_sharding)
    times = []
    for _ in range(steps + 2):
        began = time.perf_counter()
        state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))
        times.append(time.perf_counter() - began)
    times = times[2:]
    device = jax.devices()[0]
    return {
        "device": f"{jax.device_count()} x {device.device_kind}",
        "jax": jax.__version__,
        "batch_size": task.train.batch_size,
        "parameters": sum(x.size for x in jax.tree.leaves(state["trainable"])),
        "compile_seconds": compile_seconds,
        "step_seconds": {"min": min(times), "median": statistics.median(times), "max": max(times)},
        "examples_per_second": task.train.batch_size / statistics.median(times),
        "memory": memory_line(compiled),
    }


def bench(_: Sequence[str]) -> int:
    experiment, spec = command_line.experiment()
    figures = {"config": spec, **measure(experiment, flags.FLAGS.steps)}
    for name, value in figures.items():
        print(f"{name}: {value}")
    if flags.FLAGS.json:
        from vtjax.files import write_atomically

        write_atomically(flags.FLAGS.json, json.dumps(figures, indent=1) + "\n")
    return 0


def main() -> None:
    command_line.run(bench)


if __name__ == "__main__":
    main()
