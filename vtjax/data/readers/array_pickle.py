"""Pickles of numpy arrays that detection code shares, read without pickle (ovoad.md 8.5).

  LSTR, TeSTra: predictions {cfg, perframe_pred_scores {video: [L, C]}, perframe_gt_targets {video: [L, C]}}
  OadTR: thumos_{val,test}_anno.pickle {video: {anno: float64 [L, 22], feature_length}}; features {video: {rgb, flow}}
  OV-OAD: epic_annos_val.pickle {video: {verb_perframe, noun_perframe, action_perframe}}

The machine of vtjax.weights.pickle_machine goes through the file; of all names that it may ask for, only those that
rebuild an array are known.
"""

from __future__ import annotations

import os
import pathlib
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vtjax.data.readers.coverage import Coverage
from vtjax.errors import VtjaxError
from vtjax.evals.frame_targets import FrameTargets
from vtjax.files import write_atomically
from vtjax.weights.pickle_machine import Global, Inert, Machine

_ARRAY = {f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")}
_SCALAR = {f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")}
_FROM_BUFFER = {f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")}
_BYTES = {"__builtin__.bytes", "builtins.bytes", "builtins.bytearray"}
_NAMES = _ARRAY | _SCALAR | _FROM_BUFFER | _BYTES
_NAMES |= {"numpy.ndarray", "numpy.dtype", "_codecs.encode", "collections.OrderedDict"}
_CONFIGS = ("yacs.config.CfgNode", "rekognition_online_action_detection.config.defaults.CfgNode")


class _Empty:
    """An array or a type before its state arrives."""

    def __init__(self, kind: str, argument: Any = None):
        self.kind, self.argument, self.value = kind, argument, None


class _ArrayMachine(Machine):
    """Adds what rebuilds arrays, and takes away what rebuilds tensors."""

    def push_global(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in _NAMES and full not in self.inert:
            raise VtjaxError(f"{self.where}: refused, it asks for {full!r}, which is no part of an array; not run")
        self.stack.append(Global(full))

    def value(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name in self.inert:
            return Inert(name)
        if name == "collections.OrderedDict":
            return dict(arguments[0]) if arguments else {}
        if name == "_codecs.encode":  # how the second protocol writes bytes
            return arguments[0].encode(arguments[1] if len(arguments) > 1 else "latin1")
        if name in _BYTES:
            return _bytes(arguments[0]) if arguments else b""
        if name == "numpy.dtype":
            return _Empty("dtype", np.dtype(_plain(arguments[0])))
        if name in _ARRAY:
            return _Empty("array")
        if name in _SCALAR:
            kind, raw = arguments
            return np.frombuffer(_bytes(raw), _finished(kind), 1)[0]
        if name in _FROM_BUFFER:
            raw, kind, shape, order = arguments
            return np.frombuffer(_bytes(raw), _finished(kind)).reshape(shape, order=order)
        raise VtjaxError(f"{self.where}: refused, the file calls {name!r}, which does not rebuild an array")

    def build(self, _: Any) -> None:
        target, state = self.pop(2)
        if isinstance(target, _Empty) and target.kind == "dtype":
            target.value = target.argument.newbyteorder(state[1]) if state[1] in "<>" else target.argument
        elif isinstance(target, _Empty):
            _version, shape, kind, fortran, raw = state
            kind = _finished(kind)
            if isinstance(raw, list) or kind.hasobject:
                raise VtjaxError(f"{self.where}: an array of objects; arrays of numbers are read")
            table = np.frombuffer(_bytes(raw), kind).reshape(shape, order="F" if fortran else "C")
            target.value = table
        elif not isinstance(target, (dict, Inert)):
            raise TypeError(f"state for a {type(target).__name__}")
        self.stack.append(target)


def _plain(code: Any) -> str:
    if not isinstance(code, str) or np.dtype(code).kind not in "biufSU":
        raise TypeError(f"an array of type {code!r}")
    return code


def _bytes(raw: Any) -> bytes:
    if not isinstance(raw, (str, bytes, bytearray)):
        raise TypeError(f"bytes that are a {type(raw).__name__}")
    return raw.encode("latin1") if isinstance(raw, str) else bytes(raw)


def _finished(kind: Any) -> np.dtype:
    if isinstance(kind, _Empty) and kind.kind == "dtype":
        return kind.argument if kind.value is None else kind.value
    raise TypeError(f"a type that is a {type(kind).__name__}")


def _settle(tree: Any) -> Any:
    if isinstance(tree, _Empty):
        return _finished(tree) if tree.kind == "dtype" else tree.value
    if isinstance(tree, dict):
        return {key: _settle(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_settle(value) for value in tree)
    return tree


def read_arrays(path: str | os.PathLike, inert: Sequence[str] = _CONFIGS) -> Any:
    """What the file holds: containers, numbers, strings and read-only arrays of numbers.

    inert: full names of classes whose objects are passed over, such as LSTR's configuration.
    Raises VtjaxError: no such file, damaged, or asking for anything else, which is named and not run.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise VtjaxError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            return _settle(_ArrayMachine(str(path), inert).run(file))
    except VtjaxError:
        raise
    except (EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, LookupError) as error:
        what = f"{type(error).__name__}: {error}"
        raise VtjaxError(f"{path}: truncated, damaged, or not a pickle of arrays ({what})") from error


def read_predictions(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(scores [L, C] by video, targets [L, C] by video) of a prediction file of LSTR, TeSTra or `write_predictions`."""
    tree = read_arrays(path)
    try:
        scores, targets = tree["perframe_pred_scores"], tree["perframe_gt_targets"]
        return {k: np.asarray(v) for k, v in scores.items()}, {k: np.asarray(v) for k, v in targets.items()}
    except (KeyError, TypeError, AttributeError):
        raise VtjaxError(f"{path}: perframe_pred_scores and perframe_gt_targets, {{video: [L, C]}}, expected") from None


def write_predictions(
    path: str | os.PathLike, scores: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray]
) -> pathlib.Path:
    """The file that LSTR's tools read, without a configuration: scores and targets [L, C] by video. Atomic."""
    tree = {
        "cfg": None,
        "perframe_pred_scores": {k: np.asarray(v, np.float32) for k, v in scores.items()},
        "perframe_gt_targets": {k: np.asarray(v, np.float32) for k, v in targets.items()},
    }
    return write_atomically(path, pickle.dumps(tree, protocol=4))


def read_oadtr(
    path: str | os.PathLike, classes: Sequence[str], ambiguous: int | None = None
) -> tuple[dict[str, FrameTargets], Coverage]:
    """Targets of OadTR's annotation pickle {video: {anno [L, C], feature_length}}; it has no rate of the rows."""
    tree, coverage, found = read_arrays(path), Coverage(pathlib.Path(path).stem, "videos", "rows"), {}
    if not isinstance(tree, dict):
        raise VtjaxError(f"{path}: {{video: {{anno, feature_length}}}} expected, found a {type(tree).__name__}")
    for video, entry in tree.items():
        table = np.asarray(entry.get("anno")) if isinstance(entry, dict) else np.zeros(0)
        if table.ndim != 2 or table.shape[1] != len(classes) or not np.isin(table, (0, 1)).all():
            coverage.problems.add(f"{path}: {video}", f"no 'anno' of zeros and ones [L, {len(classes)}]")
            continue
        length = entry.get("feature_length", len(table))
        if length != len(table):
            coverage.notes.add(f"{path}: {video}: {len(table)} and {length}", "rows and feature_length differ")
        found[str(video)] = FrameTargets(table.astype(np.uint8), tuple(classes), None, ambiguous)
        coverage.rows += len(table)
        coverage.rows_used += len(table)
    coverage.listed, coverage.annotated, coverage.used = len(tree), len(found), len(found)
    return found, coverage
