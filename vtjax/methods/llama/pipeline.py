"""The recipe: one stage, the adapter's."""

from __future__ import annotations

import dataclasses

from vtjax.config import Experiment
from vtjax.methods.llama import config as settings
from vtjax.methods.llama import task
from vtjax.methods.llama.text import sizes_of
from vtjax.nn.llama import RULES
from vtjax.nn.stack import CHEAPEST_FIRST
from vtjax.training.precision import compute_dtype
from vtjax.training.task import Task

LAST_STAGE = "train"
LEVERS = {"method.model.remat": CHEAPEST_FIRST, "train.accumulate": (1, 2, 4, 8)}


def abstract(experiment: Experiment) -> Task:
    """The training stage without its data: all that shapes, compilation and benchmarks depend on."""
    config = experiment.method
    settings.check(config)
    sizes, dtype = sizes_of(config), compute_dtype(experiment)
    train = dataclasses.replace(experiment.train, trainable=rf"{task.TRAINABLE}(?:.*{experiment.train.trainable})")
    return Task(
        name="llama",
        train=train,
        optim=experiment.optim,
        example_spec=task.example_spec(config),
        init=lambda rng, batch: task.init(config, sizes, rng, dtype),
        loss=lambda params, batch, rng, training: task.loss(config, sizes, params, batch, rng, training, dtype),
        rules=RULES,
    )
