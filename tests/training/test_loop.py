"""The loop: its order, its records, and that a stopped run goes on as if it had not been stopped."""

import json
import os
import signal

import jax
import numpy as np
import pytest
import toy

from vtjax.config import Loader, Mesh
from vtjax.errors import VtjaxError
from vtjax.sharding.mesh import make_mesh
from vtjax.sharding.partition import flatten
from vtjax.training import loop
from vtjax.training.checkpoint import Checkpoints, load_params
from vtjax.training.pipeline import train_batches

TIMES = ("time", "examples_per_second", "data_wait")


def train(work, *, mesh=(1, 1, 1), **options):
    run = {k: options.pop(k) for k in ("allow_data_change", "tensorboard") if k in options}
    devices = jax.devices()[: int(np.prod(mesh))]
    return loop.run_task(toy.make_task(**options), make_mesh(Mesh(*mesh), devices), work, seed=5, loader=Loader(), **run)


def lines(work, split=None):
    found = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if split in (None, line["split"])]


def same(a, b):
    a, b = flatten(jax.device_get(a)), flatten(jax.device_get(b))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


class At:
    """An evaluation that counts its calls, and does something at one of them."""

    def __init__(self, call=0, action=None):
        self.call, self.action, self.calls = call, action, 0

    def __call__(self, params):
        self.calls += 1
        if self.calls == self.call:
            self.action()
        return toy.result(calls=float(np.sum(params["head"]["kernel"])))


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_evaluate_then_save_then_batch_then_step(tmp_path, monkeypatch):
    order = []

    def note(holder, name, label):
        original = getattr(holder, name)

        def noted(*args, **kwargs):
            order.append(label)
            return original(*args, **kwargs)

        monkeypatch.setattr(holder, name, noted)

    note(loop.Checkpoints, "save", "save")
    note(loop, "global_batch", "batch")
    note(loop.MetricsWriter, "write", "write")
    evaluation = At()
    outcome = train(tmp_path, steps=4, log_every=1, eval_every=2, checkpoint_every=2, evaluate=evaluation)
    step = ["batch", "write"]  # a step's metrics are read while the next one runs, or before something else happens
    assert order == ["batch", *step, "write", "write", "save", "batch", *step, "write", "write", "save"]
    assert [(line["step"], line["split"]) for line in lines(tmp_path)] == [
        (1, "train"), (2, "train"), (2, "eval"), (3, "train"), (4, "train"), (4, "eval"),
    ]  # fmt: skip
    assert outcome.finished and outcome.step == 4 and evaluation.calls == 2
    assert outcome.results[0].metrics["calls"] == pytest.approx(float(np.sum(outcome.params["head"]["kernel"])))
    assert lines(tmp_path, "eval")[1]["toy/calls"] == outcome.results[0].metrics["calls"]
    same(load_params(tmp_path / "checkpoints"), outcome.params)


def test_logged_means_are_sums_over_weights(tmp_path):
    train(tmp_path / "each", steps=7, log_every=1)
    train(tmp_path / "some", steps=7, log_every=3)
    task = toy.make_task()
    stream = train_batches(task.source, task.transform, toy.SPEC, seed=5, batch_size=8)
    weights = np.array([next(stream)["weight"].sum() for _ in range(7)])
    assert len(set(weights)) > 3
    each = lines(tmp_path / "each", "train")
    losses, norms = (np.array([line[k] for line in each]) for k in ("loss", "grad_norm"))
    some = lines(tmp_path / "some", "train")
    assert [line["step"] for line in some] == [3, 6, 7]
    for line, window in zip(some, (slice(0, 3), slice(3, 6), slice(6, 7)), strict=True):
        assert line["loss"] == pytest.approx(np.average(losses[window], weights=weights[window]), rel=1e-6)
        assert line["grad_norm"] == pytest.approx(np.mean(norms[window]), rel=1e-6)
        assert 0 <= line["data_wait"] <= 1 and line["examples_per_second"] > 0


