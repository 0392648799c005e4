"""From a path to the one checkpoint in it, whatever its format."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vtjax.errors import VtjaxError
from vtjax.weights import torch_reader, torchscript
from vtjax.weights.safetensors_io import SafetensorsReader

_WEIGHT_FILES = ("pytorch_model.bin", "open_clip_pytorch_model.bin")


def read_json(path: pathlib.Path) -> Any:
    """Content of a JSON file.

    Raises:
      VtjaxError: not there, or not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise VtjaxError(f"{path}: no such file; expected a folder in the Hugging Face layout") from error
    except ValueError as error:
        raise VtjaxError(f"{path}: not JSON ({error})") from error


def open_weights(path: str | os.PathLike[str], inert: Sequence[str] = ()) -> Mapping[str, np.ndarray]:
    """The tensors of one file by name, whatever its format; read when asked for, or mapped.

    inert: see `torch_reader.read_torch`.

    Raises:
      VtjaxError: see the readers.
    """
    path = pathlib.Path(path)
    if path.suffix in (".safetensors", ".json"):
        return SafetensorsReader(path)
    if torchscript.is_torchscript(path):
        return torchscript.read_torchscript(path)
    return torch_reader.read_state_dict(path, inert=inert)


def weights_file(folder: pathlib.Path) -> pathlib.Path:
    """The one file of weights in a folder, or its index of shards.

    Raises:
      VtjaxError: none or several.
    """
    if any(folder.glob("*.safetensors")):
        return SafetensorsReader(folder).path
    found = [folder / name for name in _WEIGHT_FILES if (folder / name).is_file()] or sorted(folder.glob("*.pt"))
    if len(found) != 1:
        what = ", ".join(f.name for f in found) or "none"
        raise VtjaxError(f"{folder}: expected model.safetensors, {' or '.join(_WEIGHT_FILES)}; found {what}")
    return found[0]
