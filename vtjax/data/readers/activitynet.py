"""ActivityNet 1.3, FineAction and ActivityNet Captions: segments and sentences of untrimmed videos.

activity_net.v1-3.min.json: {"database": {video: {"duration", "subset", "annotations": [{"label", "segment"}]}},
"taxonomy": [{"nodeId", "nodeName", "parentId"}]}. FineAction's annotations_gt.json has the same layout with `fps`,
`filename` and `label_id` beside. ActivityNet Captions: {video: {"duration", "timestamps": [[start, end]], "sentences":
[]}} in train.json, val_1.json and val_2.json (two sets of sentences for the same videos).
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from vtjax.data.readers.class_lists import Classes, data_info, index_of, names_of
from vtjax.data.readers.coverage import BadRow, Coverage, Place, Records, Videos
from vtjax.data.readers.json_stream import MissingKey, json_entries
from vtjax.data.readers.rows import duration_of, field, find_file, listed, positive, span_of, text
from vtjax.data.video_records import Caption, Segment, VideoRecord
from vtjax.errors import VtjaxError


def activitynet(folder: Place, *, split: str | None = None, videos: Videos = None, classes: Classes = None) -> Records:
    """Reads ActivityNet 1.3. split: "training", "validation", "testing" (not annotated), None for all.

    classes: names in the order of Segment.label, or a class list's file; by default the taxonomy's leaves.
    """
    path = find_file(folder, ("activity_net*.json", "*activity*net*.json"))
    return _read_database(path, names_of(classes) or _taxonomy_classes(path), split, videos)


def fineaction(
    folder: Place,
    *,
    split: str | None = None,
    videos: Videos = None,
    classes: Classes = None,
    info: Place | None = None,
) -> Records:
    """Reads FineAction, 106 fine-grained actions. split: "training", "validation", "testing", None for all.

    info: MiniROAD's video_list.json, which gives the published order of the 107 classes (0 is the background);
    else classes: names or a class list's file; else the file's labels in alphabetical order, noted.
    """
    path = find_file(folder, ("annotations_gt.json", "*fineaction*.json"))
    names = data_info(info, "FINEACTION")[1]["classes"] if info is not None else names_of(classes)
    return _read_database(path, names, split, videos)


def activitynet_captions(folder: Place, *, split: str = "val_1", videos: Videos = None) -> Records:
    """Reads `folder`/`split`.json, or the file itself; VTimeLLM's data_example.json is of this layout too.

    Sentences lose the blanks around them, times stay in seconds.
    """
    path = pathlib.Path(folder)
    path = path / f"{split}.json" if path.is_dir() else path
    coverage = Coverage(path.stem, "videos", "captions")

    def captioned(where: str, video: str, entry: Any) -> VideoRecord:
        duration = field(entry, "duration", duration_of)
        times, sentences = field(entry, "timestamps", listed), field(entry, "sentences", listed)
        if len(times) != len(sentences):
            raise BadRow("timestamps and sentences differ in length", f"{len(times)} and {len(sentences)}")

        def caption(pair: tuple) -> Caption:
            start, end = span_of(pair[0], "timestamp", duration, coverage, where)
            return Caption(text(pair[1], "sentence"), start, end)

        captions = coverage.parts(where, "caption", zip(times, sentences, strict=True), caption)
        if not captions:
            raise BadRow("no usable caption")
        return VideoRecord(video, video, where, path.stem, duration=duration, captions=tuple(captions))

    return coverage.finish(coverage.entries(json_entries(path), captioned), videos)


def _read_database(path: Place, classes: Sequence[str], split: str | None, videos: Videos) -> Records:
    """Reads {"database": ...} of `path`; without `classes` they are the labels of the file in alphabetical order."""
    coverage = Coverage(split or "all", "videos", "segments")
    if not classes:
        classes = _labels(path)
        coverage.notes.add(path, "no class list was given: classes are the file's labels in alphabetical order")

    def annotated(where: str, video: str, entry: Any) -> VideoRecord | None:
        subset = field(entry, "subset", text)
        if split not in (None, subset):
            return None
        duration = field(entry, "duration", duration_of)
        fps = positive(entry["fps"], "fps", "the frame rate") if entry.get("fps") is not None else None

        def segment(item: Any) -> Segment:
            name = field(item, "label", text)
            start, end = span_of(field(item, "segment"), "segment", duration, coverage, where)
            return Segment(start, end, name, index_of(name, classes))

        segments = coverage.parts(where, "segment", listed(entry.get("annotations", []), "annotations"), segment)
        segments.sort(key=lambda s: (s.start, s.end, s.label))
        return VideoRecord(video, video, where, subset, duration=duration, fps=fps, segments=tuple(segments))

    records = coverage.entries(json_entries(path, "database"), annotated)
    if split is not None and not records:
        coverage.notes.add(path, f"no video of the subset {split!r}")
    return coverage.finish(records, videos)


def _taxonomy_classes(path: Place) -> tuple[str, ...]:
    """Returns the leaves of the file's taxonomy in alphabetical order, 200 for ActivityNet 1.3; () without one."""
    try:
        nodes = [node for _, _, node in json_entries(path, "taxonomy")]
    except MissingKey:
        return ()
    if not all(isinstance(node, dict) and isinstance(node.get("nodeName"), str) for node in nodes):
        raise VtjaxError(f"{path}: taxonomy: a list of {{nodeId, nodeName, parentId}} is expected")
    parents = {str(node.get("parentId")) for node in nodes}
    return tuple(sorted(node["nodeName"] for node in nodes if str(node.get("nodeId")) not in parents))


def _labels(path: Place) -> tuple[str, ...]:
    names = set()
    for _, _, entry in json_entries(path, "database"):
        items = entry.get("annotations") if isinstance(entry, dict) else None
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict) and isinstance(item.get("label"), str) and item["label"].strip():
                names.add(item["label"].strip())
    return tuple(sorted(names))