def test_sigterm_saves_and_the_resumed_run_is_the_uninterrupted_one(tmp_path):
    options = {"steps": 9, "noise": 0.3, "log_every": 4, "eval_every": 1, "checkpoint_every": 100}
    whole = train(tmp_path / "whole", evaluate=At(), **options)
    for call in (3, 2):  # stopped inside a window of the log, twice
        stopped = train(tmp_path / "parts", evaluate=At(call, terminate), **options)
        assert not stopped.finished
    assert stopped.step == 5 and Checkpoints(tmp_path / "parts/checkpoints").steps() == [3, 5]
    torn = tmp_path / "parts" / "metrics.jsonl"
    torn.write_text(torn.read_text() + '{"step": 6, "split": "train", "lo')
    resumed = train(tmp_path / "parts", evaluate=At(), **options)
    assert resumed.finished
    same(resumed.params, whole.params)
    strip = lambda line: {k: v for k, v in line.items() if k not in TIMES}
    assert [strip(x) for x in lines(tmp_path / "parts")] == [strip(x) for x in lines(tmp_path / "whole")]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_finished_run_started_again_repeats_nothing(tmp_path):
    first = train(tmp_path, steps=4, evaluate=At())
    before = [(line["step"], line["split"]) for line in lines(tmp_path)]
    again = train(tmp_path, steps=4, evaluate=At())
    assert again.finished and again.results
    same(first.params, again.params)
    assert [(line["step"], line["split"]) for line in lines(tmp_path)] == before == [(2, "train"), (4, "train"), (4, "eval")]


def test_lines_beyond_the_restored_step_are_replaced(tmp_path):
    options = {"steps": 8, "log_every": 1, "eval_every": 2, "checkpoint_every": 3}

    def crash():
        raise RuntimeError("the machine is gone")

    with pytest.raises(RuntimeError, match="gone"):
        train(tmp_path, evaluate=At(4, crash), **options)
    assert lines(tmp_path, "train")[-1]["step"] == 8 and Checkpoints(tmp_path / "checkpoints").steps() == [3, 6]
    train(tmp_path, evaluate=At(), **options)
    for split, steps in (("train", range(1, 9)), ("eval", (2, 4, 6, 8))):
        assert [line["step"] for line in lines(tmp_path, split)] == list(steps)


def bad_example(step):
    """An example that the first epoch shows in the given step."""
    task = toy.make_task()
    stream = train_batches(task.source, task.transform, toy.SPEC, seed=5, batch_size=8)
    return [next(stream)["id"][0] for _ in range(step)][-1]


@pytest.mark.parametrize("evaluate", [None, At()])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, evaluate):
    options = {"source": toy.Numbers(24, nan=bad_example(3)), "checkpoint_every": 1, "eval_every": 1}
    for _ in range(2):  # once more: the run goes on from the last good step and stops at the same place
        with pytest.raises(VtjaxError) as error:
            train(tmp_path, evaluate=evaluate, **options)
        for words in ("not finite at step 3", "loss=nan", "grad_norm=nan", "param_norm=", "error=", "last checkpoint is step 2"):
            assert words in str(error.value)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [1, 2]
    assert all(np.isfinite(x).all() for x in flatten(load_params(tmp_path / "checkpoints")).values())
    assert all(line["step"] < 3 for line in lines(tmp_path))


class Scores(At):
    """The best of both metrics comes at different evaluations; crashes once where asked to."""

    def __init__(self, scores, start=0, crash=0):
        super().__init__()
        self.scores, self.calls, self.crash = scores, start, crash

    def __call__(self, params):
        self.calls += 1
        if self.calls == self.crash:
            raise RuntimeError("gone")
        a, b = self.scores[self.calls - 1]
        return toy.result(a=a, b=b)


