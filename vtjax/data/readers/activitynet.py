"""ActivityNet 1.3 and other files of its layout: {"database": {video: {"duration", "subset", "annotations":
[{"label", "segment"}]}}, "taxonomy": [{"nodeId", "nodeName", "parentId"}]} (activity_net.v1-3.min.json).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from vtjax.data.readers.class_lists import class_list, index_of
from vtjax.data.readers.coverage import BadRow, Coverage
from vtjax.data.readers.json_stream import MissingKey, json_entries
from vtjax.data.readers.rows import duration_of, field, find_file, listed, number, span, text
from vtjax.data.video_records import Segment, VideoRecord
from vtjax.errors import VtjaxError

FILES = ("activity_net*.json", "*activity*net*.json")


def taxonomy_classes(path: str | os.PathLike) -> tuple[str, ...]:
    """The leaves of the file's taxonomy in alphabetical order: 200 for ActivityNet 1.3. () without a taxonomy."""
    try:
        nodes = [node for _, _, node in json_entries(path, "taxonomy")]
    except MissingKey:
        return ()
    if not all(isinstance(node, dict) and isinstance(node.get("nodeName"), str) for node in nodes):
        raise VtjaxError(f"{path}: taxonomy: a list of {{nodeId, nodeName, parentId}} is expected")
    parents = {str(node.get("parentId")) for node in nodes}
    return tuple(sorted(node["nodeName"] for node in nodes if str(node.get("nodeId")) not in parents))


def read(
    folder: str | os.PathLike,
    *,
    split: str | None = None,
    videos: object | None = None,
    classes: Sequence[str] | str | os.PathLike | None = None,
) -> tuple[list[VideoRecord], Coverage]:
    """Reads activity_net.v1-3.min.json. split: "training", "validation", "testing" (not annotated), None for all.

    classes: names in the order of Segment.label, or a class list's file; by default the taxonomy's leaves.
    """
    path = find_file(folder, FILES)
    names = names_of(classes) or taxonomy_classes(path)
    return read_database(path, names, split, videos)


def read_database(
    path: str | os.PathLike,
    classes: Sequence[str],
    split: str | None,
    videos: object | None,
) -> tuple[list[VideoRecord], Coverage]:
    """Reads {"database": ...} of `path`; without `classes` they are the labels of the file in alphabetical order."""
    coverage = Coverage(split or "all", "videos", "segments")
    if not classes:
        classes = _labels(path)
        coverage.notes.add(path, "no class list was given: classes are the file's labels in alphabetical order")
    records = []
    for where, video, entry in json_entries(path, "database"):
        with coverage.entry(where):
            subset = text(field(entry, "subset"), "subset")
            if split not in (None, subset):
                continue
            duration = duration_of(field(entry, "duration"))
            fps = number(entry["fps"], "fps") if entry.get("fps") is not None else None
            if fps is not None and fps <= 0:
                raise BadRow("the frame rate is not positive", f"{fps:g}")
            segments = []
            for position, item in enumerate(listed(entry.get("annotations", []), "annotations")):
                with coverage.row(f"{where} segment {position}"):
                    name = text(field(item, "label"), "label")
                    start, end = span(*listed(field(item, "segment"), "segment", 2), duration, coverage, where)
                    segments.append(Segment(start, end, name, index_of(name, classes)))
            segments.sort(key=lambda s: (s.start, s.end, s.label))
            records.append(
                VideoRecord(video, video, where, subset, duration=duration, fps=fps, segments=tuple(segments))
            )
    if split is not None and not records:
        coverage.notes.add(path, f"no video of the subset {split!r}")
    return coverage.finish(records, videos), coverage


def names_of(classes: Sequence[str] | str | os.PathLike | None) -> tuple[str, ...]:
    """Class names given as a sequence or as the file of a class list; () when not given."""
    if classes is None:
        return ()
    return class_list(classes) if isinstance(classes, (str, os.PathLike)) else tuple(classes)


def _labels(path: str | os.PathLike) -> tuple[str, ...]:
    found = set()
    for _, _, entry in json_entries(path, "database"):
        items = entry.get("annotations") if isinstance(entry, dict) else None
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict) and isinstance(item.get("label"), str) and item["label"].strip():
                found.add(item["label"].strip())
    return tuple(sorted(found))
