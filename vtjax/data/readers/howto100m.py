"""HowTo100M: speech of 1.2 M videos, as released and as the sentences of TAN.

Speech: one JSON {video: {"text": [], "start": [], "end": []}} (raw_caption.json, caption.json,
sentencified_htm_370k.json, sentencified_htm_1200k.json), or a folder of {video}.csv with the columns start, end, text.
HowTo100M_v1.csv beside it gives the category, htm_vlen.csv (video, seconds) the durations.
"""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Collection, Iterator
from typing import Any

from vtjax.data.readers.coverage import BadRow, Coverage, Place, Records, Videos
from vtjax.data.readers.json_stream import json_entries
from vtjax.data.readers.leakage import Exclude, refuse
from vtjax.data.readers.rows import csv_rows, duration_of, field, listed, number, text
from vtjax.data.video_records import Narration, VideoRecord
from vtjax.errors import VtjaxError

FILES = ("sentencified_htm_370k.json", "sentencified_htm_1200k.json", "caption.json", "raw_caption.json")
INDEX, LENGTHS = "HowTo100M_v1.csv", "htm_vlen.csv"


def read(
    folder: Place,
    *,
    split: str = "train",
    videos: Videos = None,
    captions: str | None = None,
    ids: Collection[str] | None = None,
    categories: Collection[str] = (),
    exclude: Exclude = None,
) -> Records:
    """Reads the wanted videos with their sentences.

    Args:
      captions: name of the speech file or folder inside `folder`, by default the first of FILES, else the CSV files.
      ids: the wanted videos (of htm370k_vids.txt, say: `rows.id_list`).
      categories: of the index, such as "Food and Entertaining".
      exclude: evaluation videos by `leakage.evaluation_ids`, never given and counted by reason.

    Raises:
      VtjaxError: a file is missing or is not of the layout.
    """
    folder = pathlib.Path(folder)
    coverage = Coverage(split, "videos", "sentences")
    root = folder.parent if folder.is_file() else folder
    index = _index(root, coverage)
    if categories and not index:
        raise VtjaxError(f"{root / INDEX}: needed to choose categories, but not there")
    durations = _lengths(root, coverage)
    if ids is not None:
        ids = set(ids)
        coverage.listed = len(ids)
    if exclude is None:
        remedy = "leakage.evaluation_ids, or --exclude of vtjax.prepare"
        coverage.notes.add(remedy, "no evaluation videos were taken out, as training needs")
    records = []
    for where, video, entry in _speech(folder, captions, ids):
        category = index.get(video, "")
        if (ids is not None and video not in ids) or (categories and category not in categories):
            continue
        if refuse(video, where, exclude, coverage.problems):
            continue
        sentences = tuple(_sentences(where, entry, coverage))
        if sentences:
            more: dict[str, Any] = {"duration": durations.get(video), "class_name": category, "narrations": sentences}
            records.append(VideoRecord(video, video, where, coverage.split, **more))
    return coverage.finish(records, videos)


def _speech(folder: pathlib.Path, captions: str | None, ids: set[str] | None) -> Iterator[tuple[str, str, Any]]:
    source = folder / captions if captions else folder
    if captions is None and folder.is_dir():
        source = next((folder / name for name in FILES if (folder / name).is_file()), folder)
    if source.is_file():
        yield from json_entries(source)
        return
    if not source.is_dir():
        raise VtjaxError(f"{source}: no such file or folder of speech")
    files = [p for p in sorted(source.rglob("*.csv")) if p.name not in (INDEX, LENGTHS)]
    if not files:
        raise VtjaxError(f"{source}: one of {', '.join(FILES)}, or a folder of CSV files, is expected")
    for path in files:
        if ids is None or path.stem in ids:
            yield str(path), path.stem, path


def _sentences(where: str, entry: Any, coverage: Coverage) -> list[Narration]:
    if isinstance(entry, pathlib.Path):
        rows = csv_rows(entry, ("start", "end", "text"), coverage)
        return coverage.row_entries(rows, lambda _, row: _sentence(row["start"], row["end"], row["text"]))
    sentences = []
    with coverage.entry(where):
        columns = [field(entry, name, listed) for name in ("start", "end", "text")]
        if len({len(column) for column in columns}) != 1:
            raise BadRow("text, start and end differ in length", "/".join(str(len(c)) for c in columns))
        sentences = coverage.parts(where, "sentence", zip(*columns, strict=True), lambda item: _sentence(*item))
        if not sentences:
            raise BadRow("no usable sentence")
    return sentences


def _sentence(start: Any, end: Any, words: Any) -> Narration:
    begin, stop = number(start, "start"), number(end, "end")
    if begin < 0 or stop < begin:
        raise BadRow("the sentence ends before it starts, or starts before the video", f"{begin:g} to {stop:g} s")
    return Narration(begin, stop, text(words, "text"))


def _index(root: pathlib.Path, coverage: Coverage) -> dict[str, str]:
    if not (root / INDEX).is_file():
        return {}
    columns = ("video_id", "category_1", "category_2", "rank", "task_id")
    return {r["video_id"]: r["category_1"] for _, r in csv_rows(root / INDEX, columns, coverage)}


def _lengths(root: pathlib.Path, coverage: Coverage) -> dict[str, float]:
    if not (root / LENGTHS).is_file():
        return {}
    durations = {}
    with open(root / LENGTHS, encoding="utf-8", newline="") as file:
        for line, cells in enumerate(csv.reader(file), 1):
            if cells and cells != ["vid", "vlen"]:
                where = f"{root / LENGTHS}:{line}"
                with coverage.entry(where):
                    if len(cells) != 2:
                        raise BadRow("wrong number of columns", f"{len(cells)} instead of 2")
                    durations[cells[0]] = duration_of(cells[1])
    return durations
