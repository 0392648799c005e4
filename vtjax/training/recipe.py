"""A recipe: a method's stages in order, each one call of the training loop, skipped when its result is there."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
from absl import logging

from vtjax import config as configuration
from vtjax import remote
from vtjax.config import Experiment, Loader
from vtjax.errors import VtjaxError
from vtjax.files import write_atomically
from vtjax.hosts import lock, processes
from vtjax.hosts.heartbeat import FOLDER
from vtjax.training.checkpoint import Checkpoints, load_params
from vtjax.training.loop import Outcome, run_task
from vtjax.training.step import Trainer
from vtjax.training.task import Task

# Settings that change how a run is carried out, not what it computes; a resumed run may change them.
FREE = ("loader.", "mesh.", "train.log_every", "train.eval_every", "train.checkpoint", "train.keep", "train.profile")


def prepare_work(
    experiment: Experiment,
    work: pathlib.Path,
    allow_change: bool,
    load: Callable[[pathlib.Path], Experiment],
) -> None:
    """Creates the work directory and its config.json, or checks that the one there is of the same experiment.

    A directory in which nothing was made, as where the data were not found, takes any experiment.

    Args:
      load: reads a configuration, with fields that its version did not have at their defaults.

    Raises:
      VtjaxError: the directory holds another experiment, or the processes have different ones; every differing field is
        named with its values. Or the directory is not one that all processes share.
    """
    path = work / "config.json"
    new = configuration.to_dict(experiment)
    processes.same("configuration", {**_fields(new), "--allow_config_change": allow_change})
    if path.exists() and not allow_change:
        old = _fields(_recorded(path, load))
        differing = [
            f"{name}: {old.get(name)!r} there, {value!r} now"
            for name, value in _fields(new).items()
            if old.get(name) != value and not any(part in f"{name}." for part in FREE)
        ]
        made = [e for e in work.iterdir() if not e.name.lstrip(".").startswith((path.name, lock.NAME, FOLDER))]
        begun = made or old.keys() != _fields(new).keys()
        if differing and begun:
            raise VtjaxError(
                f"{work} holds a run with other settings:\n  " + "\n  ".join(differing)
                + "\nChoose another --work_directory, or pass --allow_config_change to go on with the new settings."
            )  # fmt: skip
    processes.barrier("configuration read")
    if processes.index_of() == 0:
        work.mkdir(parents=True, exist_ok=True)
        configuration.save_experiment(experiment, path)
    processes.barrier("configuration written")
    visible = path.exists() and configuration.read_fields(path) == new
    unseen = "" if visible else f"does not see what process 0 has written to {path}"
    problem = processes.all_well("work directory", unseen)
    if problem:
        raise VtjaxError(f"{problem}; --work_directory must name one place that all hosts share")


def _recorded(path: pathlib.Path, load: Callable[[pathlib.Path], Experiment]) -> dict[str, Any]:
    """The configuration of a work directory; what its version of vtjax did not have yet is at its default."""
    try:
        return configuration.to_dict(load(path))
    except VtjaxError:  # one that this version no longer has
        return configuration.read_fields(path)


def _fields(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {k: v for name, sub in tree.items() for k, v in _fields(sub, f"{prefix}{name}.").items()}


def run_stages(
    stages: Mapping[str, Callable[[], Task]],
    work: pathlib.Path,
    mesh: jax.sharding.Mesh,
    *,
    seed: int,
    loader: Loader,
    allow_config_change: bool = False,
    allow_data_change: bool = False,
    tensorboard: bool = False,
) -> Outcome:
    """Builds and trains every stage that is not finished yet, in order.

    Returns:
      The outcome of the last one, or of the one that was stopped.

    Raises:
      VtjaxError: anything wrong in the data or the work directory.
    """
    local = remote.local(work, processes.index_of())
    outcome = None
    for name, build in stages.items():
        folder = work / name
        done = folder / "done.json"
        task = processes.one_after_another(f"stage {name}", build)
        if processes.index_of() == 0:
            remote.send(local)
        finished = processes.from_main("done", done.read_text() if done.exists() else "")
        if finished and json.loads(finished)["steps"] >= task.train.steps:
            if allow_config_change:  # the settings may be those of another model
                Checkpoints(folder / "checkpoints", None).check(Trainer(task, mesh, seed).abstract_state)
            logging.info("stage %s: finished before, skipped", name)
            outcome = Outcome(True, task.train.steps, {}, [])
            continue
        outcome = run_task(
            task, mesh, folder, seed=seed, loader=loader, allow_data_change=allow_data_change, tensorboard=tensorboard
        )
        if not outcome.finished:
            return outcome
        if processes.index_of() == 0:
            write_atomically(done, json.dumps({"steps": outcome.step}) + "\n")
    if outcome is None:
        raise VtjaxError("the recipe has no stage for this experiment")
    return outcome


def stage_params(
    work: pathlib.Path | str, stage: str, which: str = "last", shardings: dict | None = None
) -> dict:
    """Parameters of a finished or running stage: which is "last", a step number, or a "protocol/metric".

    As numpy, or on the devices of `shardings`, the whole tree of them.

    Raises:
      VtjaxError: no such checkpoint; what there is instead is named.
    """
    folder = remote.origin(work) / stage
    if which == "last":
        return load_params(folder / "checkpoints", None, shardings)
    if which.isdigit():
        return load_params(folder / "checkpoints", int(which), shardings)
    name = "best_" + "".join(c if c.isalnum() else "_" for c in which)
    if not (folder / name).is_dir():
        kept = sorted(p.name for p in folder.glob("best_*") if not p.name.endswith("_frozen"))
        known = f"kept: {kept or 'none'} (config.train.best)"
        raise VtjaxError(f"{folder}: no best checkpoint of {which!r} was kept; {known}")
    return load_params(folder / name, None, shardings)
