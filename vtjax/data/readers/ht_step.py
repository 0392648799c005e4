"""HT-Step: steps of wikiHow articles in HowTo100M videos.

annotations.json: {video: {"subset", "activity", "variation", "duration", "annotations":
[{"id", "segment", "partial"}]}};
taxonomy.csv: global_step_index, activity, step_index, variation, variation_index, headline, paragraph;
video_splits.json: {split: [video]}. Steps are told apart by id, since headlines repeat within an article.
"""

from __future__ import annotations

import pathlib
from typing import Any

from vtjax.data.readers.coverage import BadRow, Coverage, Place, Records, Videos
from vtjax.data.readers.json_stream import json_entries, read_json
from vtjax.data.readers.rows import csv_rows, duration_of, field, find_file, integer, is_names, listed, span_of, text
from vtjax.data.video_records import Segment, Step, StepScript, VideoRecord
from vtjax.errors import VtjaxError, nearest

COLUMNS = ("global_step_index", "activity", "step_index", "variation", "variation_index", "headline", "paragraph")
MATCHES = ("Full Match", "Partial Match")


def articles(folder: Place) -> dict[tuple[str, str], StepScript]:
    """Reads every article of taxonomy.csv by (activity, variation), its steps in the order of the file."""
    coverage = Coverage("taxonomy", "videos", "steps")
    path = find_file(folder, ("taxonomy.csv",))
    steps: dict[tuple[str, str], list[Step]] = {}
    ids: set[int] = set()
    for where, row in csv_rows(path, COLUMNS, coverage):
        with coverage.row(where):
            number = integer(row["global_step_index"], "global_step_index")
            step = Step(number, text(row["headline"], "headline"), row["paragraph"].strip())
            if number in ids:
                raise BadRow("global_step_index is listed twice", f"{number}")
            ids.add(number)
            steps.setdefault((text(row["activity"], "activity"), row["variation"].strip()), []).append(step)
    return {
        key: StepScript(f"{key[0]} ({key[1]})" if key[1] != "none" else key[0], key[0], tuple(of))
        for key, of in steps.items()
    }


def splits(folder: Place) -> dict[str, list[str]]:
    """Video ids by split. Raises VtjaxError when two splits share a video."""
    path = find_file(folder, ("video_splits.json",))
    members = read_json(path)
    if not isinstance(members, dict) or not all(is_names(ids) for ids in members.values()):
        raise VtjaxError(f"{path}: {{split: [video, ...]}} is expected")
    owner: dict[str, str] = {}
    for name, ids in members.items():
        for video in ids:
            if owner.setdefault(video, name) != name:
                raise VtjaxError(f"{path}: {video} is in {owner[video]} and in {name}; the splits must be disjoint")
    return members


def read(
    folder: Place, *, split: str = "val_seen", videos: Videos = None, annotations: str | None = None
) -> Records:
    """Reads the annotated videos of one split.

    script: the whole article that the video is matched with, steps that do not occur included; Segment.label is the
    global step index and Segment.tag "Full Match" or "Partial Match". The test splits' annotations are hidden.
    """
    folder = pathlib.Path(folder)
    known = splits(folder)
    if split not in known:
        raise VtjaxError(f"{folder}: no split {split!r}: {nearest(split, known)}")
    coverage = Coverage(split, "videos", "segments")
    scripts = articles(folder)
    of_step = {step.id: key for key, script in scripts.items() for step in script.steps}
    path = folder / annotations if annotations else find_file(folder, ("annotations.json", "*annotations*.json"))
    members = set(known[split])
    coverage.listed = len(members)

    def annotated(where: str, video: str, entry: Any) -> VideoRecord | None:
        if field(entry, "subset") != split:
            return None
        if video not in members:
            raise BadRow("annotated, but video_splits.json lists it in another split or not at all")
        duration = field(entry, "duration", duration_of)

        def segment(item: Any) -> Segment:
            step = field(item, "id", integer)
            if step not in of_step or of_step[step][0] != entry.get("activity"):
                raise BadRow("the step is not of the video's activity", f"step {step}")
            match = field(item, "partial")
            if match not in MATCHES:
                raise BadRow("'partial' is neither 'Full Match' nor 'Partial Match'", repr(match))
            start, end = span_of(field(item, "segment"), "segment", duration, coverage, where)
            script = scripts[of_step[step]]
            return Segment(start, end, script.steps[script.index(step)].text, step, tag=match)

        segments = tuple(coverage.parts(where, "segment", field(entry, "annotations", listed), segment))
        script = scripts[_article(entry, segments, scripts, of_step)]
        return VideoRecord(video, video, where, split, duration=duration, script=script, segments=segments)

    return coverage.finish(coverage.entries(json_entries(path), annotated), videos)


def _article(entry, segments, scripts, of_step) -> tuple[str, str]:
    """(activity, variation): as annotated, else that of the steps that occur."""
    activity = field(entry, "activity", text)
    variations = {of_step[s.label][1] for s in segments}
    if "variation" in entry:
        variations = {text(entry["variation"], "variation")}
    if not segments and not variations:
        raise BadRow("no usable segment")
    if len(variations) != 1:
        raise BadRow("the segments are of several variations of the activity", ", ".join(sorted(variations)))
    key = (activity, variations.pop())
    if key not in scripts:
        raise BadRow("the article is not in taxonomy.csv", f"{key[0]}, {key[1]}")
    return key
