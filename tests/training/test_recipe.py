"""Stages in order, each skipped once it is finished, in a work directory of one experiment."""

import dataclasses
import json
import os
import pathlib
import signal
import types

import numpy as np
import pytest
import toy

from vtjax import methods, runs
from vtjax.config import Experiment, Mesh, Optim, Train, load_config_file
from vtjax.config import Stage as Stage_
from vtjax.errors import VtjaxError
from vtjax.methods.method import Method, Stage
from vtjax.sharding.partition import flatten
from vtjax.training import recipe


@dataclasses.dataclass
class ToySettings:
    width: int = 4
    source: str = "world"


@dataclasses.dataclass
class ToyStages:
    first: Stage_ = dataclasses.field(default_factory=Stage_)


@pytest.fixture
def built(monkeypatch):
    """A method of two stages, the second of which starts from the first; the names of those that were built."""
    names = []

    def stages(experiment, work):
        def build(name):
            names.append(name)
            task = toy.make_task(**dataclasses.asdict(experiment.train), optim=experiment.optim)
            if name == "first":
                task = dataclasses.replace(task, train=dataclasses.replace(task.train, steps=2))
                return dataclasses.replace(task, evaluate=stages.evaluate)
            return dataclasses.replace(task, start=lambda params: recipe.stage_params(work, "first"))

        return {name: (lambda name=name: build(name)) for name in ("first", "second")}

    stages.evaluate = None
    names_and_stages = types.SimpleNamespace(names=names, stages=stages)
    unused = lambda run: []

    def builder(name):
        return Stage(lambda experiment, work: stages(experiment, work)[name](), lambda experiment: None)

    method = Method(
        "toy", "two stages", ToySettings, {"first": builder("first"), "second": builder("second")}, unused, unused, unused,
        unused, unused, stages_config=ToyStages,
    )  # fmt: skip
    monkeypatch.setattr(methods, "get", lambda name: method)
    return names_and_stages


def experiment(**train):
    settings = Train(**{"steps": 3, "batch_size": 8, "eval_every": 1, "checkpoint_every": 1, **train})
    return Experiment("toy", ToySettings(), optim=Optim(learning_rate=0.1), train=settings, mesh=Mesh(data=8))


def test_stages_run_in_order_and_are_skipped_when_done(tmp_path, built):
    outcome = runs.run_experiment(experiment(), tmp_path)
    assert outcome.finished and outcome.step == 3 and built.names == ["first", "second"]
    assert [json.loads((tmp_path / s / "done.json").read_text())["steps"] for s in ("first", "second")] == [2, 3]
    again = runs.run_experiment(experiment(), tmp_path)
    assert again.finished and not again.params, "nothing was trained"
    # More steps of a finished run continue it.
    longer = runs.run_experiment(experiment(steps=4), tmp_path, allow_config_change=True)
    assert longer.step == 4 and longer.params
    first, second = (flatten(recipe.stage_params(tmp_path, s)) for s in ("first", "second"))
    assert first.keys() == second.keys() and not np.array_equal(first["head/kernel"], second["head/kernel"])


def test_a_stopped_stage_ends_the_recipe_and_the_next_call_goes_on(tmp_path, built):
    def stop(params):
        os.kill(os.getpid(), signal.SIGTERM)
        return toy.result(a=0.0)

    built.stages.evaluate = stop
    outcome = runs.run_experiment(experiment(), tmp_path)
    assert not outcome.finished and outcome.step == 1 and built.names == ["first"]
    assert not (tmp_path / "first" / "done.json").exists() and not (tmp_path / "second").exists()
    built.stages.evaluate = None
    assert runs.run_experiment(experiment(), tmp_path).finished


