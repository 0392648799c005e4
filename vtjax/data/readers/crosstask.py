"""CrossTask: ordered steps of 18 primary and 65 related tasks, step times for the primary ones.

tasks_primary.txt, tasks_related.txt: blocks of task id, title, URL, number of steps, comma-separated steps, blank line.
videos.csv, videos_val.csv: task,video,URL. annotations/{task}_{video}.csv, or an archive annotations.tar.gz of them:
step (1-based),start,end.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from vtjax.data.readers.coverage import BadRow, Coverage, Place, Records, Videos
from vtjax.data.readers.rows import archive_texts, integer, known_split, span, text_lines
from vtjax.data.video_records import Segment, Step, StepScript, VideoRecord
from vtjax.errors import VtjaxError

PRIMARY, RELATED = "tasks_primary.txt", "tasks_related.txt"


def tasks(path: Place) -> dict[str, StepScript]:
    """Reads the tasks of one file by id; Step.id is the 0-based position. Raises VtjaxError naming file and line."""
    scripts: dict[str, StepScript] = {}
    lines = list(text_lines(path))
    if len(lines) % 5:
        raise VtjaxError(f"{path}: blocks of 5 lines are expected, the file has {len(lines)} lines (truncated?)")
    for at in range(0, len(lines), 5):
        where, task = lines[at]
        title, url, count, steps = (line for _, line in lines[at + 1 : at + 5])
        names = [name.strip() for name in steps.split(",")]
        if not task.isdigit():
            raise VtjaxError(f"{where}: a task id is expected, found {task[:40]!r}")
        if not count.isdigit() or int(count) != len(names):
            raise VtjaxError(f"{where}: task {task} declares {count} steps and lists {len(names)}")
        if task in scripts:
            raise VtjaxError(f"{where}: task {task} is listed twice")
        scripts[task] = StepScript(task, title, tuple(Step(i, name) for i, name in enumerate(names)), url)
    return scripts


def read(
    folder: Place, *, split: str | None = None, videos: Videos = None, annotated: bool = True
) -> Records:
    """Reads the videos of the primary tasks, or with annotated=False also those of the related tasks (no segments).

    split: "val" for videos_val.csv, "train" for the others, None for all. A video is one record per task.
    Step times give Segment.label, the 0-based position in the script.
    """
    folder = pathlib.Path(folder)
    known_split("CrossTask", split, (None, "train", "val"))
    coverage = Coverage(split or "all", "videos", "segments")
    scripts = tasks(folder / PRIMARY)
    if not annotated:
        scripts = {**tasks(folder / RELATED), **scripts}
    validation = {key for _, key in _videos(folder / "videos_val.csv", coverage)}
    split_of = lambda key: "val" if key in validation else "train"
    listed = {key: where for where, key in _videos(folder / "videos.csv", coverage)}
    wanted = {key: where for key, where in listed.items() if key[0] in scripts and split in (None, split_of(key))}
    coverage.listed = len({video for _, video in wanted})
    segments: dict[tuple[str, str], tuple[str, tuple[Segment, ...]]] = {}
    for where, name, content in archive_texts(folder, "annotations"):
        task, underscore, video = name.removesuffix(".csv").partition("_")
        if task not in scripts or not underscore or not name.endswith(".csv"):
            coverage.problems.add(where, "the file name is not {task}_{video}.csv of a known task")
        elif (task, video) not in listed:
            coverage.problems.add(where, "annotated, but not in videos.csv")
        elif (task, video) in wanted:
            segments[task, video] = where, _segments(where, content, scripts[task], coverage)
    records = []
    for key, row in wanted.items():
        where, steps = segments.get(key, (row, ()))
        if annotated and not steps:
            coverage.problems.add(where, "no usable step times")
            continue
        name, script = f"{key[0]}_{key[1]}", scripts[key[0]]
        records.append(VideoRecord(name, key[1], where, split_of(key), script=script, segments=steps))
    return coverage.finish(records, videos)


def _videos(path: pathlib.Path, coverage: Coverage) -> Iterator[tuple[str, tuple[str, str]]]:
    """(where, (task, video)) of every usable row."""
    for where, line in text_lines(path):
        cells = line.split(",", 2)
        if len(cells) != 3 or not cells[0].isdigit() or not cells[1]:
            coverage.problems.add(where, "'task,video,URL' is expected")
        else:
            yield where, (cells[0], cells[1])


def _segments(where: str, content: str, script: StepScript, coverage: Coverage) -> tuple[Segment, ...]:
    def segment(place: str, line: str) -> Segment:
        cells = line.split(",")
        if len(cells) != 3:
            raise BadRow("'step,start,end' is expected", line[:40])
        step = integer(cells[0], "step")
        if not 1 <= step <= len(script.steps):
            raise BadRow("the task has no such step", f"step {step} of {len(script.steps)}")
        return Segment(*span(cells[1], cells[2], None, coverage, place), script.steps[step - 1].text, step - 1)

    lines = ((f"{where}:{n}", line) for n, line in enumerate(content.splitlines(), 1) if line.strip())
    return tuple(coverage.row_entries(lines, segment))
