"""A user's own videos as records: a folder of them, or a CSV, JSON or JSON-lines list with documented columns.

    video      file, relative to the list's folder (or --videos); its suffix may be left out       needed
    start,end  seconds, or [hh:]mm:ss[.fraction]; both or neither                                    optional
    label      class of the video, or of start-end                                                  optional
    caption    a sentence about the video, or about start-end                                       optional
    narration  a sentence spoken between start and end                                              needs start, end
    split      train, val, test, ...; one per video; where some have one, the others are in train   optional

A video may have any number of rows. In JSON a row may also hold "segments", a list of rows without "video". Rows that
cannot be used are left out and counted by file and line; they never stop the others.
"""

from __future__ import annotations

import codecs
import collections
import csv
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from vtjax.data.readers.coverage import BadRow, Coverage
from vtjax.data.readers.media_folder import VIDEO_SUFFIXES, MediaFolder, files_below, stem
from vtjax.data.readers.rows import seconds_of
from vtjax.data.video_records import Caption, Narration, Segment, VideoRecord
from vtjax.errors import Problems, VtjaxError, nearest

COLUMNS = ("video", "start", "end", "label", "caption", "narration", "split")
UNITS = ("video", "segment")
LISTS = (".csv", ".tsv", ".json", ".jsonl")


def read_items(
    source: str | os.PathLike,
    problems: Problems,
    *,
    videos: str | os.PathLike | None = None,
    unit: str = "video",
    label_from_folder: bool = False,
    classes: tuple[str, ...] | None = None,
) -> tuple[list[VideoRecord], tuple[str, ...]]:
    """(records, class names) of a folder or a list.

    videos: folder that the list's files are relative to, when not its own. unit: "video" gives one record per file,
    with rows that have times as its segments; "segment" one per row with times, cut out of its file, and one per
    file that has none. label_from_folder: the folder a video lies in is its label. classes: their order when it is
    fixed; by default the labels found, sorted.

    Raises:
      VtjaxError: no such file or folder, an unknown column, or a list that cannot be read at all.
    """
    source = pathlib.Path(source)
    if not source.exists():
        raise VtjaxError(f"{source}: no such file or folder")
    if source.is_dir():
        drafts = _from_folder(source, problems, label_from_folder)
    elif source.suffix.lower() in LISTS:
        drafts = _from_list(source, pathlib.Path(videos) if videos else source.parent, problems)
    elif source.suffix.lower() in VIDEO_SUFFIXES:
        drafts = {source.name: _Draft(source.name, source, str(source))}
    else:
        raise VtjaxError(f"{source}: a folder of videos, a video, or a list {', '.join(LISTS)} is expected")
    labelled = [row for draft in drafts.values() for row in draft.rows if "label" in row]
    if classes is None:
        classes = tuple(sorted({row["label"] for row in labelled}))
    for row in labelled:
        if row["label"] not in classes:
            problems.add(f"{row['where']}: {row.pop('label')!r}", "its label is not in the list of classes")
    if any(draft.split for draft in drafts.values()):
        for draft in drafts.values():
            draft.split = draft.split or "train"
    sharing = collections.Counter(map(stem, drafts))
    records = []
    for name, draft in drafts.items():
        key = stem(name) if sharing[stem(name)] == 1 else name  # with its suffix where two would share an id
        whole = _whole(key, draft, classes)
        cut = [row for row in draft.rows if "start" in row] if unit == "segment" else []
        records += _cut(whole, cut, classes) if cut else [whole]
    return records, classes


