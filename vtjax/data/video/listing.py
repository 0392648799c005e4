"""What is to be prepared: a user's videos or a published data set's own files, without the videos of evaluations."""

from __future__ import annotations

import inspect
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vtjax.data.readers import video_reader
from vtjax.data.video.items import read_items
from vtjax.data.video_records import VideoRecord
from vtjax.errors import Problems, VtjaxError, nearest

_TABLES = re.compile("Mapping|Collection|dict")  # parameters that no flag can hold


def own_videos(
    source: str, problems: Problems, *, videos: str, unit: str, label_from_folder: bool, classes: str
) -> tuple[list[VideoRecord], tuple[str, ...]]:
    """(records, class names) by `items.read_items`; classes: file of names, "" for those found."""
    fixed = None
    if classes:
        try:
            lines = pathlib.Path(classes).read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise VtjaxError(f"--classes={classes}: {error.strerror}") from None
        fixed = tuple(line.strip() for line in lines if line.strip())
    return read_items(
        source, problems, videos=videos or None, unit=unit, label_from_folder=label_from_folder, classes=fixed
    )


def published(
    name: str,
    source: str,
    problems: Problems,
    notes: Problems,
    *,
    videos: str,
    split: str,
    classes: str,
    exclude: Mapping[str, str],
    options: Sequence[str],
) -> tuple[list[VideoRecord], tuple[str, ...]]:
    """(records, class names) by the reader of that data set; what is empty has the reader's own default.

    options: "name=value" for its further parameters.

    Raises:
      VtjaxError: unknown data set, what its reader does not take or lacks, or files that are not its own.
    """
    read = video_reader(name)
    takes = inspect.signature(read).parameters
    if classes and "classes" not in takes:
        raise VtjaxError(f"--classes={classes}: {name} has its own classes")
    given = dict(_option(text, takes, name) for text in options)
    given |= {key: value for key, value in (("split", split), ("videos", videos), ("classes", classes)) if value}
    if exclude and "exclude" in takes:
        given["exclude"] = exclude
    lacking = [key for key, p in takes.items() if p.default is p.empty and key not in ("folder", *given)]
    if lacking:
        raise VtjaxError(f"--dataset={name} needs {' and '.join(f'--option={key}=...' for key in lacking)}")
    records, coverage = read(source, **given)
    problems.items += coverage.problems.items
    notes.items += coverage.notes.items
    return records, class_names(records)


def _option(text: str, takes: Mapping[str, inspect.Parameter], dataset: str) -> tuple[str, Any]:
    """A "name=value" as the reader's parameter, its value a whole number, a truth value or text as the default is."""
    name, equals, value = text.partition("=")
    of_flags = ("folder", "split", "videos", "classes", "exclude")
    plain = {key: p for key, p in takes.items() if key not in of_flags and not _TABLES.search(str(p.annotation))}
    if not equals or name not in plain:
        raise VtjaxError(f"--option={text}: name=value for {dataset} is expected; {nearest(name, plain)}")
    default = plain[name].default
    if isinstance(default, bool):
        if value not in ("true", "false"):
            raise VtjaxError(f"--option={text}: true or false is expected")
        return name, value == "true"
    if isinstance(default, int):
        if not value.isdigit():
            raise VtjaxError(f"--option={text}: a whole number is expected")
        return name, int(value)
    return name, value


def class_names(records: Sequence[VideoRecord]) -> tuple[str, ...]:
    """Class names by index, as far as the records tell them."""
    names = {r.label: r.class_name for r in records if r.label >= 0}
    names |= {s.label: s.text for r in records for s in r.segments if s.label >= 0}
    return tuple(names.get(i, "") for i in range(max(names, default=-1) + 1))
