"""Weights out of a TorchScript archive (`torch.jit.save`), such as OpenAI's CLIP files, without running its program.

The archive's pickle describes a tree of modules with their attributes. It is read by the same unpickler as other torch
files, which cannot import or call; the only names admitted beyond those of tensors are the archive's own classes,
which become dictionaries of attributes, and typed lists. The program beside it is never opened.
"""

from __future__ import annotations

import os
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from vtjax.errors import VtjaxError
from vtjax.weights import pickle_machine, torch_reader

_MODULE = "__torch__."
_LISTS = tuple(f"torch.jit._pickle.build_{kind}list" for kind in ("int", "double", "bool", "tensor"))


def is_torchscript(path: str | os.PathLike[str]) -> bool:
    """Says whether a file is a zip archive with a TorchScript program in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/", 1)[-1] == "constants.pkl" for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def read_torchscript(path: str | os.PathLike[str], verify: bool = True) -> dict[str, np.ndarray]:
    """Reads parameters and buffers by their path, as the module's `state_dict()`; read-only, mapped from the file.

    Args:
      verify: check the sums that the archive keeps of its tensors.

    Raises:
      VtjaxError: not such an archive, damaged, or one that asks for anything but tensors and its own modules.
    """
    path = pathlib.Path(path)
    if not is_torchscript(path):
        raise VtjaxError(f"{path}: not a TorchScript archive")
    try:
        tree = torch_reader.read_zip(path, (), verify, _ModuleMachine)
    except VtjaxError:
        raise
    except torch_reader.DAMAGE as error:
        raise VtjaxError(f"{path}: truncated or damaged ({type(error).__name__}: {error})") from error
    tensors = dict(_tensors(tree, ""))
    if not tensors:
        raise VtjaxError(f"{path}: a TorchScript archive without tensors")
    return tensors


class _Module(dict):
    """Attributes of one module."""


class _ModuleMachine(pickle_machine.Machine):
    def admits(self, name: str) -> bool:
        return name.startswith(_MODULE) or name in _LISTS or super().admits(name)

    def value(self, name: str, *arguments: Any) -> Any:
        if name.startswith(_MODULE):
            return _Module()
        return arguments[0] if name in _LISTS else super().value(name, *arguments)

    def load_build(self) -> None:
        attributes, module = self.stack[-1], self.stack[-2]
        super().load_build()
        if isinstance(module, _Module):
            if not isinstance(attributes, dict):
                raise TypeError(f"a module's attributes are a {type(attributes).__name__}")
            module.update(attributes)


def _tensors(tree: Any, prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(tree, np.ndarray):
        yield prefix, tree
    elif isinstance(tree, dict):
        for name, value in tree.items():
            yield from _tensors(value, f"{prefix}.{name}" if prefix else str(name))
