"""Lists of trimmed clips of one class each: Kinetics, HMDB51, UCF101, Something-Something v2, X-CLIP and ViFi-CLIP."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from vtjax.data.readers.class_lists import Classes, class_list, index_of, names_of
from vtjax.data.readers.coverage import BadRow, Coverage, Place, Records, Videos
from vtjax.data.readers.json_stream import json_entries
from vtjax.data.readers.media_folder import stem
from vtjax.data.readers.rows import (
    archive_texts,
    csv_rows,
    field,
    find_file,
    integer,
    known_split,
    span,
    text,
    text_lines,
)
from vtjax.data.video_records import Caption, VideoRecord
from vtjax.errors import VtjaxError

KINETICS_SPLITS = {"train": ("train.csv",), "val": ("val.csv", "validate.csv", "validation.csv"), "test": ("test.csv",)}
HMDB51_ARCHIVES = ("testTrainMulti_7030_splits", "hmdb51_official_splits")
HMDB51_USE = {"train": "1", "test": "2", "unused": "0"}
HMDB51_SIZES = {"train": 70, "test": 30}  # of every class and split
_HMDB51_FILE = re.compile(r"(.+)_test_split([123])\.txt")
# Lines and classes of the published lists by the end of their path.
PUBLISHED = {
    "k400_splits/val.txt": (19877, 400),
    "hmdb_splits/val1.txt": (1530, 51),
    "hmdb_splits/val2.txt": (1530, 51),
    "hmdb_splits/val3.txt": (1530, 51),
    "ucf_splits/val1.txt": (3783, 101),
    "ucf_splits/val2.txt": (3734, 101),
    "ucf_splits/val3.txt": (3696, 101),
    "k600_splits/ZS_split1_K600_eval.txt": (14084, 160),
    "k600_splits/ZS_split2_K600_eval.txt": (13977, 160),
    "k600_splits/ZS_split3_K600_eval.txt": (14135, 160),
    "ssv2_splits/validation.txt": (24777, 174),
    "base2novel_hmdb_splits/base_val.txt": (780, 26),
    "base2novel_hmdb_splits/novel_val.txt": (750, 25),
    "base2novel_ucf_splits/base_val.txt": (2088, 51),
    "base2novel_ucf_splits/novel_val.txt": (1695, 50),
    "base2novel_k400_splits/base_val.txt": (9944, 200),
    "base2novel_k400_splits/novel_val.txt": (9933, 200),
    "base2novel_ssv2_splits/base_val.txt": (17562, 87),
    "base2novel_ssv2_splits/novel_val.txt": (7215, 87),
    **{f"hmdb_splits/train1_few_shot_{k}.txt": (51 * k, 51) for k in (2, 4, 8, 16)},
    **{f"ucf_splits/train1_few_shot_{k}.txt": (101 * k, 101) for k in (2, 4, 8, 16)},
    **{f"ssv2_splits/train1_few_shot_{k}.txt": (174 * k, 174) for k in (2, 4, 8, 16)},
}
# The class as HMDB51's and UCF101's file names spell it.
_NAMED = (re.compile(r"_([A-Za-z_]+)_[a-z]_(?:cm|nm)_np\d"), re.compile(r"^v_(\w+)_g\d\d_c\d\d$"))


def kinetics(folder: Place, *, split: str = "val", videos: Videos = None, classes: Classes = None) -> Records:
    """Reads the CSV of one split of Kinetics-400 or -600: label, youtube_id, time_start, time_end, split.

    The file is {train,validate,test}.csv, with or without a prefix such as kinetics_600_. A record is a clip, id
    "{youtube}_{start:06d}_{end:06d}", the name its file usually has; span are its seconds of the source video.

    Args:
      folder: the folder, or the file itself.
      split: "train", "val" or "test".
      classes: names in the order of the labels, or kinetics_{400,600}_labels.csv; by default alphabetical.
    """
    if split not in KINETICS_SPLITS:
        raise VtjaxError(f"Kinetics has no split {split!r}: train, val or test")
    names = KINETICS_SPLITS[split]
    path = find_file(folder, (*names, *(f"*_{name}" for name in names)))
    coverage = Coverage(split, "clips", "rows")
    given = names_of(classes)
    rows = list(csv_rows(path, ("label", "youtube_id", "time_start", "time_end"), coverage))
    labels = given or tuple(sorted({row["label"].strip() for _, row in rows if row["label"].strip()}))
    if not given:
        coverage.notes.add(path, "no class list was given: classes are the file's labels in alphabetical order")

    def clip(where: str, row: dict[str, str]) -> VideoRecord:
        youtube, name = text(row["youtube_id"], "youtube_id"), text(row["label"], "label")
        start, end = integer(row["time_start"], "time_start"), integer(row["time_end"], "time_end")
        shown = span(start, end, None, coverage, where)
        return _clip(f"{youtube}_{start:06d}_{end:06d}", where, split, index_of(name, labels), name, span=shown)

    return coverage.finish(coverage.row_entries(rows, clip), videos)


def hmdb51(folder: Place, *, split: str = "test", videos: Videos = None, fold: int = 1) -> Records:
    """Reads a fold of HMDB51: {class}_test_split{1,2,3}.txt with lines "file.avi 1|2|0" (training, testing, unused).

    Classes are in alphabetical order with blanks for underscores: the order of X-CLIP's and ViFi-CLIP's lists. The
    release's class_list.txt, and label lists made from it, have "kick ball" before "kick" and "sword exercise" before
    "sword".

    Args:
      folder: of the text files, or an archive of them.
      split: "train" (70 of every class), "test" (30) or "unused".
      fold: 1, 2 or 3.
    """
    folder = pathlib.Path(folder)
    known_split("HMDB51", split, list(HMDB51_USE))
    _check_fold("HMDB51", fold)
    texts = {}
    for where, name, content in _split_files(folder):
        match = _HMDB51_FILE.fullmatch(name)
        if match and int(match[2]) == fold:
            texts[match[1]] = where, content
    if not texts:
        raise VtjaxError(f"{folder}: no file such as brush_hair_test_split{fold}.txt")
    coverage = Coverage(f"{split} {fold}", "videos", "rows")
    records = []
    for label, (key, (where, content)) in enumerate(sorted(texts.items())):

        def clip(place: str, line: str, label: int = label, name: str = key.replace("_", " ")) -> VideoRecord | None:
            cells = line.split()
            if len(cells) != 2 or cells[1] not in HMDB51_USE.values():
                raise BadRow("'file.avi 0|1|2' is expected", line[:60])
            return _clip(stem(cells[0]), place, split, label, name) if cells[1] == HMDB51_USE[split] else None

        lines = ((f"{where}:{n}", line) for n, line in enumerate(content.splitlines(), 1) if line.strip())
        clips = coverage.row_entries(lines, clip)
        if split in HMDB51_SIZES and len(clips) != HMDB51_SIZES[split]:
            coverage.notes.add(f"{where}: {len(clips)}", f"not {HMDB51_SIZES[split]} videos in the class")
        records += clips
    return coverage.finish(records, videos)


def _split_files(folder: pathlib.Path) -> Iterable[tuple[str, str, str]]:
    """(where, name, text) of HMDB51's files: loose in the folder, or in a folder or archive of a known name."""
    if folder.is_file():
        return archive_texts(folder, "")
    loose = sorted(folder.glob("*_test_split[123].txt"))
    if loose:
        return [(str(path), path.name, path.read_text(encoding="utf-8", errors="replace")) for path in loose]
    for name in HMDB51_ARCHIVES:
        if (folder / name).is_dir() or any((folder / f"{name}{s}").is_file() for s in (".tar.gz", ".tar", ".zip")):
            return archive_texts(folder, name)
    return []


