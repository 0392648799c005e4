"""Where metrics go: JSON lines always, TensorBoard when asked for and installed, progress to a terminal or log."""

from __future__ import annotations

import json
import math
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import tqdm

from vtjax.errors import VtjaxError
from vtjax.files import is_remote, write_atomically


class MetricsWriter:
    """Appends one JSON object per line: {"step", "split", "time", metric: value}.

    After a resume, lines beyond the restored step are removed, and a line that is there is not written again, so that a
    curve never runs twice over a step. In a bucket, where nothing can be appended to, the file is written anew every
    `seconds` and at the end.
    """

    def __init__(self, path: pathlib.Path, step: int = 0, tensorboard: bool = False, seconds: float = 30.0):
        self._there: set[tuple[float, str]] = set()  # (step, split) of the lines that a resumed run found
        self._path, self._file, self._seconds, self._written = path, None, seconds, time.monotonic()
        self._lines: list[str] = []  # of a file in a bucket
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _step_of(line)[0] <= step]
            self._there = {_step_of(line) for line in kept}
            write_atomically(path, "".join(line + "\n" for line in kept))
            self._lines = kept if is_remote(path) else []
        if not is_remote(path):
            self._file = path.open("a")
        self._board = None
        if tensorboard and is_remote(path):
            raise VtjaxError(f"--tensorboard writes to a disk of this machine, not to {path.parent}")
        if tensorboard:
            try:
                from tensorboardX import SummaryWriter
            except ImportError as error:
                raise VtjaxError("--tensorboard needs the extra: pip install 'vtjax[tensorboard]'") from error
            self._board = SummaryWriter(str(path.parent / "tensorboard"))

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """One line; values that are not finite become null."""
        if (step, split) in self._there:
            return
        clean = {k: (float(v) if math.isfinite(v) else None) for k, v in values.items()}
        line = {"step": int(step), "split": split, "time": round(time.time(), 3), **clean}
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        else:
            self._lines.append(json.dumps(line))
            if time.monotonic() - self._written >= self._seconds:
                self.flush()
        if self._board is not None:
            for name, value in clean.items():
                if value is not None:
                    self._board.add_scalar(f"{split}/{name}", value, step)

    def flush(self) -> None:
        """Everything so far is in the file."""
        if self._file is None:
            write_atomically(self._path, "".join(line + "\n" for line in self._lines))
            self._written = time.monotonic()

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def _step_of(line: str) -> tuple[float, str]:
    try:
        record = json.loads(line)
        return record["step"], record["split"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf, ""  # a line cut off by a kill


class Progress:
    """A tqdm bar with loss, examples/s and the share of time spent waiting for data."""

    def __init__(self, name: str, start: int, total: int, enabled: bool = True):
        self._bar = tqdm.tqdm(
            total=total, initial=start, desc=name, unit="step", disable=not enabled, file=sys.stderr,
            mininterval=0.5 if sys.stderr.isatty() else 15.0, dynamic_ncols=True,
        )  # fmt: skip

    def step(self) -> None:
        self._bar.update(1)

    def show(self, values: Mapping[str, Any]) -> None:
        self._bar.set_postfix(values, refresh=False)

    def close(self) -> None:
        self._bar.close()