def test_other_settings_in_the_same_directory_are_named(tmp_path):
    old = experiment()
    recipe.prepare_work(old, tmp_path / "w", False, methods.load_experiment)
    (tmp_path / "w" / "first").mkdir()
    free = dataclasses.replace(experiment(log_every=7, keep=9, checkpoint_every=3, eval_every=2), mesh=Mesh(fsdp=2))
    recipe.prepare_work(free, tmp_path / "w", False, methods.load_experiment)
    other = dataclasses.replace(experiment(steps=9), seed=4, method=ToySettings(width=8))
    with pytest.raises(VtjaxError) as error:
        recipe.prepare_work(other, tmp_path / "w", False, methods.load_experiment)
    lines = str(error.value).splitlines()
    assert "  train.steps: 3 there, 9 now" in lines and "  seed: 0 there, 4 now" in lines
    assert "  method.width: 4 there, 8 now" in lines and len(lines) == 5 and "--allow_config_change" in lines[-1]
    recipe.prepare_work(other, tmp_path / "w", True, methods.load_experiment)
    assert json.loads((tmp_path / "w" / "config.json").read_text())["seed"] == 4


def test_a_field_that_an_older_version_did_not_have_is_at_its_default(tmp_path):
    old = load_config_file(str(pathlib.Path(__file__).parents[2] / "configs" / "car.py") + ":smoke")
    recipe.prepare_work(old, tmp_path, False, methods.load_experiment)
    (tmp_path / "train").mkdir()
    path = tmp_path / "config.json"
    written = json.loads(path.read_text())
    del written["method"]["model"]["remat"], written["train"]["keep_every"], written["method"]["loss"]["text_negatives"]
    path.write_text(json.dumps(written))
    recipe.prepare_work(old, tmp_path, False, methods.load_experiment)
    assert "remat" in json.loads(path.read_text())["method"]["model"]
    path.write_text(json.dumps(written))
    old.method.model.remat = "full"
    with pytest.raises(VtjaxError, match=r"other settings:\n  method.model.remat: '?\w+'? there, 'full' now\nChoose"):
        recipe.prepare_work(old, tmp_path, False, methods.load_experiment)


def test_a_directory_in_which_nothing_was_made_takes_other_settings(tmp_path):
    """As after a run whose data were not there."""
    for source in ("absent", "world"):
        method = ToySettings(source=source)
        recipe.prepare_work(Experiment(name="toy", method=method), tmp_path / "w", False, methods.load_experiment)
    assert json.loads((tmp_path / "w/config.json").read_text())["method"]["source"] == "world"


def test_a_broken_config_file_of_a_work_directory_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"name": "toy",')
    with pytest.raises(VtjaxError, match=r"config.json:1: not JSON"):
        recipe.prepare_work(experiment(), tmp_path, False, methods.load_experiment)


def test_checkpoints_by_name(tmp_path, built):
    built.stages.evaluate = lambda params: toy.result(a=1.0)
    with pytest.raises(VtjaxError, match="config.train.best names 'toy/b'"):
        runs.run_experiment(experiment(best=("toy/b",)), tmp_path / "x")
    built.stages.evaluate = None
    runs.run_experiment(experiment(keep=5), tmp_path / "y")
    params = [flatten(recipe.stage_params(tmp_path / "y", "second", str(step))) for step in (1, 2, 3)]
    last = flatten(recipe.stage_params(tmp_path / "y", "second", "last"))
    for name in last:
        np.testing.assert_array_equal(params[2][name], last[name])
    assert not np.array_equal(params[0]["head/kernel"], params[1]["head/kernel"])
    with pytest.raises(VtjaxError, match=r"no best checkpoint of 'toy/a' was kept; kept: none \(config.train.best\)"):
        recipe.stage_params(tmp_path / "y", "second", "toy/a")


def test_settings_that_cannot_work_are_refused_before_anything_is_written(tmp_path, built):
    with pytest.raises(VtjaxError, match="accumulate=3 does not divide batch_size=8"):
        runs.run_experiment(experiment(accumulate=3), tmp_path / "w")
    assert not (tmp_path / "w").exists() and not built.names
