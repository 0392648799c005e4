"""HT-Step: steps of wikiHow articles in HowTo100M videos (mptva.md 7.1, 9.4).

annotations.json: {video: {"subset", "activity", "variation", "duration", "annotations":
[{"id", "segment", "partial"}]}};
taxonomy.csv: global_step_index, activity, step_index, variation, variation_index, headline, paragraph;
video_splits.json: {split: [video]}. Steps are told apart by id, since headlines repeat within an article.
"""

from __future__ import annotations

import os
import pathlib

from vtjax.data.readers.coverage import BadRow, Coverage
from vtjax.data.readers.json_stream import json_entries, read_json
from vtjax.data.readers.rows import csv_rows, duration_of, field, find_file, integer, is_names, listed, span, text
from vtjax.data.video_records import Segment, Step, StepScript, VideoRecord
from vtjax.errors import VtjaxError, nearest

COLUMNS = ("global_step_index", "activity", "step_index", "variation", "variation_index", "headline", "paragraph")
MATCHES = ("Full Match", "Partial Match")


def articles(folder: str | os.PathLike, coverage: Coverage | None = None) -> dict[tuple[str, str], StepScript]:
    """Every article of taxonomy.csv by (activity, variation), its steps in the order of the file."""
    coverage = Coverage("taxonomy", "videos", "steps") if coverage is None else coverage
    path = find_file(folder, ("taxonomy.csv",))
    steps: dict[tuple[str, str], list[Step]] = {}
    seen: set[int] = set()
    for where, row in csv_rows(path, COLUMNS, coverage):
        with coverage.row(where):
            step = Step(
                integer(row["global_step_index"], "global_step_index"),
                text(row["headline"], "headline"),
                row["paragraph"].strip(),
            )
            if step.id in seen:
                raise BadRow("global_step_index is listed twice", f"{step.id}")
            seen.add(step.id)
            steps.setdefault((text(row["activity"], "activity"), row["variation"].strip()), []).append(step)
    return {
        key: StepScript(f"{key[0]} ({key[1]})" if key[1] != "none" else key[0], key[0], tuple(found))
        for key, found in steps.items()
    }


def splits(folder: str | os.PathLike) -> dict[str, list[str]]:
    """Video ids by split. Raises VtjaxError when two splits share a video."""
    path = find_file(folder, ("video_splits.json",))
    found = read_json(path)
    if not isinstance(found, dict) or not all(is_names(ids) for ids in found.values()):
        raise VtjaxError(f"{path}: {{split: [video, ...]}} is expected")
    owner: dict[str, str] = {}
    for name, ids in found.items():
        for video in ids:
            if owner.setdefault(video, name) != name:
                raise VtjaxError(f"{path}: {video} is in {owner[video]} and in {name}; the splits must be disjoint")
    return found


def read(
    folder: str | os.PathLike,
    *,
    split: str = "val_seen",
    videos: object | None = None,
    annotations: str | None = None,
) -> tuple[list[VideoRecord], Coverage]:
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
    records = []
    members = set(known[split])
    coverage.listed = len(members)
    for where, video, entry in json_entries(path):
        with coverage.entry(where):
            if field(entry, "subset") != split:
                continue
            if video not in members:
                raise BadRow("annotated, but video_splits.json lists it in another split or not at all")
            duration = duration_of(field(entry, "duration"))
            segments = _segments(where, entry, duration, scripts, of_step, coverage)
            script = scripts[_article(entry, segments, scripts, of_step)]
            records.append(
                VideoRecord(video, video, where, split, duration=duration, script=script, segments=segments)
            )
    return coverage.finish(records, videos), coverage


def _segments(where, entry, duration, scripts, of_step, coverage) -> tuple[Segment, ...]:
    segments = []
    for position, item in enumerate(listed(field(entry, "annotations"), "annotations")):
        with coverage.row(f"{where} segment {position}"):
            step = integer(field(item, "id"), "id")
            if step not in of_step or of_step[step][0] != entry.get("activity"):
                raise BadRow("the step is not of the video's activity", f"step {step}")
            match = field(item, "partial")
            if match not in MATCHES:
                raise BadRow("'partial' is neither 'Full Match' nor 'Partial Match'", repr(match))
            start, end = span(*listed(field(item, "segment"), "segment", 2), duration, coverage, where)
            script = scripts[of_step[step]]
            segments.append(Segment(start, end, script.steps[script.index(step)].text, step, tag=match))
    return tuple(segments)


def _article(entry, segments, scripts, of_step) -> tuple[str, str]:
    """(activity, variation): as annotated, else that of the steps that occur."""
    activity = text(field(entry, "activity"), "activity")
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
