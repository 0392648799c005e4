"""Something-Something v2: something-something-v2-{train,validation,test}.json, lists of {"id", "label", "template"},
and -labels.json {name: "index"}; the names of the release without the prefix work too.
"""

from __future__ import annotations

import os

from vtjax.data.readers.class_lists import class_list, index_of
from vtjax.data.readers.coverage import Coverage
from vtjax.data.readers.json_stream import json_entries
from vtjax.data.readers.rows import field, find_file, text
from vtjax.data.video_records import Caption, VideoRecord
from vtjax.errors import VtjaxError, nearest

SPLITS = ("train", "validation", "test")


def read(
    folder: str | os.PathLike, *, split: str = "validation", videos: object | None = None
) -> tuple[list[VideoRecord], Coverage]:
    """Reads one split. The class is the template without its brackets; the caption, with the objects, is `label`.

    The test split has ids only, so its label is -1.
    """
    if split not in SPLITS:
        raise VtjaxError(f"Something-Something v2 has no split {split!r}: {nearest(split, SPLITS)}")
    prefixes = ("something-something-v2-", "")
    classes = class_list(find_file(folder, [f"{p}labels.json" for p in prefixes]))
    coverage = Coverage(split, "videos", "rows")
    records = []
    for where, _, entry in json_entries(find_file(folder, [f"{p}{split}.json" for p in prefixes])):
        with coverage.row(where):
            video = text(field(entry, "id"), "id")
            label, name, captions = -1, "", ()
            if split != "test":
                name = text(field(entry, "template"), "template").replace("[", "").replace("]", "")
                label = index_of(name, classes)
                captions = (Caption(text(field(entry, "label"), "label")),)
            records.append(VideoRecord(video, video, where, split, label=label, class_name=name, captions=captions))
    return coverage.finish(records, videos), coverage