@dataclasses.dataclass
class _Draft:
    """A video and its rows: mappings of the columns that are there, start and end in seconds."""

    name: str
    path: pathlib.Path
    where: str
    split: str = ""
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def _from_folder(folder: pathlib.Path, problems: Problems, label_from_folder: bool) -> dict[str, _Draft]:
    drafts = {}
    unreadable: list[str] = []
    for path in files_below(folder, unreadable):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in VIDEO_SUFFIXES:
            draft = drafts[name] = _Draft(name, path, str(path))
            if label_from_folder and path.parent != folder:
                draft.rows.append({"label": path.parent.name, "where": str(path)})
        elif path.suffix.lower() in LISTS:
            problems.add(path, "a list beside the videos is read only when --input names it")
        else:
            problems.add(path, "its name is not that of a video")
    for closed in unreadable:
        problems.add(closed, "a folder that cannot be read")
    if not drafts:
        known = " ".join(sorted(VIDEO_SUFFIXES))
        raise VtjaxError(f"{folder}: no videos in it; files named {known} are expected")
    return drafts


def _from_list(file: pathlib.Path, root: pathlib.Path, problems: Problems) -> dict[str, _Draft]:
    drafts: dict[str, _Draft] = {}
    media: list[MediaFolder] = []
    coverage = Coverage("", problems=problems)
    for where, row in _rows(file, problems):
        with coverage.entry(where):
            row = _checked(row, where)
            name = row.pop("video", "")
            if not name:
                raise BadRow("no video is named")
            draft = drafts.get(name)
            if draft is None:
                draft = drafts[name] = _Draft(name, _find(root, name, media), where)
            split = row.pop("split", "")
            if split and draft.split and split != draft.split:
                raise BadRow("a video is in two splits", f"{draft.split} and {split}")
            draft.split = draft.split or split
            if set(row) - {"where"}:
                draft.rows.append(row)
    return drafts


def _rows(file: pathlib.Path, problems: Problems) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """("file:line", row) of any kind of list, nested segments unfolded."""
    if file.suffix.lower() in (".csv", ".tsv"):
        yield from _table(file, problems)
        return
    for where, value in _objects(file, problems):
        if not isinstance(value, dict):
            problems.add(where, "not a JSON object")
            continue
        nested = value.pop("segments", [])
        if not isinstance(nested, list) or not all(isinstance(n, dict) for n in nested):
            problems.add(where, "its segments are not a list of JSON objects")
            nested = []
        yield where, value
        for number, row in enumerate(nested):
            yield f"{where} segments[{number}]", {"video": value.get("video"), **row}


def _table(file: pathlib.Path, problems: Problems) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with open(file, encoding=_encoding(file), errors="replace", newline="") as lines:
        first = lines.readline()
        lines.seek(0)
        # Spreadsheets write .csv with semicolons where a comma is the decimal point.
        delimiter = "\t" if file.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
        rows = _cells(csv.reader(lines, delimiter=delimiter, strict=True), file)
        header = [name.strip().lower() for name in next(rows, (0, []))[1]]
        if "video" not in header:
            raise VtjaxError(
                f"{file}:1: the first line names the columns ({', '.join(COLUMNS)}); 'video' is needed, found: "
                f"{', '.join(header) or 'nothing'}"
            )
        for name in header:
            _known(name, f"{file}:1")
        if len(set(header)) < len(header):
            raise VtjaxError(f"{file}:1: a column is there twice: {', '.join(header)}")
        for line, cells in rows:
            if len(cells) == len(header):
                yield f"{file}:{line}", dict(zip(header, cells, strict=True))
            elif cells:
                what = f"{file}:{line}: {len(cells)} instead of {len(header)}"
                problems.add(what, f"wrong number of columns; a text that holds {delimiter!r} needs double quotes")


def _cells(reader: Any, file: pathlib.Path) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, cells) of every row of a csv.reader."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise VtjaxError(
                f"{file}:{line}: a row cannot be read ({error}); a double quote that begins a text must be closed at "
                "its end, one within such a text is written twice"
            ) from None
        if cells is None:
            return
        yield line, cells


def _encoding(file: pathlib.Path) -> str:
    with open(file, "rb") as raw:
        return "utf-16" if raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _objects(file: pathlib.Path, problems: Problems) -> Iterator[tuple[str, Any]]:
    text = file.read_text(encoding=_encoding(file), errors="replace")
    if file.suffix.lower() == ".json":
        try:
            values = json.loads(text)
        except ValueError as error:
            raise VtjaxError(f"{file}: not JSON: {error}") from None
        if not isinstance(values, list):
            raise VtjaxError(f"{file}: a list of objects is expected")
        yield from ((f"{file}[{number}]", value) for number, value in enumerate(values))
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield f"{file}:{number}", json.loads(line)
            except ValueError:
                problems.add(f"{file}:{number}", "not JSON")


