"""A published checkpoint as the user names it, and its tensors with the misfits that the user allows."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vtjax.weights import report, streaming, torch_reader, torchscript
from vtjax.weights.files import open_weights, read_json, weights_file
from vtjax.weights.hub import local_folder
from vtjax.weights.options import Allow


class Source:
    """A folder, a file or a hub id; nothing of it is read before it is asked for.

    inert: full names of further classes whose objects may stand in a torch file, and are read as nothing.

    Raises:
      VtjaxError: as `vtjax.weights.hub.local_folder`.
    """

    def __init__(self, name: str | os.PathLike[str], inert: Sequence[str] = ()):
        self.inert = (*torch_reader.SETTINGS, *inert)
        path = pathlib.Path(name).expanduser()
        self.name, self.path = str(name), path if path.is_file() else local_folder(name)

    @property
    def folder(self) -> pathlib.Path:
        """Where files beside the weights are."""
        return self.path.parent if self.path.is_file() else self.path

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """Content of config.json, {} where there is none or it is no table of settings."""
        file = self.folder / "config.json"
        found = read_json(file) if file.is_file() else {}
        return found if isinstance(found, dict) else {}

    @functools.cached_property
    def tensors(self) -> streaming.Weights:
        """Its tensors, one file or many shards.

        Raises:
          VtjaxError: no weights, several checkpoints, damaged files, or a pickle that asks for more than tensors.
        """
        if self.path.is_file():
            found = open_weights(self.path, self.inert)
        elif any(self.path.glob("*.safetensors")) or any(self.path.glob(streaming.TORCH_FILE + "*")):
            found = streaming.open_weights(self.path)
        else:
            found = open_weights(weights_file(self.path), self.inert)
        return found if hasattr(found, "shape") else streaming.ArrayWeights(found)

    @functools.cached_property
    def beside(self) -> tuple[str, ...]:
        """Entries of a torch file beside its weights, which are left out: optimizer, epoch, settings, ..."""
        if not self.path.is_file() or self.path.suffix == ".safetensors" or torchscript.is_torchscript(self.path):
            return ()
        return torch_reader.beside_state_dict(self.path, self.inert)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Names of its tensors; none where a folder has no single checkpoint. A damaged one is an error."""
        if self.path.is_dir() and not any(self.path.glob("*.safetensors")):
            files = [f for f in self.path.iterdir() if f.suffix in (".pt", ".pth", ".bin", ".ckpt")]
            if len(files) != 1 and not any(self.path.glob(streaming.TORCH_FILE + "*")):
                return ()
        return tuple(self.tensors)


class Tensors(Mapping[str, np.ndarray]):
    """Tensors under other names, some left out and some added; each is read when it is asked for."""

    def __init__(self, weights: streaming.Weights, names: Mapping[str, str] | None = None):
        self._weights = weights
        self._names = dict(names) if names is not None else {name: name for name in weights}
        self._added: dict[str, np.ndarray] = {}

    def __iter__(self) -> Iterator[str]:
        yield from self._names
        yield from self._added

    def __len__(self) -> int:
        return len(self._names) + len(self._added)

    def __contains__(self, name: object) -> bool:
        return name in self._names or name in self._added

    def __getitem__(self, name: str) -> np.ndarray:
        return self.read(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._added[name].shape if name in self._added else tuple(self._weights.shape(self._names[name]))

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        """A tensor, or a part of it."""
        if name in self._added:
            return self._added[name][index or ...]
        return self._weights.read(self._names[name], index)

    def published_dtype(self) -> str:
        """Type of the first tensor of floating point, "" where there is none; published files have one type."""
        for name, full in self._names.items():
            first = self._weights.read(full, tuple(slice(0, 1) for _ in self.shape(name)))
            if first.dtype.kind == "f" or first.dtype.name.startswith(("bfloat", "float")):
                return first.dtype.name
        return ""

    def reconcile(
        self, expected: Mapping[str, Sequence[str]], random: Callable[[], Mapping[str, np.ndarray]], allow: Allow
    ) -> Reconciled:
        """Takes out the unused tensors that `allow` names, and puts random ones in for missing ones that it names.

        expected: published name -> names of the parameters made from it. random: all tensors, from the model's own
          initial values; called only where something is missing.
        """
        left_out = [name for name in self._names if name not in expected and _matches(name, allow.unused)]
        for name in left_out:
            del self._names[name]

        def may_be_missing(name: str) -> bool:
            ours = expected[name]
            return _matches(name, allow.missing) or (bool(ours) and all(_matches(o, allow.missing) for o in ours))

        made = [name for name in expected if name not in self and may_be_missing(name)]
        if made:
            initial = random()
            self._added = {name: np.asarray(initial[name]) for name in made}
        names = {n for name in made for n in (name, *expected[name])}
        return Reconciled(tuple(left_out), tuple(made), frozenset(names))


@dataclasses.dataclass(frozen=True)
class Reconciled:
    """left_out, made: published names. made_names: those, and the parameters' own."""

    left_out: tuple[str, ...]
    made: tuple[str, ...]
    made_names: frozenset[str]

    def amend(self, found: report.MatchReport) -> report.MatchReport:
        """A converter's report with what it was not shown."""
        return dataclasses.replace(
            found,
            matched=tuple(n for n in found.matched if n not in self.made_names),
            missing=(*found.missing, *self.made),
            unused=(*found.unused, *self.left_out),
        )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)
