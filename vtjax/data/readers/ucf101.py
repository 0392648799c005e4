"""UCF101: classInd.txt "1 ApplyEyeMakeup"; trainlist0{1,2,3}.txt "Class/v_Class_g08_c01.avi 1"; testlist0{1,2,3}.txt
without the label.
"""

from __future__ import annotations

import os
import pathlib

from vtjax.data.readers.class_lists import class_list, index_of
from vtjax.data.readers.coverage import BadRow, Coverage
from vtjax.data.readers.media_folder import stem
from vtjax.data.readers.rows import integer, text_lines
from vtjax.data.video_records import VideoRecord
from vtjax.errors import VtjaxError, nearest


def read(
    folder: str | os.PathLike, *, split: str = "test", videos: object | None = None, fold: int = 1
) -> tuple[list[VideoRecord], Coverage]:
    """Reads one fold (1, 2, 3) of the train or test list. Labels are 0-based: the index in classInd.txt less one."""
    folder = pathlib.Path(folder)
    if split not in ("train", "test"):
        raise VtjaxError(f"UCF101 has no split {split!r}: {nearest(split, ['train', 'test'])}")
    if fold not in (1, 2, 3):
        raise VtjaxError(f"UCF101 has the folds 1, 2 and 3, not {fold!r}")
    classes = class_list(folder / "classInd.txt")
    coverage = Coverage(f"{split} {fold}", "videos", "rows")
    records = []
    for where, line in text_lines(folder / f"{split}list0{fold}.txt"):
        with coverage.row(where):
            cells = line.split()
            if len(cells) not in (1, 2) or "/" not in cells[0]:
                raise BadRow("'Class/file.avi' with an optional label is expected", line[:60])
            name, video = cells[0].split("/")[0], stem(cells[0].rsplit("/", 1)[-1])
            label = index_of(name, classes)
            if len(cells) == 2 and integer(cells[1], "the label") != label + 1:
                raise BadRow("the label is not that of the folder", f"{cells[1]} for {name}")
            records.append(VideoRecord(video, video, where, split, label=label, class_name=name))
    return coverage.finish(records, videos), coverage
