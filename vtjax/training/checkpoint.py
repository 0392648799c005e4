"""Checkpoints: Orbax behind a strict tree check that names every leaf which does not fit."""

from __future__ import annotations

import copy
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from vtjax.errors import VtjaxError
from vtjax.files import as_path, is_remote
from vtjax.hosts import processes
from vtjax.sharding.partition import flatten, merge, path_name

FORMAT = 1


def compare(stored: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Differences between two {path: leaf with shape and dtype}: missing, unexpected, mis-shaped; [] when equal."""
    lines = [f"missing in the checkpoint: {n} {tuple(wanted[n].shape)}" for n in sorted(set(wanted) - set(stored))]
    lines += [f"unexpected in the checkpoint: {n} {tuple(stored[n].shape)}" for n in sorted(set(stored) - set(wanted))]
    for name in sorted(set(stored) & set(wanted)):
        a, b = stored[name], wanted[name]
        if tuple(a.shape) != tuple(b.shape):
            lines.append(f"other shape: {name} is {tuple(a.shape)} in the checkpoint, {tuple(b.shape)} in the model")
        elif jnp.dtype(a.dtype) != jnp.dtype(b.dtype):
            lines.append(f"other dtype: {name} is {a.dtype} in the checkpoint, {b.dtype} in the model")
    return lines


def _pack(state: dict) -> dict:
    """A train state as Orbax stores it: raw key data, no empty subtree; frozen parameters are stored once, apart."""
    packed = {k: v for k, v in state.items() if k != "frozen" and not (isinstance(v, dict) and not v)}
    rng = packed["rng"]
    if isinstance(rng, jax.ShapeDtypeStruct):
        data = jax.eval_shape(jax.random.key_data, rng)
        packed["rng"] = jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=rng.sharding)
    else:
        packed["rng"] = jax.random.key_data(rng)
    return packed


_MISFIT = "\0"  # ends a problem that an earlier checkpoint would have, too


def _absolute(directory: pathlib.Path | str) -> Any:
    return as_path(directory) if is_remote(directory) else pathlib.Path(directory).absolute()


def _together(name: str) -> ocp.options.MultiprocessingOptions:
    """All processes, by barriers with a time limit; `name` keeps those of two folders apart."""
    if not processes.several():
        return ocp.options.MultiprocessingOptions()
    return ocp.options.MultiprocessingOptions(
        active_processes=set(range(processes.count_of())), barrier_sync_key_prefix=name
    )


@jax.jit
def _copy(tree: dict) -> dict:
    return jax.tree.map(jnp.copy, tree)


class Checkpoints:
    """The checkpoints of one stage: `<directory>/<step>/{state,meta}`, and `<directory>/frozen` once.

    A checkpoint is written to a temporary name and renamed when whole, so a killed save is never restored. Of several
    processes each writes its own parts, and all call each method together; none waits for another without a limit.
    keep: latest ones kept, None is all. keep_every: those of steps that it divides are never removed; 0 is none.
    """

    def __init__(
        self, directory: pathlib.Path | str, keep: int | None = 2, background: bool = True, keep_every: int = 0
    ):
        self.directory = _absolute(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, keep_period=keep_every or None, enable_async_checkpointing=background, create=False,
            cleanup_tmp_directories=True, multiprocessing_options=_together(self.directory.name),
            async_options=ocp.AsyncOptions(timeout_secs=int(processes.save_seconds())),
        )  # fmt: skip
        handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)
        self._damaged: set[int] = set()  # steps that `restore` could not read
        self._writing = -1  # step of the last save that was begun
        self._frozen = self.directory.parent / f"{self.directory.name}_frozen"
        views = processes.gather(f"{self.directory.name} steps", json.dumps(self.steps()))
        if len(set(views)) > 1:
            shown = "; ".join(f"process {i} sees {steps}" for i, steps in enumerate(views))
            raise VtjaxError(f"{self.directory}: the processes do not see the same checkpoints, so that it is not one "
                             f"folder that all of them share: {shown}")  # fmt: skip

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, state: dict, meta: dict[str, Any]) -> None:
        """Saves `state` under its step; returns once the arrays are copied, and writes in the background.

        A complete checkpoint of that step stays as it is. Later steps, and damaged ones, are those of a run that went
        back: they are removed.

        Raises:
          VtjaxError: this or an earlier background save failed (full disk, lost permission).
        """
        step = int(state["step"])
        steps = set(self._manager.all_steps())
        if step in steps - self._damaged:
            return
        self.wait()
        processes.barrier("save")  # names those that do not come
        packed, meta = _pack(state), copy.deepcopy(meta)  # the caller's may change before it is written
        if next(iter(state["step"].devices())).platform == "cpu":
            packed = _copy(packed)  # on CPU the writer would read buffers that the next step reuses
        try:
            for stale in sorted(s for s in steps if s >= step):  # Orbax would skip a save at or before the latest step
                self._manager.delete(stale)
            self._save_frozen(state["frozen"])
            items = ocp.args.Composite(
                state=ocp.args.StandardSave(packed), meta=ocp.args.JsonSave({**meta, "format": FORMAT})
            )
            self._writing = step
            self._manager.save(step, args=items)
        except Exception as error:
            raise self._failure(step, error) from error

    def _save_frozen(self, frozen: dict) -> None:
        if frozen and processes.from_main("frozen", "" if self._frozen.exists() else "absent"):
            options = _together(self._frozen.name)
            with ocp.StandardCheckpointer(multiprocessing_options=options) as writer:
                writer.save(self._frozen, frozen)

    def _failure(self, step: int, error: BaseException) -> VtjaxError:
        if processes.several():  # one that cannot write keeps the others waiting, and waits for them itself
            local = next((e for e in _chain(error) if not (processes.broke(e) or isinstance(e, TimeoutError))), None)
            if local is None:
                return processes.lost_to(error, f"saving step {step}")
            error = local
        steps = [s for s in self._complete() if s != step]
        last = f"the last complete one is step {steps[-1]}" if steps else "there is no complete one yet"
        what = f"{self.directory}: the checkpoint of step {step} could not be written ({_cause(error)}); {last}"
        if is_remote(self.directory):
            return VtjaxError(f"{what}. Look at the bucket's permissions, then run again.")
        free = shutil.disk_usage(self.directory).free / 2**20
        advice = "Free some space or choose another --work_directory, then run again."
        return VtjaxError(f"{what}; {free:.0f} MiB are free on that disk. {advice}")

    def _complete(self) -> list[int]:
        return complete_steps(self.directory)

    def wait(self) -> None:
        """Blocks until background saves are on disk.

        Raises:
          VtjaxError: one of them failed.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._failure(self._writing, error) from error

    def meta(self, step: int) -> dict[str, Any]:
        """The JSON saved with a checkpoint."""
        return json.loads((self.directory / str(step) / "meta" / "metadata").read_text())

    def restore(self, abstract: dict, step: int | None = None) -> tuple[dict, dict[str, Any]]:
        """(state, meta) of `step` or the latest readable checkpoint, on the shardings of `abstract`.

        A damaged latest checkpoint is reported and the one before it is used.

        Raises:
          VtjaxError: nothing to restore, every checkpoint is damaged, or the trees differ (each leaf is named).
        """
        steps = self.steps()
        if step is not None and step not in steps:
            raise VtjaxError(f"{self.directory}: no checkpoint of step {step}; there are {steps}")
        if not steps:
            raise VtjaxError(f"{self.directory}: there is no complete checkpoint")
        for candidate in [step] if step is not None else reversed(steps):
            where = self.directory / str(candidate)
            read, problem = self._read(candidate, abstract)
            # One process may be unable to read its part: all of them fall back then, or none.
            problem = processes.all_well("restore", problem)
            if problem.endswith(_MISFIT):
                raise VtjaxError(problem.removesuffix(_MISFIT))
            if problem and step is not None:
                raise VtjaxError(f"{where}: cannot be read ({problem})")
            if not problem:
                return read
            self._damaged.add(candidate)
            logging.warning("%s cannot be read (%s): trying the one before it", where, problem)
        raise VtjaxError(f"{self.directory}: none of the checkpoints {steps} can be read")

    def _read(self, step: int, abstract: dict) -> tuple[tuple[dict, dict] | None, str]:
        """((state, meta), "") as this process reads it, or (None, what is wrong); waits for no other process."""
        where, target = self.directory / str(step), _pack(abstract)
        handler = ocp.StandardCheckpointHandler()
        try:
            differences = compare(flatten(handler.metadata(where / "state").tree), flatten(target))
            if differences:
                return None, f"{where} does not fit this configuration:\n  " + "\n  ".join(differences) + _MISFIT
            meta = self.meta(step)
            state = dict(handler.restore(where / "state", args=ocp.args.StandardRestore(target)))
        except Exception as error:
            return None, _cause(error)
        try:
            state["frozen"] = self._restore_frozen(abstract["frozen"])
        except VtjaxError as error:
            return None, str(error) + _MISFIT
        state["rng"] = jax.device_put(jax.random.wrap_key_data(state["rng"]), abstract["rng"].sharding)
        state.setdefault("opt_state", abstract["opt_state"])
        return (state, meta), ""

    def check(self, abstract: dict) -> None:
        """Compares the latest checkpoint's tree with `abstract`, without reading arrays.

        Raises:
          VtjaxError: there is none, it cannot be read, or the trees differ (each leaf is named).
        """
        steps = self.steps()
        if not steps:
            raise VtjaxError(f"{self.directory}: there is no complete checkpoint")
        where = self.directory / str(steps[-1])
        try:
            stored = flatten(self._manager.item_metadata(steps[-1])["state"].tree)
        except Exception as error:
            raise VtjaxError(f"{where}: cannot be read ({_cause(error)})") from error
        differences = compare(stored, flatten(_pack(abstract)))
        if differences:
            raise VtjaxError(f"{where} does not fit this configuration:\n  " + "\n  ".join(differences))

    def _restore_frozen(self, abstract: dict) -> dict:
        if not abstract:
            return {}
        handler = ocp.StandardCheckpointHandler()
        try:
            differences = compare(flatten(handler.metadata(self._frozen).tree), flatten(abstract))
            if not differences:
                return handler.restore(self._frozen, args=ocp.args.StandardRestore(abstract))
        except Exception as error:
            raise VtjaxError(f"{self._frozen}: the frozen parameters cannot be read ({_cause(error)})") from error
        raise VtjaxError(f"{self._frozen} does not fit this configuration:\n  " + "\n  ".join(differences))

    def close(self) -> None:
        """Waits for background saves and frees the manager."""
        self.wait()
        self._manager.close()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that it came of or after, the latest first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).splitlines() or [""]
    text = lines[0] if len(lines[0]) < 300 else f"{lines[0][:80]} ... {lines[0][-200:]}"  # the reason comes last
    return f"{type(error).__name__}: {text}"


