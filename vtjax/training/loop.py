"""The one training loop. At each step, in this order: evaluate, checkpoint, next batch, step, log one step late."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from vtjax.config import Loader
from vtjax.errors import VtjaxError
from vtjax.files import is_remote
from vtjax.hosts import processes
from vtjax.remote import copy_tree
from vtjax.sharding.mesh import global_batch, host_rows
from vtjax.training.checkpoint import Checkpoints
from vtjax.training.logging import MetricsWriter, Progress
from vtjax.training.pipeline import train_batches
from vtjax.training.step import Trainer, memory_line, params_of
from vtjax.training.task import Task


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a stage ended. finished: False after SIGTERM. params: the last ones. results: of the last evaluation."""

    finished: bool
    step: int
    params: dict
    results: list[Any]


class StopSignal:
    """Says when SIGTERM or SIGINT asks to stop; a second SIGINT interrupts at once. A context of the main thread.

    Of several processes one may get the signal first, or alone: there JAX's preemption service, which takes SIGTERM
    itself, names the step at which all of them stop.
    """

    def __init__(self) -> None:
        self.received = ""

    def __enter__(self) -> StopSignal:
        self._previous = {}
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def at(self, step: int) -> bool:
        """Whether to stop at `step`; to be asked at every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return bool(self.received)

    def _handle(self, number: int, _frame: Any) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
        logging.warning("%s received: saving after this step, then exiting", self.received)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


class Averages:
    """Accumulates {name: (sum, weight)} over steps; the mean is sum of sums over sum of weights.

    sums: a checkpoint keeps them, so that a resumed run logs the same means.
    """

    def __init__(self, sums: dict[str, list[float]] | None = None) -> None:
        self.sums: dict[str, list[float]] = dict(sums or {})

    def add(self, metrics: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
        for name, (total, weight) in metrics.items():
            entry = self.sums.setdefault(name, [0.0, 0.0])
            entry[0] += float(total)
            entry[1] += float(weight)

    def take(self) -> dict[str, float]:
        means = {name: total / weight if weight else math.nan for name, (total, weight) in self.sums.items()}
        self.sums = {}
        return means


def run_task(
    task: Task,
    mesh: jax.sharding.Mesh,
    work: pathlib.Path,
    *,
    seed: int,
    loader: Loader = Loader(),
    allow_data_change: bool = False,
    tensorboard: bool = False,
) -> Outcome:
    """Trains `task` in `work`, resuming from its latest checkpoint where there is one.

    Raises:
      VtjaxError: a checkpoint that does not fit, other data than the checkpoint's, or a loss that is not finite
        (with the step, the parts of the loss and the norms).
    """
    is_main = processes.index_of() == 0
    train = task.train
    trainer = Trainer(task, mesh, seed)
    logging.info("%s: %s", task.name, trainer.partition.summary())
    data_key = {"fingerprint": task.fingerprint, "examples": len(task.source)}
    data_key |= {"seed": seed, "batch_size": train.batch_size}
    processes.same("data", data_key)
    checkpoints = Checkpoints(work / "checkpoints", train.keep, keep_every=train.keep_every)

    if checkpoints.steps():
        state, meta = checkpoints.restore(trainer.abstract_state)
        if meta["data"] != data_key and not allow_data_change:
            raise VtjaxError(
                f"{work}: the checkpoint was trained on {meta['data']}, this run has {data_key}; choose another "
                "--work_directory, or pass --allow_data_change to go on with other data"
            )
        start = int(state["step"])
        logging.info("%s: resumed at step %d", task.name, start)
    else:
        state, start, meta = trainer.init_state(), 0, {}

    processes.note(state="running", stage=task.name, step=start)
    began = time.perf_counter()
    compiled = trainer.lower().compile()
    logging.info("%s: train step compiled in %.1f s; %s", task.name, time.perf_counter() - began, memory_line(compiled))

    batches = train_batches(
        task.source, task.transform, task.example_spec, seed=seed, batch_size=train.batch_size, start_step=start,
        loader=loader, rows=host_rows(trainer.batch_sharding, train.batch_size),
    )  # fmt: skip
    writer = MetricsWriter(work / "metrics.jsonl", start, tensorboard) if is_main else None
    progress = Progress(task.name, start, train.steps, is_main)
    run = _Run(task, trainer, compiled, checkpoints, writer, progress, data_key, meta, work)
    try:
        with StopSignal() as stop:
            return run.steps(state, start, batches, stop)
    except BaseException as error:
        # A save under way is whole before the program ends; of several processes only where all end for one reason.
        if not processes.several() or (isinstance(error, VtjaxError) and not isinstance(error, processes.LostProcess)):
            with contextlib.suppress(VtjaxError):
                checkpoints.wait()
        raise
    finally:
        progress.close()
        if writer:
            writer.close()


class _Run:
    """The mutable part of one call of `run_task`."""

    def __init__(self, task, trainer, compiled, checkpoints, writer, progress, data_key, meta, work):
        self.task, self.trainer, self.compiled, self.checkpoints = task, trainer, compiled, checkpoints
        self.writer, self.progress, self.data_key, self.work = writer, progress, data_key, work
        self.best = dict(meta.get("best", {}))
        self.averages = Averages(meta.get("averages"))
        self.timed = 0  # steps since the last log line of this process
        self.results: list[Any] = []
        self.waited = 0.0

    def steps(self, state: dict, start: int, batches: Iterator[dict], stop: StopSignal) -> Outcome:
        train = self.task.train
        pending, profiling = None, False
        self.window = self.saved_at = time.perf_counter()
        for step in range(start, train.steps + 1):
            last = step == train.steps
            if (last or (train.eval_every and step % train.eval_every == 0 and step > start)) and self.task.evaluate:
                self._settle(pending)
                pending = None
                self._evaluate(state, step)
            processes.note(step=step)
            stopping = stop.at(step)
            if last or stopping or (step > start and self._checkpoint_due(step)):
                self._settle(pending)
                pending = None
                if self.writer:
                    self.writer.flush()  # a resumed run goes on from here, and has the lines before
                self.checkpoints.save(state, self._meta())
                self.saved_at = time.perf_counter()
            if last or stopping:
                self.checkpoints.close()
                if not last:
                    processes.stopped()
                return Outcome(last, step, params_of(state), self.results)
            if train.profile_steps and step == train.profile_steps[0]:
                profiling = True
                trace = self.work / "profile" if not is_remote(self.work) else tempfile.mkdtemp(prefix="vtjax-profile-")
                jax.profiler.start_trace(str(trace))
            before = time.perf_counter()
            batch = next(batches)
            self.waited += time.perf_counter() - before
            batch = global_batch(batch, self.trainer.batch_sharding)
            with jax.transfer_guard("disallow"):
                state, metrics = self.compiled(state, batch)
            self._settle(pending)
            pending = (step + 1, metrics)
            if profiling and step == train.profile_steps[-1]:
                jax.block_until_ready(metrics)
                jax.profiler.stop_trace()
                if is_remote(self.work):
                    copy_tree(pathlib.Path(trace), self.work / "profile")
            self.progress.step()
        raise AssertionError("unreachable")

    def _checkpoint_due(self, step: int) -> bool:
        train = self.task.train
        if any(every and step % every == 0 for every in (train.checkpoint_every, train.keep_every)):
            return True
        if not train.checkpoint_seconds:
            return False
        due = time.perf_counter() - self.saved_at > train.checkpoint_seconds
        return bool(multihost_utils.broadcast_one_to_all(np.asarray(due))) if jax.process_count() > 1 else due

    def _meta(self) -> dict[str, Any]:
        return {"data": self.data_key, "best": self.best, "averages": self.averages.sums}

    def _settle(self, pending: tuple[int, dict] | None) -> None:
        """Reads the metrics of a step already under way, checks them and logs at the interval."""
        if pending is None:
            return
        step, metrics = pending
        values = jax.device_get(metrics)
        total, _ = values["loss"]
        if not (np.isfinite(total) and np.isfinite(values["grad_norm"][0])):
            self.checkpoints.wait()
            parts = {n: float(s) / float(w) if w else math.nan for n, (s, w) in values.items()}
            raise VtjaxError(
                f"{self.task.name}: the loss or its gradient is not finite at step {step}: "
                + ", ".join(f"{n}={v:.4g}" for n, v in parts.items())
                + f". The last checkpoint is step {max(self.checkpoints.steps(), default=None)}. "
                "A lower optim.learning_rate, optim.clip_norm=1 or a look at the data would be the next thing to try."
            )
        self.averages.add(values)
        self.timed += 1
        train = self.task.train
        if step % train.log_every == 0 or step == train.steps:
            self._log(step)
        return None

    def _log(self, step: int) -> None:
        values = self.averages.take()
        now = time.perf_counter()
        seconds = max(now - self.window, 1e-9)
        values["examples_per_second"] = self.timed * self.task.train.batch_size / seconds
        values["data_wait"] = min(self.waited / seconds, 1.0)
        rate = round(values["examples_per_second"], 1)
        processes.note(data_wait=round(values["data_wait"], 3), examples_per_second=rate)
        self.window, self.waited, self.timed = now, 0.0, 0
        if self.writer:
            self.writer.write(step, "train", values)
        self.progress.show(
            {
                "loss": f"{values['loss']:.4f}",
                "ex/s": f"{values['examples_per_second']:.0f}",
                "data": f"{100 * values['data_wait']:.0f}%",
            }
        )

    def _evaluate(self, state: dict, step: int) -> None:
        before = time.perf_counter()
        self.results = self.task.evaluate(params_of(state))
        flat = {f"{r.protocol}/{name}": value for r in self.results for name, value in r.metrics.items()}
        if self.writer:
            self.writer.write(step, "eval", flat)
        for name in self.task.train.best:
            if name not in flat:
                raise VtjaxError(f"config.train.best names {name!r}, but the evaluation has {', '.join(sorted(flat))}")
            better = flat[name] > self.best.get(name, {"value": -math.inf})["value"]
            if processes.from_main("best", "better" if better else ""):  # a tie may round differently elsewhere
                self.best[name] = {"value": flat[name], "step": step}
                self._save_best(state, name)
        spent = time.perf_counter() - before
        self.window += spent
        logging.info("%s: evaluated at step %d in %.1f s", self.task.name, step, spent)

    def _save_best(self, state: dict, name: str) -> None:
        folder = self.work / ("best_" + "".join(c if c.isalnum() else "_" for c in name))
        # After a kill the same step may be there already: the resumed run reaches the same parameters.
        store = Checkpoints(folder, keep=1, background=False)
        store.save(state, self._meta())
        store.close()