def ucf101(folder: Place, *, split: str = "test", videos: Videos = None, fold: int = 1) -> Records:
    """Reads a fold (1, 2, 3) of the train or test list of UCF101; labels are the index in classInd.txt less one.

    classInd.txt "1 ApplyEyeMakeup"; trainlist0{1,2,3}.txt "Class/v_Class_g08_c01.avi 1"; testlist0{1,2,3}.txt the same
    without the label.
    """
    folder = pathlib.Path(folder)
    known_split("UCF101", split, ("train", "test"))
    _check_fold("UCF101", fold)
    classes = class_list(folder / "classInd.txt")
    coverage = Coverage(f"{split} {fold}", "videos", "rows")

    def clip(where: str, line: str) -> VideoRecord:
        cells = line.split()
        if len(cells) not in (1, 2) or "/" not in cells[0]:
            raise BadRow("'Class/file.avi' with an optional label is expected", line[:60])
        name, video = cells[0].split("/")[0], stem(cells[0].rsplit("/", 1)[-1])
        label = index_of(name, classes)
        if len(cells) == 2 and integer(cells[1], "the label") != label + 1:
            raise BadRow("the label is not that of the folder", f"{cells[1]} for {name}")
        return _clip(video, where, split, label, name)

    return coverage.finish(coverage.row_entries(text_lines(folder / f"{split}list0{fold}.txt"), clip), videos)


