"""Stores variable-length state sequences, append only, safe to interrupt and to share between processes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy
import numpy as np

from vtjax.errors import VtjaxError
from vtjax.files import write_atomically


class StateStore:
    """Maps texts to states [tokens, width], keyed by sha256 of (model and length, text).

    Rows are on disk before the lines that name them, and a line counts only once it is whole: whatever is cut off
    by an interruption is overwritten by the next append. Writers take turns by a file lock.

    Args:
      folder: holds meta.json, index.jsonl (a line per text: key, row offset, tokens) and states.bin (rows of `width`
        values, padding left out).
      length: tokens to pad to when reading.
      width: values of a row.
      dtype: of the values.
      model: fingerprint that the keys are bound to.

    Raises:
      VtjaxError: the folder holds states of another width or dtype.
    """

    def __init__(self, folder: str | os.PathLike[str], length: int, width: int, dtype: Any, model: str):
        self.folder = pathlib.Path(folder)
        self.length, self.width, self.dtype, self.model = length, width, np.dtype(dtype), model
        self._index: dict[str, tuple[int, int]] = {}
        self._read_to = 0  # bytes of the index read so far
        self._end = 0  # rows that the index names
        self._rows: np.ndarray | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_meta()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rows": None}  # a map of the file does not travel to another process

    def _check_meta(self) -> None:
        path, meta = self.folder / "meta.json", {"version": 1, "width": self.width, "dtype": self.dtype.name}
        if not path.exists():
            write_atomically(path, json.dumps(meta))
        try:
            stated = json.loads(path.read_text())
        except ValueError as error:
            raise VtjaxError(f"{path}: not JSON ({error}); remove the folder to compute the states again") from error
        if stated != meta:
            raise VtjaxError(f"{path}: holds {stated}, expected {meta}; remove the folder or name another")

    def key(self, text: str) -> str:
        return hashlib.sha256(f"{self.model}\n{text}".encode()).hexdigest()

    def refresh(self) -> None:
        """Takes in what was appended since the last look, by this or another process."""
        path = self.folder / "index.jsonl"
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._read_to)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        for line in whole.splitlines():
            try:
                key, offset, tokens = json.loads(line)
            except ValueError as error:
                raise VtjaxError(f"{path}: damaged line {line[:80]!r}; remove {self.folder}, compute again") from error
            self._index[key] = (offset, tokens)
            self._end = max(self._end, offset + tokens)
        self._read_to += len(whole)
        self._rows = None if whole else self._rows

    def __contains__(self, text: str) -> bool:
        return self.key(text) in self._index

    def __len__(self) -> int:
        return len(self._index)

    def absent(self, texts: Sequence[str]) -> list[str]:
        """The distinct texts that are not stored, in order of first appearance."""
        self.refresh()
        return [text for text in dict.fromkeys(texts) if text not in self]

    def append(self, texts: Sequence[str], states: Sequence[np.ndarray]) -> None:
        """Stores states [tokens_i, width] of each text; those that another process stored meanwhile are kept.

        Raises:
          VtjaxError: a shape that does not fit, or no room on the disk: texts whose line was not written are then
            not stored, and the rest is whole.
        """
        for state in states:
            if state.ndim != 2 or state.shape[1] != self.width or not 0 < len(state) <= self.length:
                expected = f"[1..{self.length}, {self.width}]"
                raise VtjaxError(f"{self.folder}: states of shape {state.shape}, expected {expected}")
        with self._locked():
            self.refresh()
            end, index, rows, entries = self._end, b"", [], {}
            for text, state in zip(texts, states, strict=True):
                key = self.key(text)
                if key not in self._index and key not in entries:
                    entries[key] = (end, len(state))
                    index += json.dumps([key, end, len(state)]).encode() + b"\n"
                    rows.append(np.ascontiguousarray(state, self.dtype).tobytes())
                    end += len(state)
            try:
                self._write("states.bin", b"".join(rows), self._end * self.width * self.dtype.itemsize)
                self._write("index.jsonl", index, self._read_to)
            except OSError as error:
                raise VtjaxError(f"{self.folder}: could not store {len(texts)} texts ({error})") from error
            self._index |= entries
            self._read_to += len(index)
            self._end, self._rows = end, None

    def _write(self, name: str, data: bytes, at: int) -> None:
        if not data:
            return
        with open(self.folder / name, "r+b" if (self.folder / name).exists() else "wb") as file:
            file.seek(at)
            file.write(data)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self.folder / "lock", "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def read(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Reads states [N, length, width], zero where masked, and mask bool [N, length].

        Raises:
          VtjaxError: a text that is not stored, or rows missing from a damaged file.
        """
        if not all(text in self for text in texts) and (missing := self.absent(texts)):
            raise VtjaxError(f"{self.folder}: {len(missing)} texts have no states, e.g. {missing[0]!r}; prepare them")
        states = np.zeros((len(texts), self.length, self.width), self.dtype)
        mask = np.zeros((len(texts), self.length), bool)
        rows = self._mapped()
        for i, text in enumerate(texts):
            offset, tokens = self._index[self.key(text)]
            if offset + tokens > len(rows):
                raise VtjaxError(f"{self.folder}: states.bin is shorter than its index says; remove the folder")
            states[i, :tokens] = rows[offset : offset + tokens]
            mask[i, :tokens] = True
        return states, mask

    def _mapped(self) -> np.ndarray:
        if self._rows is None:
            path = self.folder / "states.bin"
            whole = path.stat().st_size // (self.width * self.dtype.itemsize) if path.exists() else 0
            shape = (whole, self.width)
            self._rows = np.memmap(path, self.dtype, "r", shape=shape) if whole else np.zeros(shape, self.dtype)
        return self._rows
