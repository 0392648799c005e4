"""Files, lines, columns and typed fields of annotation files; what is wrong with a row is raised as BadRow."""

from __future__ import annotations

import csv
import json
import math
import os
import pathlib
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from vtjax.data.readers.coverage import BadRow, Coverage
from vtjax.errors import VtjaxError, nearest

# Durations are often whole seconds: ends beyond the video by less than this are rounding and are cut without a note.
END_TOLERANCE = 0.5


def find_file(folder: str | os.PathLike, patterns: Sequence[str]) -> pathlib.Path:
    """`folder` itself when it is a file, else the one file below it that matches the first pattern that matches any.

    Raises VtjaxError where none does, or several do.
    """
    folder = pathlib.Path(folder)
    if folder.is_file():
        return folder
    if not folder.is_dir():
        raise VtjaxError(f"{folder}: no such file or folder")
    for pattern in patterns:
        matches = sorted(folder.glob(pattern))
        if len(matches) > 1:
            names = ", ".join(p.relative_to(folder).as_posix() for p in matches[:4])
            raise VtjaxError(f"{folder}: several files match {pattern!r} ({names}): name one of them")
        if matches:
            return matches[0]
    raise VtjaxError(f"{folder}: none of the expected files is there: {', '.join(patterns)}")


def _opened(path: str | os.PathLike, **options: Any) -> TextIO:
    try:
        return open(path, encoding="utf-8-sig", errors="replace", **options)
    except FileNotFoundError:
        raise VtjaxError(f"{path}: no such file") from None


def text_lines(path: str | os.PathLike) -> Iterator[tuple[str, str]]:
    """Yields ("file:line", line) of the non-blank lines, stripped. Raises VtjaxError when the file is missing."""
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path}:{number}", line.strip()


def id_list(path: str | os.PathLike) -> list[str]:
    """Video ids of a text file, one a line (htm370k_vids.txt, htm_holdout_vid.txt); further columns are ignored."""
    return [line.replace(",", " ").split()[0] for _, line in text_lines(path)]


