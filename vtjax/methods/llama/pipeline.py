"""The recipe: one stage, on lines of JSON or on the motion world's questions."""

from __future__ import annotations

import dataclasses
import functools
import pathlib

from absl import logging

from vtjax.config import Experiment, check_fields
from vtjax.errors import VtjaxError
from vtjax.methods.llama import data
from vtjax.methods.llama.evaluate import Scorer
from vtjax.methods.llama.task import LlamaObjective
from vtjax.methods.llama.text import open_tokenizer, sizes_of
from vtjax.nn.llama import RULES
from vtjax.training.precision import compute_dtype
from vtjax.training.task import Task

_VALIDATED = 128  # test items scored while training


def build(experiment: Experiment, work: pathlib.Path) -> Task:
    """The training stage; writes the run's assets (the tokenizer) on the way.

    Raises:
      VtjaxError: data, model or settings that cannot work.
    """
    config, objective = experiment.method, objective_of(experiment)
    items = data.open_items(config.data)
    if len(items.problems):
        logging.warning("%s", items.problems.report())
    corpus = [f"{item.prompt} {item.answer}" for item in items.train]
    tokenizer = open_tokenizer(config, sizes_of(config), work / "assets", corpus)
    transform = data.Transform(config, tokenizer)
    cut, lost = data.too_long(items.train, transform)
    logging.info("%d texts to learn from, %d to test on; %d cut at their end", len(items.train), len(items.test), cut)
    if lost:
        raise VtjaxError(
            f"config.method.text.max_tokens={config.text.max_tokens}: the prompts of {lost} items fill it alone"
        )
    return dataclasses.replace(
        _task(experiment, objective),
        source=items.train,
        transform=transform,
        evaluate=functools.partial(Scorer(objective, tokenizer).score, items.test[:_VALIDATED]),
        start=functools.partial(_start, experiment),
        fingerprint=f"{items.fingerprint} {tokenizer.fingerprint()}",
    )


def objective_of(experiment: Experiment) -> LlamaObjective:
    """Builds the objective of an experiment.

    Raises:
      VtjaxError: settings that cannot work.
    """
    check_fields(experiment.method, "config.method")
    return LlamaObjective(experiment.method, sizes_of(experiment.method), compute_dtype(experiment))


def abstract(experiment: Experiment) -> Task:
    """Builds the training stage without its data: all that shapes, compilation and benchmarks depend on."""
    return _task(experiment, objective_of(experiment))


def _task(experiment: Experiment, objective: LlamaObjective) -> Task:
    pattern = rf"{objective.trainable}(?:.*(?:{experiment.train.trainable}))"
    return Task(
        name="llama",
        train=dataclasses.replace(experiment.train, trainable=pattern),
        optim=experiment.optim,
        example_spec=objective.example_spec(),
        init=objective.init,
        loss=objective.loss,
        rules=RULES,
    )


def _start(experiment: Experiment, params: dict) -> dict:
    """Published weights, and the parameters of config.train.initial, in place of random ones."""
    from vtjax.training.initial import from_checkpoint

    model = experiment.method.model
    if model.pretrained:
        from vtjax.weights.llama import load_llama

        dtype = model.frozen_dtype if model.learns == "adapter" else "float32"
        params = {**params, "base": load_llama(model.pretrained, dtype=dtype)[1]}
    return from_checkpoint(experiment.train.initial, params) if experiment.train.initial else params
