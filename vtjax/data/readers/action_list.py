"""Lists of X-CLIP and ViFi-CLIP: "path label" lines with a class list beside (alt.md 7.1, 7.2)."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Sequence

from vtjax.data.readers.activitynet import names_of
from vtjax.data.readers.coverage import BadRow, Coverage
from vtjax.data.readers.media_folder import stem
from vtjax.data.readers.rows import integer, text_lines
from vtjax.data.video_records import VideoRecord

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


def read(
    folder: str | os.PathLike,
    *,
    split: str | None = None,
    videos: object | None = None,
    classes: Sequence[str] | str | os.PathLike | None = None,
) -> tuple[list[VideoRecord], Coverage]:
    """Reads one list (`folder` is the file, or `folder`/`split`.txt). Record id: the path without suffix.

    classes: names in the order of the labels, or the label CSV that belongs to this very list: the order differs
    between the full, base and novel files. Noted: known lists that are not of the published length, and classes in
    another order than the list's, where the file names (HMDB51, UCF101) tell.
    """
    path = pathlib.Path(folder)
    if path.is_dir():
        path = path / f"{split}.txt"
    names = names_of(classes)
    coverage = Coverage(split or path.stem, "videos", "rows")
    records, rows = [], 0
    for where, line in text_lines(path):
        rows += 1
        with coverage.row(where):
            file, blank, label = line.rpartition(" ")
            if not blank or " " in file.strip():
                raise BadRow("'path label' with one blank is expected", line[:60])
            index = integer(label, "the label")
            if index < 0 or (names and index >= len(names)):
                raise BadRow("the label is not in the class list", f"{index} of {len(names)}")
            name = stem(file.strip())
            records.append(
                VideoRecord(name, name, where, coverage.split, label=index, class_name=names[index] if names else "")
            )
    _compare(path, rows, {r.label for r in records}, len(names), coverage)
    if names:
        _compare_names(records, names, coverage)
    return coverage.finish(records, videos), coverage


def _compare(path: pathlib.Path, rows: int, labels: set[int], names: int, coverage: Coverage) -> None:
    found = next((v for tail, v in PUBLISHED.items() if path.as_posix().endswith("/" + tail)), None)
    # Published lengths were counted as line ends, and a last line may have none.
    if found is not None and (rows not in (found[0], found[0] + 1) or len(labels) != found[1]):
        coverage.notes.add(
            f"{path}: {rows} lines and {len(labels)} classes, published: {found[0]} and {found[1]}",
            "the list is not of the published length",
        )
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
        own = max((key for key in spelled if words == key or words.endswith("_" + key)), key=len, default=None)
        if own is not None and spelled[own] != record.class_name:
            coverage.notes.add(
                f"{record.where}: {spelled[own]!r} in the name, {record.class_name!r} by the label",
                "file name and label name another class: the class list is in another order than this list",
            )
