"""`python -m vtjax.prepare --kind=video`: videos in any container to a folder of frames or of a tower's features.

    python -m vtjax.prepare --kind=video --input=my_videos --output=prepared/mine
    python -m vtjax.prepare --kind=video --input=list.csv --output=prepared/mine --fps=8 --size=224 --fit=crop
    python -m vtjax.prepare --kind=video --input=list.csv --output=prepared/features \\
        --features=clip_states --weights=openai/clip-vit-base-patch16

The list's columns are those of items.py: video, start, end, label, caption, narration, split. Killed at any moment,
the same command goes on with the shards that are not finished; with --shard=0/4 to --shard=3/4, four hosts share the
work on one folder, and the last one writes meta.json.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import sys
import time
from collections.abc import Sequence

from vtjax.data.options import flag, from_flags
from vtjax.data.video.items import UNITS
from vtjax.data.video.listing import listed_videos
from vtjax.data.video.plan import begin, finish, make_plan
from vtjax.data.video.shards import Making
from vtjax.data.video.store import read_json
from vtjax.data.video.towers import NAMED
from vtjax.data.video.workers import run_shards
from vtjax.data.video_records import VideoRecord
from vtjax.errors import Problems, VtjaxError


@dataclasses.dataclass(frozen=True)
class Options:
    """What `prepare` does; each field, and each of Making, is the flag of the same name."""

    output: str = flag("string", ..., "Folder to write.", required=True)
    input: str = flag("string", "", "Folder of videos, or a list .csv, .tsv, .json, .jsonl.", required=True)
    videos: str = flag("string", "", "Folder that the list's files are relative to, where it is not the list's own.")
    dataset: str = flag("string", "", "Read --input as this published data set (see vtjax/data/readers).")
    split: str = flag("string", "", "Split of the data set; by default its reader's.")
    option: Sequence[str] = flag(
        "multi_string", (), "name=value for the data set's reader: fold=2, annotated=false, ...", default=[]
    )
    exclude: Sequence[str] = flag(
        "list", (), "Evaluation sets whose videos are left out, to train on the rest: HT-Step's folder, HTM-Align's "
        "json, text files with an id a line.", default=[]
    )  # fmt: skip
    unit: str = flag("enum", "video", "One item per video, or one per annotated segment, cut out.", enum_values=UNITS)
    label_from_folder: bool = flag("bool", False, "The folder a video lies in is its label.")
    classes: str = flag("string", "", "Class names, one a line, that fix their order; a data set's own file.")
    making: Making = dataclasses.field(default_factory=Making)
    videos_per_shard: int = flag("integer", 0, "Videos of a shard; 0 chooses.", lower_bound=0)
    processes: int = flag(
        "integer", -1, "Processes; -1: one per core, 1 with --features; 0: unprotected.", lower_bound=-1
    )
    shard: str = flag("string", "0/1", "i/n: this is host i of n; each takes every n-th shard.")
    timeout: float = flag("float", 600.0, "Seconds without progress after which a video is given up.", lower_bound=1)
    memory: float = flag("float", 4.0, "GiB that a process may take (not with --features); 0: no limit.", lower_bound=0)
    overwrite: bool = flag("bool", False, "Replace a prepared folder.")
    strict: bool = flag("bool", False, "Exit with status 2 where anything was left out or damaged.")


OPTIONS = (Options, Making)


def run(flags) -> int:
    """Runs `prepare` on absl flags and prints its summary."""
    size = flags.size
    if size is None:
        size = 0 if flags.features in NAMED else Making().size
    options = from_flags(Options, flags, making=from_flags(Making, flags, size=size))
    try:
        summary = prepare(options)
    except KeyboardInterrupt:
        print("the same command goes on with the shards that are not finished", file=sys.stderr)
        raise
    print(summary)
    return 2 if options.strict and len(summary.problems) + len(summary.noted) else 0


@dataclasses.dataclass
class Summary:
    """What became of the videos; `str` is the report. meta: of the finished folder, None while shards are missing.

    problems: what was left out. noted: what is kept but should be known: damaged videos, lost annotations.
    """

    output: str
    listed: int
    meta: dict | None = None
    made: int = 0
    left: int = 0
    problems: Problems = dataclasses.field(default_factory=Problems)
    noted: Problems = dataclasses.field(default_factory=Problems)
    seconds: float = 0.0

    def __str__(self) -> str:
        lines = [f"{self.listed} videos listed, {self.made} shards made in {self.seconds:.1f} s"]
        if len(self.problems):
            lines.append(self.problems.report())
        if len(self.noted):
            lines += [line.replace("left out", "note on", 1) for line in self.noted.report().splitlines()]
        if len(self.problems) + len(self.noted):
            lines.append(f"all of them: {self.output}/problems.jsonl")
        if self.meta is None:
            lines.append(f"{self.left} shards are still to be made, by other hosts or by the same command again")
            return "\n".join(lines)
        splits = ", ".join(f"{name} {count}" for name, count in self.meta["splits"].items()) or "none"
        kind = "features" if self.meta["making"]["features"] else "frames"
        lines.append(f"{self.meta['videos']} videos, {self.meta['rows']} {kind} in {self.output}")
        lines.append(f"classes: {len(self.meta['classes'])}; splits: {splits}; "
                     f"fingerprint {self.meta['fingerprint'][:16]}")  # fmt: skip
        return "\n".join(lines)


def prepare(options: Options, videos: Sequence[VideoRecord] | None = None, classes: Sequence[str] = ()) -> Summary:
    """Prepares a folder. videos: records to prepare, instead of those of options.input, with their class names.

    Raises:
      VtjaxError: nothing to prepare, nothing usable, or a folder that was begun with something else.
    """
    started = time.monotonic()
    host, hosts = _hosts(options.shard)
    if options.overwrite and hosts > 1:
        raise VtjaxError("--overwrite with several hosts would delete the others' work; remove the folder first")
    if options.making.weights and not options.making.features:
        raise VtjaxError(f"--weights={options.making.weights}: of which tower? Name it with --features")
    problems, notes = Problems(), Problems()
    if videos is None:
        videos, classes = listed_videos(options, problems, notes)
    present: dict[str, VideoRecord] = {}
    for video in videos:
        if video.path is None:
            unsought = options.dataset and not options.videos
            reason = "no file: --videos names the folder of the videos" if unsought else "its file was not found"
            problems.add(video.where, reason)
        elif video.id in present:
            first = present[video.id].where
            raise VtjaxError(f"{video.where} and {first}: two videos have the id {video.id!r}")
        else:
            present[video.id] = video
    if not present:
        raise VtjaxError(f"{options.input}: nothing to prepare\n{problems.report() or 'it holds no rows'}")
    folder = pathlib.Path(options.output)
    plan = make_plan(folder, list(present.values()), classes, options.making, options.videos_per_shard)
    begin(plan, options.overwrite)
    todo = [shard for shard in plan.unfinished() if shard % hosts == host]
    _work(plan, todo, options)
    listed = [
        {"where": p.where, "reason": p.reason, "detail": "", "kept": kept}
        for kept, some in ((False, problems), (True, notes)) for p in some.items
    ]  # fmt: skip
    meta = finish(plan, listed)
    summary = Summary(options.output, len(present), meta, len(todo), len(plan.unfinished()), problems, notes)
    _collect(plan, summary)
    summary.seconds = time.monotonic() - started
    if meta is not None and not meta["videos"]:
        raise VtjaxError(f"{options.input}: nothing usable\n{summary.problems.report()}")
    return summary


def _hosts(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match[1]) < int(match[2]):
        raise VtjaxError(f"--shard={text}: i/n with i from 0 to n - 1 is expected, for example 0/4")
    return int(match[1]), int(match[2])


def _work(plan, todo: list[int], options: Options) -> None:
    from tqdm import tqdm

    processes = options.processes
    if processes < 0:
        # A tower may own the accelerator, which only one process can.
        processes = 1 if options.making.features else (os.cpu_count() or 1)
    total = sum(len(plan.of(shard)) for shard in todo)
    with tqdm(total=total, desc="preparing", unit=" videos", mininterval=1.0, disable=None) as bar:

        def progress(event: tuple) -> None:
            if event[0] == "ready":
                bar.update(1)
            elif event[0] == "again":
                bar.update(-event[1])

        run_shards(
            plan,
            todo,
            processes=min(processes, max(len(todo), 1)) if processes else 0,
            timeout=options.timeout,
            memory=0.0 if options.making.features else options.memory,
            progress=progress,
        )


def _collect(plan, summary: Summary) -> None:
    """The problems of every finished shard."""
    for shard in range(plan.shards):
        if plan.sidecar(shard).is_file():
            for problem in read_json(plan.sidecar(shard), "")["problems"]:
                target = summary.noted if problem["kept"] else summary.problems
                target.add(problem["where"], problem["reason"])
