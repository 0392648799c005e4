"""FineAction: 106 fine-grained actions (ovoad.md 8.4). annotations_gt.json has ActivityNet's layout with `fps`,
`filename` and `label_id` beside; the class list is MiniROAD's (video_list.json), column 0 the background.
"""

from __future__ import annotations

import os

from vtjax.data.readers.activitynet import names_of, read_database
from vtjax.data.readers.class_lists import data_info
from vtjax.data.readers.coverage import Coverage
from vtjax.data.readers.rows import find_file
from vtjax.data.video_records import VideoRecord


def read(
    folder: str | os.PathLike,
    *,
    split: str | None = None,
    videos: object | None = None,
    classes: object | None = None,
    info: str | os.PathLike | None = None,
) -> tuple[list[VideoRecord], Coverage]:
    """Reads annotations_gt.json. split: "training", "validation", "testing", None for all.

    info: MiniROAD's video_list.json, which gives the published order of the 107 classes (0 is the background);
    else classes: names or a class list's file; else the file's labels in alphabetical order, noted.
    """
    path = find_file(folder, ("annotations_gt.json", "*fineaction*.json"))
    names = data_info(info, "FINEACTION")[1]["classes"] if info is not None else names_of(classes)
    return read_database(path, names, split, videos)
