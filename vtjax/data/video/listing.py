"""What is to be prepared: a user's videos or a published data set's own files, without the videos of evaluations."""

from __future__ import annotations

import inspect
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vtjax.data.readers import video_reader
from vtjax.data.readers.leakage import evaluation_ids, without
from vtjax.data.video.items import read_items
from vtjax.data.video_records import VideoRecord
from vtjax.errors import Problems, VtjaxError, nearest

_TABLES = re.compile("Mapping|Collection|dict")  # parameters that no flag can hold


def listed_videos(options: Any, problems: Problems, notes: Problems) -> tuple[Sequence[VideoRecord], Sequence[str]]:
    """Lists the videos that prepare.Options name: (records, class names).

    Raises:
      VtjaxError: options that do not go together, an unknown data set, what its reader does not take or lacks, or
        files that cannot be read.
    """
    exclude = evaluation_ids(options.exclude)
    for name in ("split", "option") if not options.dataset else ("unit", "label_from_folder"):
        value = getattr(options, name)
        if value and value != "video":
            raise VtjaxError(f"--{name}={value}: is {'not ' if options.dataset else ''}for --dataset")
    if options.dataset:
        records, classes = _published(options, exclude, problems, notes)
    else:
        records, classes = read_items(
            options.input,
            problems,
            videos=options.videos or None,
            unit=options.unit,
            label_from_folder=options.label_from_folder,
            classes=_class_file(options.classes),
        )
    return without(records, exclude, problems), classes


def _class_file(path: str) -> tuple[str, ...] | None:
    """The names in --classes, one a line; None where it is not given."""
    if not path:
        return None
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise VtjaxError(f"--classes={path}: {error.strerror}") from None
    return tuple(line.strip() for line in lines if line.strip())


def _published(
    options: Any, exclude: Mapping[str, str], problems: Problems, notes: Problems
) -> tuple[list[VideoRecord], tuple[str, ...]]:
    """(records, class names) by the reader of the data set; an option that is empty has the reader's own default."""
    name, classes = options.dataset, options.classes
    read = video_reader(name)
    takes = inspect.signature(read).parameters
    if classes and "classes" not in takes:
        raise VtjaxError(f"--classes={classes}: {name} has its own classes")
    given = dict(_option(text, takes, name) for text in options.option)
    given |= {key: getattr(options, key) for key in ("split", "videos", "classes") if getattr(options, key)}
    if exclude and "exclude" in takes:
        given["exclude"] = exclude
    lacking = [key for key, p in takes.items() if p.default is p.empty and key not in ("folder", *given)]
    if lacking:
        raise VtjaxError(f"--dataset={name} needs {' and '.join(f'--option={key}=...' for key in lacking)}")
    records, coverage = read(options.input, **given)
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
