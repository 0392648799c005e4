"""Checkpoints: Orbax behind a strict tree check that names every leaf which does not fit."""

from __future__ import annotations

import copy
import json
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging

from vtjax.errors import VtjaxError
from vtjax.parallel.partition import flatten, merge

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


@jax.jit
def _copy(tree: dict) -> dict:
    return jax.tree.map(jnp.copy, tree)


class Checkpoints:
    """The checkpoints of one stage: `<directory>/<step>/{state,meta}`, and `<directory>/frozen` once.

    A checkpoint is written to a temporary name and renamed when whole, so a killed save is never restored.
    """

    def __init__(self, directory: pathlib.Path | str, keep: int | None = 2, background: bool = True):
        self.directory = pathlib.Path(directory).absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=background, create=True, cleanup_tmp_directories=True
        )
        handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)
        self._damaged: set[int] = set()  # steps that `restore` could not read
        self._writing = -1  # step of the last save that was begun
        self._frozen = self.directory.parent / f"{self.directory.name}_frozen"

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
        if frozen and not self._frozen.exists():
            with ocp.StandardCheckpointer() as writer:
                writer.save(self._frozen, frozen)

    def _failure(self, step: int, error: BaseException) -> VtjaxError:
        steps = [s for s in self._complete() if s != step]
        last = f"the last complete one is step {steps[-1]}" if steps else "there is no complete one yet"
        free = shutil.disk_usage(self.directory).free / 2**20
        return VtjaxError(
            f"{self.directory}: the checkpoint of step {step} could not be written ({_cause(error)}); {last}; "
            f"{free:.0f} MiB are free on that disk. Free some space or choose another --work_directory, then run again."
        )

    def _complete(self) -> list[int]:
        return sorted(int(p.name) for p in self.directory.iterdir() if p.name.isdigit())

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
        target = _pack(abstract)
        for candidate in [step] if step is not None else reversed(steps):
            where = self.directory / str(candidate)
            try:
                stored = flatten(self._manager.item_metadata(candidate)["state"].tree)
            except Exception as error:
                if step is not None:
                    raise VtjaxError(f"{where}: cannot be read ({_cause(error)})") from error
                self._set_aside(candidate, error)
                continue
            differences = compare(stored, flatten(target))
            if differences:
                raise VtjaxError(f"{where} does not fit this configuration:\n  " + "\n  ".join(differences))
            try:
                items = ocp.args.Composite(state=ocp.args.StandardRestore(target), meta=ocp.args.JsonRestore())
                restored = self._manager.restore(candidate, args=items)
            except Exception as error:
                if step is not None:
                    raise VtjaxError(f"{where}: cannot be read ({_cause(error)})") from error
                self._set_aside(candidate, error)
                continue
            state = dict(restored["state"])
            rng = jax.random.wrap_key_data(state["rng"])
            state["rng"] = jax.device_put(rng, abstract["rng"].sharding)
            state["frozen"] = self._restore_frozen(abstract["frozen"])
            state.setdefault("opt_state", abstract["opt_state"])
            return state, restored["meta"]
        raise VtjaxError(f"{self.directory}: none of the checkpoints {steps} can be read")

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

    def _set_aside(self, step: int, error: BaseException) -> None:
        self._damaged.add(step)
        where = self.directory / str(step)
        logging.warning("%s cannot be read (%s): trying the one before it", where, _cause(error))

    def _restore_frozen(self, abstract: dict) -> dict:
        if not abstract:
            return {}
        with ocp.StandardCheckpointer() as reader:
            try:
                stored = flatten(reader.metadata(self._frozen).item_metadata.tree)
                differences = compare(stored, flatten(abstract))
                if not differences:
                    return reader.restore(self._frozen, abstract)
            except Exception as error:
                raise VtjaxError(f"{self._frozen}: the frozen parameters cannot be read ({_cause(error)})") from error
        raise VtjaxError(f"{self._frozen} does not fit this configuration:\n  " + "\n  ".join(differences))

    def close(self) -> None:
        """Waits for background saves and frees the manager."""
        self.wait()
        self._manager.close()


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).splitlines() or [""]
    text = lines[0] if len(lines[0]) < 300 else f"{lines[0][:80]} ... {lines[0][-200:]}"  # the reason comes last
    return f"{type(error).__name__}: {text}"


def load_params(directory: pathlib.Path | str, step: int | None = None) -> dict:
    """The parameters alone of a stage's checkpoint directory, as numpy, trainable and frozen merged.

    Raises:
      VtjaxError: no readable checkpoint there.
    """
    directory = pathlib.Path(directory).absolute()
    steps = sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit()) if directory.is_dir() else []
    if not steps or (step is not None and step not in steps):
        wanted = "complete checkpoint" if step is None else f"checkpoint of step {step}"
        raise VtjaxError(f"{directory}: no {wanted}; there are {steps}")
    frozen_path = directory.parent / f"{directory.name}_frozen"
    for candidate in [step] if step is not None else reversed(steps):
        try:
            with ocp.PyTreeCheckpointer() as reader:
                path = directory / str(candidate) / "state"
                tree = reader.metadata(path).item_metadata.tree
                restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=_numpy()), tree)
                state = reader.restore(path, restore_args=restore_args)
                frozen = {}
                if frozen_path.exists():
                    tree = reader.metadata(frozen_path).item_metadata.tree
                    restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=_numpy()), tree)
                    frozen = reader.restore(frozen_path, restore_args=restore_args)
            return merge(state["trainable"], frozen)
        except Exception as error:
            if step is not None:
                raise VtjaxError(f"{directory / str(candidate)}: cannot be read ({_cause(error)})") from error
            where = directory / str(candidate)
            logging.warning("%s cannot be read (%s): trying the one before it", where, _cause(error))
    raise VtjaxError(f"{directory}: none of the checkpoints {steps} can be read")


def _numpy() -> type:
    import numpy as np

    return np.ndarray
