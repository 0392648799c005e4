"""A published checkpoint as the user names it."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vtjax.errors import VtjaxError
from vtjax.weights import torch_reader, torchscript
from vtjax.weights.files import TORCH_FILE, open_weights, read_json
from vtjax.weights.hub import local_folder
from vtjax.weights.tensors import Weights


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
        content = read_json(file) if file.is_file() else {}
        return content if isinstance(content, dict) else {}

    def sizes(self, read: Callable[[Mapping[str, Any], str], Any]) -> Any:
        """`read` of the settings and of the name of their file.

        Raises:
          VtjaxError: no config.json, or as `read`.
        """
        if not self.settings:
            raise VtjaxError(f"{self.folder}: no config.json, which says the sizes of the model")
        return read(self.settings, str(self.folder / "config.json"))

    @functools.cached_property
    def tensors(self) -> Weights:
        """Its tensors, one file or many shards.

        Raises:
          VtjaxError: no weights, several checkpoints, damaged files, or a pickle that asks for more than tensors.
        """
        return open_weights(self.path, self.inert)

    def shapes(self, names: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
        """Gives the shapes of tensors by other names. names: that name -> name of the tensor."""
        return {name: self.tensors.shape(full) for name, full in names.items()}

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
            if len(files) != 1 and not any(self.path.glob(TORCH_FILE + "*")):
                return ()
        return tuple(self.tensors)
