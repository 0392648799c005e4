"""Starting from other parameters: a work directory of vtjax.train, a checkpoint folder, or converted weights."""

from __future__ import annotations

from vtjax.errors import VtjaxError
from vtjax.files import as_path
from vtjax.sharding.partition import flatten
from vtjax.training.checkpoint import compare, complete_steps, load_params


def from_checkpoint(path: str, params: dict) -> dict:
    """`params` replaced by those stored at `path`, which must have the same tree.

    path: a work directory (its last finished stage is taken), a stage folder, or a folder of checkpoints.

    Raises:
      VtjaxError: nothing there, or trees that differ; every leaf is named.
    """
    folder = as_path(path)
    candidates = [folder, folder / "checkpoints", *sorted(folder.glob("*/checkpoints"))]
    checkpoints = [c for c in candidates if complete_steps(c)]
    if not checkpoints:
        raise VtjaxError(
            f"config.train.initial={path!r}: no checkpoint there; a work directory of vtjax.train or a folder of "
            "vtjax.convert is expected"
        )
    stored = load_params(checkpoints[-1])
    differences = compare(flatten(stored), flatten(params))
    if differences:
        raise VtjaxError(f"config.train.initial={path!r} does not fit this model:\n  " + "\n  ".join(differences))
    return stored