def csv_rows(
    path: str | os.PathLike, columns: Sequence[str], coverage: Coverage
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields ("file:line", row) of a table with a header. Raises VtjaxError when a column is missing.

    Rows with another number of columns are counted in `coverage` as left out; the others are for the caller to count.
    """
    with _opened(path, newline="") as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        absent = [name for name in columns if name not in header]
        if absent:
            raise VtjaxError(f"{path}:1: column {absent[0]!r} is expected, found: {', '.join(header) or 'nothing'}")
        for cells in reader:
            where = f"{path}:{reader.line_num}"
            if len(cells) == len(header):
                yield where, dict(zip(header, cells, strict=True))
            elif cells:
                with coverage.row(where):
                    raise BadRow("wrong number of columns", f"{len(cells)} instead of {len(header)}")


def archive_texts(folder: str | os.PathLike, name: str) -> Iterator[tuple[str, str, str]]:
    """Yields (where, file name, text) of the files in folder/name, or of the archive folder/name.tar.gz, .tar or .zip.

    `folder` may itself be that archive. Raises VtjaxError where neither is there, or the archive is damaged.
    """
    folder = pathlib.Path(folder)
    if (folder / name).is_dir():
        for path in sorted((folder / name).rglob("*")):
            if path.is_file():
                yield str(path), path.name, path.read_text(encoding="utf-8", errors="replace")
        return
    candidates = [folder] if folder.is_file() else [folder / f"{name}{s}" for s in (".tar.gz", ".tar", ".zip")]
    archive = next((p for p in candidates if p.is_file()), None)
    if archive is None:
        raise VtjaxError(f"{folder}: the folder {name} or an archive of it is expected")
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                for name in sorted(n for n in zipped.namelist() if not n.endswith("/")):
                    content = zipped.read(name).decode("utf-8", "replace")
                    yield f"{archive}!{name}", name.rsplit("/", 1)[-1], content
        else:
            with tarfile.open(archive) as tar:
                for member in tar:
                    if member.isfile():
                        content = tar.extractfile(member).read().decode("utf-8", "replace")
                        yield f"{archive}!{member.name}", member.name.rsplit("/", 1)[-1], content
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise VtjaxError(f"{archive}: damaged archive: {error}") from None


def number(value: Any, name: str) -> float:
    """A finite number, also from text. Raises BadRow."""
    try:
        if isinstance(value, bool):
            raise ValueError
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        raise BadRow(f"{name} is not a number", repr(value)[:60]) from None
    if not math.isfinite(result):
        raise BadRow(f"{name} is not finite", repr(value)[:60])
    return result


def integer(value: Any, name: str) -> int:
    """A whole number, also from text. Raises BadRow."""
    result = number(value, name)
    if result != int(result):
        raise BadRow(f"{name} is not a whole number", repr(value)[:60])
    return int(result)


def text(value: Any, name: str) -> str:
    """Text that is not blank, stripped. Raises BadRow."""
    if not isinstance(value, str):
        raise BadRow(f"{name} is not text", repr(value)[:60])
    if not value.strip():
        raise BadRow(f"{name} is empty")
    return value.strip()


def listed(value: Any, name: str, length: int | None = None) -> list:
    """A list, of `length` when given. Raises BadRow."""
    if not isinstance(value, list):
        raise BadRow(f"{name} is not a list", repr(value)[:60])
    if length is not None and len(value) != length:
        raise BadRow(f"{name} has not {length} entries", f"{len(value)}")
    return value


def is_names(value: Any) -> bool:
    """Whether `value` is a list of strings."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def mapping(value: Any, name: str) -> Mapping:
    """A JSON object. Raises BadRow."""
    if not isinstance(value, dict):
        raise BadRow(f"{name} is not an object", repr(value)[:60])
    return value


def field(item: Any, key: str, kind: Callable[[Any, str], Any] | None = None) -> Any:
    """item[key] of a JSON object, as kind(value, key) where `kind` is given, which is one of the functions above.

    Raises BadRow where `item` is no object or has no such key.
    """
    value = mapping(item, "the entry")
    if key not in value:
        raise BadRow(f"no {key!r}")
    return value[key] if kind is None else kind(value[key], key)


def parsed(line: str) -> Mapping:
    """The JSON object of a line of a .jsonl file. Raises BadRow."""
    try:
        return mapping(json.loads(line), "the row")
    except json.JSONDecodeError as error:
        raise BadRow("not JSON", str(error)) from None


def known_split(dataset: str, split: str | None, known: Sequence[str | None]) -> None:
    """Raises VtjaxError where the data set has no such split; None among `known` stands for all."""
    if split not in known:
        raise VtjaxError(f"{dataset} has no split {split!r}: {nearest(str(split), filter(None, known))}")


def seconds_of(value: Any, name: str) -> float:
    """Seconds from a number, or from "[hh:]mm:ss[.fraction]". Raises BadRow."""
    if isinstance(value, str) and ":" in value:
        parts = value.strip().split(":")
        if len(parts) > 3:
            raise BadRow(f"{name} is not a time", repr(value)[:60])
        total = 0.0
        for part in parts:
            total = 60 * total + number(part, name)
        return total
    return number(value, name)


def span(start: Any, end: Any, duration: float | None, coverage: Coverage, where: Any) -> tuple[float, float]:
    """(start, end) in seconds with 0 <= start < end, cut to the video's duration. Raises BadRow.

    An end beyond the duration is cut, and noted when it lies further away than rounding.
    """
    start, end = seconds_of(start, "start"), seconds_of(end, "end")
    if start < 0:
        raise BadRow("the segment starts before the video", f"{start:g} s")
    if end <= start:
        raise BadRow("the segment ends before it starts", f"{start:g} to {end:g} s")
    if duration is not None and end > duration:
        if start >= duration:
            raise BadRow("the segment starts after the video", f"{start:g} s of {duration:g} s")
        if end > duration + END_TOLERANCE:
            coverage.notes.add(f"{where}: {end:g} s of {duration:g} s", "the segment ends after the video, cut")
        end = duration
    return start, end


def span_of(bounds: Any, name: str, duration: float | None, coverage: Coverage, where: Any) -> tuple[float, float]:
    """`span` of a list of two times. Raises BadRow."""
    start, end = listed(bounds, name, 2)
    return span(start, end, duration, coverage, where)


def duration_of(value: Any, name: str = "duration") -> float:
    """A positive number of seconds. Raises BadRow."""
    return positive(value, name, "the duration")


def positive(value: Any, name: str, called: str) -> float:
    """A number above 0, `called` so in the report. Raises BadRow."""
    result = number(value, name)
    if result <= 0:
        raise BadRow(f"{called} is not positive", f"{result:g}")
    return result


def in_time(segments: Sequence) -> tuple:
    """Segments, or captions, in order of start and end."""
    return tuple(sorted(segments, key=lambda s: (s.start, s.end)))