def complete_steps(directory: pathlib.Path | str) -> list[int]:
    """Steps of the checkpoints in a folder that are whole, ascending; [] where there is no such folder."""
    place = as_path(directory)
    if not place.is_dir():
        return []
    folders = [p for p in place.iterdir() if p.name.isdigit()]
    if is_remote(place):  # nothing is renamed in a bucket: a file written last says that a checkpoint is whole
        folders = [p for p in folders if (p / "commit_success.txt").exists()]
    return sorted(int(p.name) for p in folders)


def load_params(directory: pathlib.Path | str, step: int | None = None, shardings: dict | None = None) -> dict:
    """The parameters alone of a stage's checkpoint directory, trainable and frozen merged; waits for no other process.

    shardings: the whole tree of them, to place each array as it is read; default numpy arrays.

    Raises:
      VtjaxError: no readable checkpoint there, or one of other parameters than `shardings` has.
    """
    place = _absolute(directory)
    steps = complete_steps(place)
    if not steps or (step is not None and step not in steps):
        wanted = "complete checkpoint" if step is None else f"checkpoint of step {step}"
        raise VtjaxError(f"{place}: no {wanted}; there are {steps}")
    frozen = place.parent / f"{place.name}_frozen"
    for candidate in [step] if step is not None else reversed(steps):
        where = place / str(candidate)
        try:
            params = _read_arrays(where / "state", ("trainable",), shardings)["trainable"]
            return merge(params, _read_arrays(frozen, (), shardings)) if frozen.exists() else params
        except Exception as error:
            if step is not None or isinstance(error, VtjaxError):
                raise VtjaxError(f"{where}: cannot be read ({_cause(error)})") from error
            logging.warning("%s cannot be read (%s): trying the one before it", where, _cause(error))
    raise VtjaxError(f"{place}: none of the checkpoints {steps} can be read")


def _read_arrays(folder: Any, only: tuple[str, ...], shardings: dict | None) -> dict:
    """The arrays of one Orbax folder; of its top-level keys those in `only`, where it names some."""
    handler = ocp.PyTreeCheckpointHandler()
    tree = handler.metadata(folder).tree
    tree = {name: tree[name] for name in only} if only else tree
    placed = {} if shardings is None else flatten(shardings)

    def argument(path: tuple, _: Any) -> ocp.RestoreArgs:
        name = path_name(path).removeprefix(f"{only[0]}/" if only else "")
        if shardings is None:
            return ocp.RestoreArgs(restore_type=np.ndarray)
        if name not in placed:
            raise VtjaxError(f"it has {name}, which this model does not have")
        return ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=placed[name])

    arguments = jax.tree_util.tree_map_with_path(argument, tree)
    restore = ocp.args.PyTreeRestore(item=tree, restore_args=arguments, partial_restore=bool(only))
    return handler.restore(folder, args=restore)
