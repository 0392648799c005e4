"""A trained run from Python: `run = vtjax.load("runs/car")`, then run.predict(...), run.evaluate(...)."""

from __future__ import annotations

import functools
import pathlib
from typing import Any

from vtjax import config, methods
from vtjax.errors import VtjaxError
from vtjax.training import recipe


class Run:
    """A work directory of vtjax.train with its parameters, loaded when first needed.

    which: "last", a step, or a "protocol/metric" of config.train.best. stage: default the method's last stage.
    """

    def __init__(self, work: pathlib.Path | str, which: str = "last", stage: str = ""):
        self.work = pathlib.Path(work)
        if not self.work.is_dir():
            raise VtjaxError(f"{self.work}: no such work directory; `python -m vtjax.train` makes one")
        self.experiment = config.load_experiment(self.work / "config.json")
        self.which = which
        self._stage = stage

    @functools.cached_property
    def params(self) -> dict:
        """Nested dict of numpy arrays."""
        stage = self._stage or methods.module(self.experiment.name, "pipeline").LAST_STAGE
        return recipe.stage_params(self.work, stage, self.which)

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