def test_the_best_checkpoint_of_each_metric_is_kept(tmp_path):
    options = {"steps": 5, "eval_every": 1, "best": ("toy/a", "toy/b"), "keep": 1, "trainable": "head"}
    scores = [(1, 9), (3, 5), (3, 5), (0, 9), (1, 1)]
    outcome = train(tmp_path / "x", evaluate=Scores(scores), checkpoint_every=3, **options)
    for name, step in (("a", 2), ("b", 1)):
        folder = tmp_path / "x" / f"best_toy_{name}"
        assert Checkpoints(folder).steps() == [step]
        assert set(flatten(load_params(folder))) == set(flatten(outcome.params))
    # A run that dies after a best checkpoint and before the next regular one finds and keeps it.
    with pytest.raises(RuntimeError):
        train(tmp_path / "y", evaluate=Scores(scores, crash=4), checkpoint_every=100, **options)
    assert Checkpoints(tmp_path / "y/checkpoints").steps() == []
    train(tmp_path / "y", evaluate=Scores(scores), checkpoint_every=100, **options)
    for name in ("a", "b"):
        same(load_params(tmp_path / f"y/best_toy_{name}"), load_params(tmp_path / f"x/best_toy_{name}"))
    with pytest.raises(VtjaxError, match="config.train.best names 'toy/c', but the evaluation has toy/a, toy/b"):
        train(tmp_path / "z", evaluate=Scores(scores), **{**options, "best": ("toy/c",)})


def test_the_last_checkpoints_are_kept_and_time_makes_some_due(tmp_path, monkeypatch):
    saved = []
    original = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda self, state, meta: saved.append(int(state["step"])) or original(self, state, meta))
    train(tmp_path / "count", steps=7, checkpoint_every=2, keep=3)
    assert saved == [2, 4, 6, 7] and Checkpoints(tmp_path / "count/checkpoints").steps() == [4, 6, 7]
    saved.clear()
    train(tmp_path / "some", steps=11, checkpoint_every=2, keep=2, keep_every=3)
    assert saved == [2, 3, 4, 6, 8, 9, 10, 11] and Checkpoints(tmp_path / "some/checkpoints").steps() == [3, 6, 9, 10, 11]
    saved.clear()
    train(tmp_path / "time", steps=4, checkpoint_seconds=1e-9)
    assert saved == [1, 2, 3, 4]
    saved.clear()
    train(tmp_path / "never", steps=4, checkpoint_seconds=1e9)
    assert saved == [4]


def test_other_data_is_refused_unless_allowed(tmp_path):
    options = {"steps": 3, "checkpoint_every": 2, "evaluate": At(1, terminate), "eval_every": 2}
    train(tmp_path, **options)
    options |= {"evaluate": None, "fingerprint": "other"}
    with pytest.raises(VtjaxError) as error:
        train(tmp_path, **options)
    for words in ("trained on", "'fingerprint': 'toy'", "'fingerprint': 'other'", "--allow_data_change"):
        assert words in str(error.value)
    assert train(tmp_path, allow_data_change=True, **options).finished


def test_a_checkpoint_of_another_shape_is_named_leaf_by_leaf(tmp_path):
    train(tmp_path, steps=2)
    with pytest.raises(VtjaxError, match="checkpoints/2 does not fit this configuration") as error:
        train(tmp_path, steps=4, optim={"name": "sgd"})
    named = str(error.value).splitlines()[1:]
    assert "  missing in the checkpoint: opt_state/0/0/trace/body/kernel (4, 8)" in named
    assert "  unexpected in the checkpoint: opt_state/0/0/nu/head/bias ()" in named and len(named) == 12


def test_the_step_is_compiled_once_in_a_fresh_and_in_a_resumed_run(tmp_path):
    compiled, seen = [], []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **kwargs: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )

    class Counting:
        def __call__(self, params):
            seen.append(len(compiled))
            return toy.result(a=0.0)

    options = {"steps": 8, "eval_every": 1, "checkpoint_every": 1, "noise": 0.1, "mesh": (2, 2, 2)}
    train(tmp_path, evaluate=Counting(), **options)
    assert compiled and len(set(seen[1:])) == 1, seen  # the first save compiles a copy
    train(tmp_path / "again", evaluate=At(5, terminate), **options)
    seen.clear()
    outcome = train(tmp_path / "again", evaluate=Counting(), **options)
    assert outcome.finished and len(seen) == 3 and len(set(seen)) == 1, seen


def test_a_profile_and_tensorboard_files_when_asked_for(tmp_path):
    pytest.importorskip("tensorboardX")
    train(tmp_path, steps=4, profile_steps=(1, 2), tensorboard=True)
    assert list((tmp_path / "profile").rglob("*.pb")) and list((tmp_path / "tensorboard").iterdir())
