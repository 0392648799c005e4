"""HMDB51: {class}_test_split{1,2,3}.txt, lines "file.avi 1|2|0" for training, testing and unused videos."""

from __future__ import annotations

import os
import pathlib
import re

from vtjax.data.readers.coverage import BadRow, Coverage
from vtjax.data.readers.media_folder import stem
from vtjax.data.readers.rows import archive_texts
from vtjax.data.video_records import VideoRecord
from vtjax.errors import VtjaxError, nearest

ARCHIVES = ("testTrainMulti_7030_splits", "hmdb51_official_splits")
USE = {"train": "1", "test": "2", "unused": "0"}
SIZES = {"train": 70, "test": 30}  # of every class and split
_FILE = re.compile(r"(.+)_test_split([123])\.txt")


def read(
    folder: str | os.PathLike, *, split: str = "test", videos: object | None = None, fold: int = 1
) -> tuple[list[VideoRecord], Coverage]:
    """Reads fold 1, 2 or 3 of the official splits, from a folder of text files or an archive of them.

    split: "train" (70 of every class), "test" (30) or "unused". Classes are in alphabetical order with blanks for
    underscores: the order of X-CLIP's and ViFi-CLIP's lists. The release's class_list.txt, and label lists made from
    it, have "kick ball" before "kick" and "sword exercise" before "sword".
    """
    folder = pathlib.Path(folder)
    if split not in USE:
        raise VtjaxError(f"HMDB51 has no split {split!r}: {nearest(split, USE)}")
    if fold not in (1, 2, 3):
        raise VtjaxError(f"HMDB51 has the folds 1, 2 and 3, not {fold!r}")
    texts = {}
    for where, name, content in _texts(folder):
        match = _FILE.fullmatch(name)
        if match and int(match[2]) == fold:
            texts[match[1]] = where, content
    if not texts:
        raise VtjaxError(f"{folder}: no file such as brush_hair_test_split{fold}.txt")
    coverage = Coverage(f"{split} {fold}", "videos", "rows")
    records = []
    for label, (key, (where, content)) in enumerate(sorted(texts.items())):
        before = len(records)
        for number, line in enumerate(content.splitlines(), 1):
            if not line.strip():
                continue
            with coverage.row(f"{where}:{number}"):
                cells = line.split()
                if len(cells) != 2 or cells[1] not in USE.values():
                    raise BadRow("'file.avi 0|1|2' is expected", line[:60])
                if cells[1] == USE[split]:
                    name = stem(cells[0])
                    record = VideoRecord(
                        name, name, f"{where}:{number}", split, label=label, class_name=key.replace("_", " ")
                    )
                    records.append(record)
        if split in SIZES and len(records) - before != SIZES[split]:
            coverage.notes.add(f"{where}: {len(records) - before}", f"not {SIZES[split]} videos in the class")
    return coverage.finish(records, videos), coverage


def _texts(folder: pathlib.Path):
    """(where, name, text) of the split files: loose in the folder, or in a folder or archive of a known name."""
    if folder.is_file():
        return archive_texts(folder, "")
    loose = sorted(folder.glob("*_test_split[123].txt"))
    if loose:
        return [(str(path), path.name, path.read_text(encoding="utf-8", errors="replace")) for path in loose]
    for name in ARCHIVES:
        if (folder / name).is_dir() or any((folder / f"{name}{s}").is_file() for s in (".tar.gz", ".tar", ".zip")):
            return archive_texts(folder, name)
    return []
