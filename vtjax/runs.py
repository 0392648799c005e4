"""A trained run from Python: `run = vtjax.load("runs/car")`, then run.predict(...), run.evaluate(...)."""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import jax

from vtjax import config, methods, remote
from vtjax.errors import VtjaxError
from vtjax.files import as_path
from vtjax.hosts import processes
from vtjax.sharding.partition import partition
from vtjax.training import recipe


class Run:
    """A work directory of vtjax.train with its parameters, loaded when first needed.

    which: "last", a step, or a "protocol/metric" of config.train.best. stage: default the method's last stage.
    mesh: devices to place the parameters of the last stage on, by the method's partition rules; all processes of the
    mesh then evaluate together. None is numpy.
    work: a folder; the folder of this machine that mirrors it where the run lies in a bucket.
    """

    def __init__(
        self, work: pathlib.Path | str, which: str = "last", stage: str = "", mesh: jax.sharding.Mesh | None = None
    ):
        if not as_path(work).is_dir():
            raise VtjaxError(f"{work}: no such work directory; `python -m vtjax.train` makes one")
        self.work = remote.local(work, processes.index_of())
        remote.fetch(self.work)
        self.experiment = config.load_experiment(self.work / "config.json")
        self.which = which
        self._stage, self._mesh = stage, mesh

    @functools.cached_property
    def params(self) -> dict:
        """Nested dict of arrays."""
        pipeline = methods.module(self.experiment.name, "pipeline")
        shardings = None
        if self._mesh is not None:
            task = pipeline.abstract(self.experiment)
            shapes = jax.eval_shape(task.init, jax.random.key(0), task.batch_spec())
            shardings = partition(shapes, task.rules, self._mesh).shardings
        return recipe.stage_params(self.work, self._stage or pipeline.LAST_STAGE, self.which, shardings)

    def evaluate(self, **options: Any) -> list[Any]:
        """The method's evaluations as a list of vtjax.evals.protocol.Result; options are the method's own."""
        return methods.module(self.experiment.name, "evaluate").evaluate(self, **options)

    def predict(self, **options: Any) -> Any:
        """The method's prediction; see its predict module for the options and what it returns."""
        return methods.module(self.experiment.name, "predict").predict(self, **options)

    def stream(self, *arguments: Any, **options: Any) -> Any:
        """Live scores of methods that have them; see methods/ovoad/stream.py for the options and what it returns.

        Raises:
          VtjaxError: the method scores nothing live.
        """
        name = self.experiment.name
        live = [method for method in methods.names() if methods.has(method, "stream")]
        if name not in live:
            raise VtjaxError(f"{self.work}: {name!r} scores nothing live; methods that do: {', '.join(live)}")
        return methods.module(name, "stream").open_stream(self, *arguments, **options)


def load(work: pathlib.Path | str, which: str = "last", stage: str = "") -> Run:
    """Opens a work directory.

    Raises:
      VtjaxError: it is missing, or its configuration is not readable.
    """
    return Run(work, which, stage)


def fit(experiment: config.Experiment, work: pathlib.Path | str, **options: Any) -> Run:
    """Trains every stage of an experiment in `work` and opens the result; options as recipe.run_experiment's.

    Raises:
      VtjaxError: as run_experiment, and where a signal stopped the run before its end; the same call goes on with it.
    """
    outcome = recipe.run_experiment(experiment, work, **options)
    if not outcome.finished:
        raise VtjaxError(f"{work}: stopped at step {outcome.step} by a signal; run the same again to go on from there")
    return Run(work)