def _known(name: str, where: str) -> None:
    if name not in COLUMNS:
        raise VtjaxError(
            f"{where}: unknown column {name!r}: {nearest(name, COLUMNS)} "
            f"(what is none of {', '.join(COLUMNS)} must be taken out)"
        )


def _checked(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The columns that hold something. Raises BadRow, VtjaxError on an unknown column."""
    kept: dict[str, Any] = {"where": where}
    for name, value in row.items():
        _known(name, where)
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        if isinstance(value, str) and "\ufffd" in value:
            raise BadRow("not UTF-8 text; save the list as UTF-8", name)
        if name in ("start", "end"):
            kept[name] = seconds_of(value, name)
        elif isinstance(value, str | int) and not isinstance(value, bool):
            kept[name] = str(value).strip()
        else:
            raise BadRow(f"{name} is not text", repr(value)[:60])
    if ("start" in kept) != ("end" in kept):
        raise BadRow("start without end, or end without start")
    if "start" in kept and not 0 <= kept["start"] < kept["end"]:
        raise BadRow("start and end do not rise from 0 on", f"{kept['start']:g} to {kept['end']:g} s")
    if "narration" in kept and "start" not in kept:
        raise BadRow("a narration without start and end")
    return kept


def _find(root: pathlib.Path, name: str, media: list[MediaFolder]) -> pathlib.Path:
    path = root / name
    if path.suffix.lower() not in VIDEO_SUFFIXES and not path.is_file() and root.is_dir():
        if not media:
            media.append(MediaFolder(root))
        path = media[0].find(name) or path
    return path


def _label(row: Mapping[str, Any], classes: tuple[str, ...]) -> int:
    return classes.index(row["label"]) if "label" in row else -1


def _whole(key: str, draft: _Draft, classes: tuple[str, ...]) -> VideoRecord:
    timed = [row for row in draft.rows if "start" in row]
    untimed = [row for row in draft.rows if "start" not in row]
    named = next((row for row in untimed if "label" in row), {})
    spans = [(row["start"], row["end"], row) for row in timed]
    return VideoRecord(
        key,
        key,
        draft.where,
        split=draft.split,
        path=draft.path,
        label=_label(named, classes),
        class_name=named.get("label", ""),
        segments=tuple(Segment(s, e, r["label"], _label(r, classes)) for s, e, r in spans if "label" in r),
        narrations=tuple(Narration(s, e, r["narration"]) for s, e, r in spans if "narration" in r),
        captions=tuple(Caption(r["caption"], r.get("start"), r.get("end")) for r in draft.rows if "caption" in r),
    )


def _cut(whole: VideoRecord, rows: list[dict[str, Any]], classes: tuple[str, ...]) -> list[VideoRecord]:
    """One record per span; rows of the same span are put together. Times stay those of the whole video."""
    untimed = tuple(c for c in whole.captions if c.start is None)
    spans: dict[tuple[float, float], list[dict[str, Any]]] = {}
    for row in rows:
        spans.setdefault((row["start"], row["end"]), []).append(row)
    records = []
    for (start, end), same in spans.items():
        named = next((row for row in same if "label" in row), {})
        records.append(
            dataclasses.replace(
                whole,
                id=f"{whole.id}@{start:g}-{end:g}",
                where=same[0]["where"],
                span=(start, end),
                label=_label(named, classes) if named else whole.label,
                class_name=named.get("label", whole.class_name),
                segments=(),
                narrations=tuple(Narration(start, end, r["narration"]) for r in same if "narration" in r),
                captions=tuple(Caption(r["caption"], start, end) for r in same if "caption" in r) or untimed,
            )
        )
    return records
