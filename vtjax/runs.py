"""A trained run from Python: `run = vtjax.load("runs/car")`, then run.predict(...), run.evaluate(), run.stream(...)."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from vtjax import arguments, config, methods, remote
from vtjax.errors import VtjaxError
from vtjax.files import as_path
from vtjax.hosts import lock, processes
from vtjax.methods.method import Method
from vtjax.sharding.mesh import make_mesh
from vtjax.sharding.partition import partition
from vtjax.training import recipe
from vtjax.training.loop import Outcome


class Run:
    """A work directory of vtjax.train.

    Its parameters and its model (tokenizer, encoder, jitted functions, opened data) are loaded when they are first
    needed and then kept. `predict`, `evaluate` and `stream` are the method's own functions: `help(run.predict)` shows
    their arguments.

    Attributes:
      work: the folder; of a run in a bucket, the folder of this machine that mirrors it.
      experiment: its configuration.
      method: the Method that it is a run of.
    """

    def __init__(
        self, work: pathlib.Path | str, which: str = "last", stage: str = "", mesh: jax.sharding.Mesh | None = None
    ):
        """Opens a work directory.

        Args:
          work: a folder or an address in a bucket.
          which: checkpoint, "last", a step, or a "protocol/metric" of config.train.best.
          stage: whose parameters; default the method's last one.
          mesh: devices to place the parameters of the last stage on, by the method's partition rules; all processes of
            the mesh then evaluate together. None gives numpy arrays.

        Raises:
          VtjaxError: it is missing, or its configuration is not readable.
        """
        if not as_path(work).is_dir():
            raise VtjaxError(f"{work}: no such work directory; `python -m vtjax.train` makes one")
        self.work = remote.local(work, processes.index_of())
        remote.fetch(self.work)
        self.experiment = methods.load_experiment(self.work / "config.json")
        self.method: Method = methods.get(self.experiment.name)
        self.which = which
        self._stage, self._mesh = stage, mesh

    @functools.cached_property
    def params(self) -> dict:
        """Nested dict of arrays."""
        shardings = None
        if self._mesh is not None:
            task = self.method.abstract(self.experiment)
            shapes = jax.eval_shape(task.init, jax.random.key(0), task.batch_spec())
            shardings = partition(shapes, task.rules, self._mesh).shardings
        return recipe.stage_params(self.work, self._stage or self.method.last_stage, self.which, shardings)

    @functools.cached_property
    def model(self) -> Any:
        """What the method's `open` gives: all that evaluation and prediction need besides parameters, opened once."""
        return self.method.open(self.experiment, self.work)

    @functools.cached_property
    def evaluate(self) -> Callable[..., list[Any]]:
        """The method's evaluation: a list of vtjax.evals.protocol.Result."""
        return arguments.bound(self.method.evaluate, self)

    @functools.cached_property
    def predict(self) -> Callable[..., Any]:
        """The method's prediction."""
        return arguments.bound(self.method.predict, self)

    @functools.cached_property
    def stream(self) -> Callable[..., Any]:
        """Live scores of a method that has them."""
        if self.method.stream is None:
            live = [name for name in methods.names() if methods.get(name).stream is not None]
            name = self.experiment.name
            raise VtjaxError(f"{self.work}: {name!r} scores nothing live; methods that do: {', '.join(live)}")
        return arguments.bound(self.method.stream, self)


def load(work: pathlib.Path | str, which: str = "last", stage: str = "") -> Run:
    """Opens a work directory; arguments as those of `Run`.

    Raises:
      VtjaxError: it is missing, or its configuration is not readable.
    """
    return Run(work, which, stage)


def run_experiment(
    experiment: config.Experiment,
    work: pathlib.Path | str,
    *,
    allow_config_change: bool = False,
    allow_data_change: bool = False,
    tensorboard: bool = False,
) -> Outcome:
    """Runs every stage of an experiment that is not finished yet.

    Args:
      experiment: what to train. work: its work directory; an unfinished run in it goes on.
      allow_config_change: go on with other settings than the directory was begun with.
      allow_data_change: go on from a checkpoint of other data.
      tensorboard: also write TensorBoard files.

    Returns:
      The outcome of the last stage, or of the one that was stopped.

    Raises:
      VtjaxError: anything wrong in the configuration, the data or the work directory.
    """
    place = as_path(work)
    methods.check(experiment)
    with lock.held(place):
        recipe.prepare_work(experiment, place, allow_config_change, methods.load_experiment)
        stages = methods.get(experiment.name).recipe(experiment, remote.local(place, processes.index_of()))
        return recipe.run_stages(
            stages, place, make_mesh(experiment.mesh), seed=experiment.seed, loader=experiment.loader,
            allow_config_change=allow_config_change, allow_data_change=allow_data_change, tensorboard=tensorboard,
        )  # fmt: skip


def fit(experiment: config.Experiment, work: pathlib.Path | str, **options: Any) -> Run:
    """Trains every stage of an experiment in `work` and opens the result; options as those of `run_experiment`.

    Raises:
      VtjaxError: as run_experiment, and where a signal stopped the run before its end; the same call goes on with it.
    """
    outcome = run_experiment(experiment, work, **options)
    if not outcome.finished:
        raise VtjaxError(f"{work}: stopped at step {outcome.step} by a signal; run the same again to go on from there")
    return Run(work)
