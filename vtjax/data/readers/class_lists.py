"""Class names in the order of their indices, from every layout the data sets use."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from vtjax.data.readers.coverage import BadRow, Coverage
from vtjax.data.readers.json_stream import read_json
from vtjax.data.readers.rows import csv_rows, is_names, text_lines
from vtjax.errors import VtjaxError, nearest


def class_list(path: str | os.PathLike, *, dataset: str | None = None) -> tuple[str, ...]:
    """Reads a class list; the layout is told by the suffix.

    .csv: a header with id and name (X-CLIP, ViFi-CLIP) or id and key (EPIC-KITCHENS-100). .txt: "index name" with
    indices from 0 or 1, or a name a line. .json: {name: index} (SSv2), [name], or data_info.json/video_list.json with
    `dataset` naming its entry. Raises VtjaxError where ids are not 0..n-1 without gaps, or a name repeats.
    """
    path = pathlib.Path(path)
    if path.suffix == ".csv":
        names = _from_csv(path)
    elif path.suffix == ".json":
        names = _from_json(path, dataset)
    else:
        names = _from_text(path)
    if not names:
        raise VtjaxError(f"{path}: the class list is empty")
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise VtjaxError(f"{path}: the class {twice!r} is listed twice")
    return tuple(names)


Classes = Sequence[str] | str | os.PathLike | None


def names_of(classes: Classes) -> tuple[str, ...]:
    """Class names given as a sequence or as the file of a class list; () when not given."""
    if classes is None:
        return ()
    return class_list(classes) if isinstance(classes, (str, os.PathLike)) else tuple(classes)


def _ordered(path: pathlib.Path, pairs: list[tuple[str, Any, str]]) -> list[str]:
    """pairs: (where, index, name). Indices must be 0..n-1, or 1..n, in any order."""
    indices: dict[int, str] = {}
    for where, index, name in pairs:
        try:
            indices.setdefault(int(str(index)), name.strip())
        except ValueError:
            raise VtjaxError(f"{where}: a class index is expected, found {index!r}") from None
    first = min(indices, default=0)
    if first not in (0, 1) or sorted(indices) != list(range(first, first + len(pairs))):
        gap = next((i for i in range(first, first + len(pairs)) if i not in indices), first)
        raise VtjaxError(f"{path}: class indices must run from 0 or 1 without gaps or repeats: see {gap}")
    return [indices[i] for i in sorted(indices)]


def _from_csv(path: pathlib.Path) -> list[str]:
    coverage, pairs = Coverage("classes", "classes", "rows"), []
    for where, row in csv_rows(path, ("id",), coverage):
        name = row.get("name", row.get("key"))
        if name is None:
            raise VtjaxError(f"{path}:1: column 'name' (or 'key') is expected, found: {', '.join(row)}")
        pairs.append((where, row["id"], name))
    if coverage.problems:
        raise VtjaxError(f"{coverage.problems.items[0].where}: {coverage.problems.items[0].reason}")
    return _ordered(path, pairs)


def _from_text(path: pathlib.Path) -> list[str]:
    lines = list(text_lines(path))
    split = [line.split(None, 1) for _, line in lines]
    if all(len(cells) == 2 and cells[0].isdigit() for cells in split):
        return _ordered(path, [(where, cells[0], cells[1]) for (where, _), cells in zip(lines, split, strict=True)])
    return [line for _, line in lines]


def _from_json(path: pathlib.Path, dataset: str | None) -> list[str]:
    content = read_json(path)
    if dataset is not None:
        return list(data_info(path, dataset)[1]["classes"])
    if isinstance(content, dict) and all(isinstance(v, (int, str)) for v in content.values()):
        return _ordered(path, [(f"{path}: {name}", index, name) for name, index in content.items()])
    if is_names(content):
        return content
    raise VtjaxError(f"{path}: {{name: index}} or a list of names is expected; for data_info.json name the data set")


def data_info(path: str | os.PathLike, dataset: str) -> tuple[str, dict]:
    """(name, entry) of a data set in data_info.json (LSTR, TeSTra, OV-OAD) or video_list.json (MiniROAD).

    The entry has `classes` (column 0 is the background), `sessions` {"train": [...], "test": [...]} and `ignore`, the
    index that evaluation leaves out (None where negative or absent). The file's `fps` is one nominal number for all
    videos and is not given on. The name is matched without regard to case.
    """
    entries = read_json(path)
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise VtjaxError(f"{path}: an object of data sets, each an object, is expected")
    name = next((n for n in entries if n.lower() == dataset.lower()), None)
    if name is None:
        raise VtjaxError(f"{path}: no data set {dataset!r}: {nearest(dataset, entries)}")
    entry = entries[name]
    classes = entry.get("class_names", entry.get("class_index"))
    sessions = {s: entry.get(f"{s}_session_set") for s in ("train", "test")}
    if not is_names(classes) or not all(map(is_names, sessions.values())):
        raise VtjaxError(f"{path}: {name}: class_names (or class_index) and {{train,test}}_session_set are expected")
    if entry.get("num_classes", len(classes)) != len(classes):
        raise VtjaxError(f"{path}: {name}: num_classes is {entry['num_classes']}, but {len(classes)} names are listed")
    ignore = entry.get("ignore_index")
    if ignore is not None and not isinstance(ignore, int):
        raise VtjaxError(f"{path}: {name}: ignore_index must be a whole number, found {ignore!r}")
    return name, {"classes": tuple(classes), "sessions": sessions, "ignore": ignore if (ignore or 0) > 0 else None}


def index_of(name: Any, classes: Sequence[str]) -> int:
    """Index of a class name. Raises BadRow, with the nearest name as detail."""
    if not isinstance(name, str) or name not in classes:
        raise BadRow("unknown class", f"{name!r}: {nearest(str(name), classes)}")
    return classes.index(name)
