"""Entries of a JSON file one at a time, with their line: files of gigabytes are never held as one tree."""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from vtjax.errors import VtjaxError

_BLANK = re.compile(r"[ \t\r\n]*")
_CHUNK = 1 << 20
_NUMBER_TAIL = 4  # characters that a cut may leave behind what already reads as a number: "3" of "3e-7"


class MissingKey(VtjaxError):
    """The file has no such top-level key, so it is of another layout."""


class _Text:
    """A window on the file: `at` is the reading position in `buffer`, `line` the file's line number there."""

    def __init__(self, path: pathlib.Path):
        self.path, self.buffer, self.at, self.line, self.ended = path, "", 0, 1, False
        try:
            self.file = open(path, encoding="utf-8")
        except FileNotFoundError:
            raise VtjaxError(f"{path}: no such file") from None
        self.decoder = json.JSONDecoder()

    def error(self, message: str) -> VtjaxError:
        return VtjaxError(f"{self.path}:{self.line}: {message}")

    def more(self) -> bool:
        """Reads on; drops what has been read. The window at least doubles, so that long values cost linear time."""
        try:
            chunk = self.file.read(max(_CHUNK, len(self.buffer) - self.at))
        except UnicodeDecodeError as error:
            raise self.error(f"not UTF-8 text: {error.reason}") from None
        self.buffer, self.at = self.buffer[self.at :] + chunk, 0
        self.ended = not chunk
        return not self.ended

    def skip(self, end: int) -> None:
        self.line += self.buffer.count("\n", self.at, end)
        self.at = end

    def peek(self) -> str:
        """The next character that is not blank, "" at the end of the file."""
        while True:
            self.skip(_BLANK.match(self.buffer, self.at).end())
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if not self.more():
                return ""

    def expect(self, characters: str) -> str:
        at = self.peek()
        if not at or at not in characters:
            wanted = " or ".join(map(repr, characters))
            raise self.error(f"not JSON: {wanted} is expected, found {at or 'the end of the file'!r} (truncated?)")
        self.skip(self.at + 1)
        return at

    def value(self) -> Any:
        """Decodes the next value. The window may cut a number ("12", "3."), so it must not end right behind one."""
        self.peek()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.buffer, self.at)
                if end + _NUMBER_TAIL < len(self.buffer) or self.ended:
                    self.skip(end)
                    return value
            except json.JSONDecodeError as error:
                if self.ended:
                    self.line += self.buffer.count("\n", self.at, error.pos)
                    raise self.error(f"not JSON: {error.msg} (truncated?)") from None
            self.more()


def json_entries(path: str | os.PathLike, under: str | None = None) -> Iterator[tuple[str, str, Any]]:
    """Yields (where, key, value) of the file's object, or of its list with the index as key; where is "file:line: key".

    With `under`, the entries of that top-level key. Raises VtjaxError naming file and line where it is not JSON,
    and MissingKey where there is no such key.
    """
    text = _Text(pathlib.Path(path))
    with text.file:
        if under is None:
            yield from _entries(text)
            return
        text.expect("{")
        while text.peek() == '"':
            key = text.value()
            text.expect(":")
            if key == under:
                yield from _entries(text)
                return
            text.value()
            if text.expect(",}") == "}":
                break
        raise MissingKey(f"{path}: the key {under!r} is expected at the top level")


def _entries(text: _Text) -> Iterator[tuple[str, str, Any]]:
    is_object = text.expect("{[") == "{"
    close, index = ("}" if is_object else "]"), 0
    if text.peek() == close:
        return
    while True:
        text.peek()
        line, key = text.line, str(index)
        if is_object:
            if text.peek() != '"':
                raise text.error("not JSON: a key in double quotes is expected")
            key = text.value()
            text.expect(":")
        value = text.value()
        yield f"{text.path}:{line}: {key if is_object else f'entry {index}'}", key, value
        index += 1
        if text.expect("," + close) == close:
            return


def read_json(path: str | os.PathLike, kind: str = "file") -> Any:
    """The whole of a small JSON file, a `kind` in messages. Raises VtjaxError naming file and line."""
    path = pathlib.Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise VtjaxError(f"{path}: no such {kind}") from None
    except json.JSONDecodeError as error:
        raise VtjaxError(f"{path}:{error.lineno}: not JSON: {error.msg} (truncated?)") from None
    except UnicodeDecodeError as error:
        raise VtjaxError(f"{path}: not UTF-8 text: {error.reason}") from None