def ssv2(folder: Place, *, split: str = "validation", videos: Videos = None) -> Records:
    """Reads one split of Something-Something v2: a list of {"id", "label", "template"} and labels.json {name: "index"}.

    Files are something-something-v2-{train,validation,test,labels}.json, or the same without that prefix. The class is
    the template without its brackets; the caption, with the objects, is `label`. The test split has ids only, so its
    label is -1.
    """
    known_split("Something-Something v2", split, ("train", "validation", "test"))
    prefixes = ("something-something-v2-", "")
    classes = class_list(find_file(folder, [f"{p}labels.json" for p in prefixes]))
    coverage = Coverage(split, "videos", "rows")

    def clip(where: str, _: str, entry: Any) -> VideoRecord:
        video = field(entry, "id", text)
        if split == "test":
            return _clip(video, where, split)
        name = field(entry, "template", text).replace("[", "").replace("]", "")
        captions = (Caption(field(entry, "label", text)),)
        return _clip(video, where, split, index_of(name, classes), name, captions=captions)

    path = find_file(folder, [f"{p}{split}.json" for p in prefixes])
    return coverage.finish(coverage.row_entries(json_entries(path), clip), videos)


def action_list(folder: Place, *, split: str | None = None, videos: Videos = None, classes: Classes = None) -> Records:
    """Reads one list of X-CLIP or ViFi-CLIP, lines "path label"; a record's id is the path without suffix.

    Noted: known lists that are not of the published length, and classes in another order than the list's, where the
    file names (HMDB51, UCF101) tell.

    Args:
      folder: the file, or the folder of {split}.txt.
      classes: names in the order of the labels, or the label CSV that belongs to this very list: the order differs
        between the full, base and novel files.
    """
    path = pathlib.Path(folder)
    if path.is_dir():
        path = path / f"{split}.txt"
    names = names_of(classes)
    coverage = Coverage(split or path.stem, "videos", "rows")

    def clip(where: str, line: str) -> VideoRecord:
        file, blank, label = line.rpartition(" ")
        if not blank or " " in file.strip():
            raise BadRow("'path label' with one blank is expected", line[:60])
        index = integer(label, "the label")
        if index < 0 or (names and index >= len(names)):
            raise BadRow("the label is not in the class list", f"{index} of {len(names)}")
        return _clip(stem(file.strip()), where, coverage.split, index, names[index] if names else "")

    records = coverage.row_entries(text_lines(path), clip)
    _compare(path, coverage.rows, {r.label for r in records}, len(names), coverage)
    if names:
        _compare_names(records, names, coverage)
    return coverage.finish(records, videos)


def _clip(name: str, where: str, split: str, label: int = -1, class_name: str = "", **more: Any) -> VideoRecord:
    return VideoRecord(name, name, where, split, label=label, class_name=class_name, **more)


def _check_fold(dataset: str, fold: int) -> None:
    if fold not in (1, 2, 3):
        raise VtjaxError(f"{dataset} has the folds 1, 2 and 3, not {fold!r}")


def _compare(path: pathlib.Path, rows: int, labels: set[int], names: int, coverage: Coverage) -> None:
    lines, classes = next((v for tail, v in PUBLISHED.items() if path.as_posix().endswith("/" + tail)), (rows, None))
    # Published lengths were counted as line ends, and a last line may have none.
    if classes is not None and (rows not in (lines, lines + 1) or len(labels) != classes):
        counts = f"{rows} lines and {len(labels)} classes, published: {lines} and {classes}"
        coverage.notes.add(f"{path}: {counts}", "the list is not of the published length")
    silent = sorted(set(range(names)) - labels)
    if silent:
        coverage.notes.add(f"{path}: {silent[:5]}{'...' if len(silent) > 5 else ''}", "classes without any video")


def _compare_names(records: list[VideoRecord], names: Sequence[str], coverage: Coverage) -> None:
    """Notes the records whose file name ends in another class of the list than their label's."""
    spelled = {name.replace(" ", "_").lower(): name for name in names}
    for record in records:
        match = next((m for m in (p.search(record.id.rsplit("/", 1)[-1]) for p in _NAMED) if m), None)
        if match is None:
            continue
        words = match[1].lower()
        # "..._sword_exercise" is of the longest class that it ends in.
        named = max((key for key in spelled if words == key or words.endswith("_" + key)), key=len, default=None)
        if named is not None and spelled[named] != record.class_name:
            coverage.notes.add(
                f"{record.where}: {spelled[named]!r} in the name, {record.class_name!r} by the label",
                "file name and label name another class: the class list is in another order than this list",
            )
