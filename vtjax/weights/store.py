"""A folder of converted parameters: an Orbax checkpoint that `config.train.initial` takes, and what describes it."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from vtjax.errors import VtjaxError
from vtjax.files import write_atomically
from vtjax.weights.files import read_json

FORMAT = 1
CARRIED = "published"  # folder of the files that are kept beside the parameters, to go back with them
# Tokenizers and settings that have no part in the parameters.
_CARRIED = ("tokenizer*", "*_tokenizer.json", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json",
            "*.model", "generation_config.json", "preprocessor_config.json")  # fmt: skip
_CARRIED_BYTES = 64 << 20


def write(folder: pathlib.Path, kind: str, config: Mapping[str, Any], params: Mapping[str, Any], source: Any) -> None:
    """Writes the parameters into `folder`/checkpoints/0, config.json, and the source's tokenizer and settings files.

    Args:
      kind: name of the layout. config: as `Loaded.config`. source: the `Source`.
    """
    import orbax.checkpoint as ocp

    import vtjax

    with ocp.StandardCheckpointer() as writer:
        writer.save((folder / "checkpoints" / "0" / "state").absolute(), {"trainable": dict(params)})
    described = {"kind": kind, "config": config, "source": source.name, "vtjax": vtjax.__version__, "format": FORMAT}
    write_atomically(folder / "config.json", json.dumps(described, indent=2) + "\n")
    copy_carried(source.folder, folder / CARRIED)


def read(folder: str | os.PathLike[str]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Reads (kind, config, parameters) of a folder that `write` made.

    Raises:
      VtjaxError: another folder, or not readable.
    """
    from vtjax.training.checkpoint import load_params

    folder = pathlib.Path(folder)
    described = read_json(folder / "config.json")
    if "kind" not in described:
        raise VtjaxError(f"{folder / 'config.json'}: not of a converted checkpoint, nor of a run of vtjax.train")
    return described["kind"], described["config"], load_params(folder / "checkpoints")


def is_run(folder: pathlib.Path) -> bool:
    """Says whether a folder is a work directory of vtjax.train, not one that `write` made.

    Raises:
      VtjaxError: no config.json in it, or not JSON.
    """
    described = read_json(folder / "config.json")
    return "name" in described and "kind" not in described


def carried(folder: pathlib.Path) -> pathlib.Path:
    """Gives the place of the tokenizer of a converted folder or of a run, if it has one."""
    run = folder / "assets" / "tokenizer"
    return run if run.is_dir() else folder / CARRIED


def copy_carried(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies tokenizer and settings files; they replace what is there."""
    files = {f for pattern in _CARRIED for f in source.glob(pattern) if f.is_file()}
    for file in sorted(f for f in files if f.stat().st_size <= _CARRIED_BYTES):
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / file.name)


def whole_or_nothing(target: pathlib.Path, fill: Callable[[pathlib.Path], None]) -> None:
    """Runs `fill` on a temporary folder beside `target`, and renames it when it is complete.

    Raises:
      VtjaxError: `target` exists and is not an empty folder.
    """
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise VtjaxError(f"--to={target}: exists already; name another folder, or remove it first")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        fill(partial)
        if target.is_dir():
            target.rmdir()
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
