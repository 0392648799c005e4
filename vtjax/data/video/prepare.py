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

from vtjax.data.readers.leakage import evaluation_ids, without
from vtjax.data.video.chunks import CODECS, DTYPES
from vtjax.data.video.items import UNITS
from vtjax.data.video.listing import own_videos, published
from vtjax.data.video.plan import begin, finish, make_plan
from vtjax.data.video.shards import FITS, Making
from vtjax.data.video.towers import NAMED
from vtjax.data.video.workers import run_shards
from vtjax.data.video_records import VideoRecord
from vtjax.errors import Problems, VtjaxError

_MAKING = {field.name: field.default for field in dataclasses.fields(Making)}


@dataclasses.dataclass(frozen=True)
class Options:
    """What `prepare` does; each field, and each of Making, is the flag of the same name."""

    output: str
    input: str = ""
    videos: str = ""
    dataset: str = ""
    split: str = ""
    option: Sequence[str] = ()
    exclude: Sequence[str] = ()
    unit: str = "video"
    label_from_folder: bool = False
    classes: str = ""
    making: Making = dataclasses.field(default_factory=Making)
    videos_per_shard: int = 0
    processes: int = -1
    shard: str = "0/1"
    timeout: float = 600.0
    memory: float = 4.0
    overwrite: bool = False
    strict: bool = False


def define_flags() -> None:
    """Defines the flags of `--kind=video`."""
    from absl import flags

    flags.DEFINE_string("input", None, "Folder of videos, or a list .csv, .tsv, .json, .jsonl.", required=True)
    flags.DEFINE_string("output", None, "Folder to write.", required=True)
    flags.DEFINE_string("videos", "", "Folder that the list's files are relative to, where it is not the list's own.")
    flags.DEFINE_string("dataset", "", "Read --input as this published data set (see vtjax/data/readers).")
    flags.DEFINE_string("split", "", "Split of the data set; by default its reader's.")
    flags.DEFINE_multi_string("option", [], "name=value for the data set's reader: fold=2, annotated=false, ...")
    flags.DEFINE_list(
        "exclude", [], "Evaluation sets whose videos are left out, to train on the rest: HT-Step's folder, HTM-Align's "
        "json, text files with an id a line."
    )  # fmt: skip
    flags.DEFINE_enum("unit", "video", UNITS, "One item per video, or one per annotated segment, cut out.")
    flags.DEFINE_bool("label_from_folder", False, "The folder a video lies in is its label.")
    flags.DEFINE_string("classes", "", "Class names, one a line, that fix their order; a data set's own file.")
    flags.DEFINE_float("fps", _MAKING["fps"], "Frames per second that are kept; 0 keeps every frame.", 0)
    flags.DEFINE_float("offset", _MAKING["offset"], "Place of a frame in its step of 1/fps: 0.5 its middle.", 0, 0.99)
    flags.DEFINE_integer(
        "size", None, "Pixels, see --fit; 0 keeps the size, or leaves it to a tower that knows its own, which is the "
        f"default with a named tower; else {_MAKING['size']}.", 0
    )  # fmt: skip
    flags.DEFINE_enum(
        "fit", _MAKING["fit"], FITS, "short: the shorter side becomes --size, never enlarged; crop: and the centre is "
        "cut out; squash: both sides become --size."
    )  # fmt: skip
    flags.DEFINE_enum("codec", _MAKING["codec"], CODECS, "How frames are kept; all but jpeg keep every bit.")
    flags.DEFINE_integer("quality", _MAKING["quality"], "Of jpeg.", 1, 100)
    flags.DEFINE_string(
        "features", "", f"Keep these of a tower instead of frames: {', '.join(NAMED)}, or module:function from uint8 "
        "[batch, H, W, 3] (RGB) to floats [batch, ...]; see vtjax/data/video/towers.py."
    )  # fmt: skip
    flags.DEFINE_string("weights", "", "Of the tower: a published CLIP (folder, file, hub id) or a run of vtjax.train.")
    flags.DEFINE_enum("feature_dtype", _MAKING["feature_dtype"], DTYPES, "Type of the features on disk.")
    flags.DEFINE_integer("frames_per_feature", 1, "With more than 1 the tower sees [batch, frames, H, W, 3].", 1)
    flags.DEFINE_integer("batch", _MAKING["batch"], "Items that the tower sees at once, always as many.", 1)
    flags.DEFINE_integer("chunk_rows", _MAKING["chunk_rows"], "Frames or features that are stored together.", 1)
    flags.DEFINE_float("min_decoded", _MAKING["min_decoded"], "Share of a damaged video that must be intact.", 0, 1)
    flags.DEFINE_integer("max_pixels", _MAKING["max_pixels"], "Largest frame, in pixels.", 1)
    flags.DEFINE_integer("videos_per_shard", 0, "Videos of a shard; 0 chooses.", 0)
    flags.DEFINE_integer("processes", -1, "Processes; -1: one per core, 1 with --features; 0: unprotected.", -1)
    flags.DEFINE_string("shard", "0/1", "i/n: this is host i of n; each takes every n-th shard.")
    flags.DEFINE_float("timeout", 600.0, "Seconds without progress after which a video is given up.", 1)
    flags.DEFINE_float("memory", 4.0, "GiB that a process may take (not with --features); 0: no limit.", 0)
    flags.DEFINE_bool("overwrite", False, "Replace a prepared folder.")
    flags.DEFINE_bool("strict", False, "Exit with status 2 where anything was left out or damaged.")


def run(flags) -> int:
    """Runs `prepare` on absl flags and prints its summary."""
    values = {name: getattr(flags, name) for name in _MAKING}
    if values["size"] is None:
        values["size"] = 0 if flags.features in NAMED else _MAKING["size"]
    making = Making(**values)
    names = [f.name for f in dataclasses.fields(Options) if f.name != "making"]
    options = Options(making=making, **{name: getattr(flags, name) for name in names})
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
        videos, classes = _listed(options, problems, notes)
    found = []
    for video in videos:
        if video.path is None:
            unsought = options.dataset and not options.videos
            reason = "no file: --videos names the folder of the videos" if unsought else "its file was not found"
            problems.add(video.where, reason)
        else:
            found.append(video)
    if not found:
        raise VtjaxError(f"{options.input}: nothing to prepare\n{problems.report() or 'it holds no rows'}")
    _unique(found)
    folder = pathlib.Path(options.output)
    plan = make_plan(folder, found, classes, options.making, options.videos_per_shard)
    begin(plan, options.overwrite)
    todo = [shard for shard in plan.unfinished() if shard % hosts == host]
    _work(plan, todo, options)
    listed = [
        {"where": p.where, "reason": p.reason, "detail": "", "kept": kept}
        for kept, some in ((False, problems), (True, notes)) for p in some.items
    ]  # fmt: skip
    meta = finish(plan, listed)
    summary = Summary(options.output, len(found), meta, len(todo), len(plan.unfinished()), problems, notes)
    _collect(plan, summary)
    summary.seconds = time.monotonic() - started
    if meta is not None and not meta["videos"]:
        raise VtjaxError(f"{options.input}: nothing usable\n{summary.problems.report()}")
    return summary


def _listed(options: Options, problems: Problems, notes: Problems) -> tuple[Sequence[VideoRecord], Sequence[str]]:
    same = {"videos": options.videos, "classes": options.classes}
    exclude = evaluation_ids(options.exclude)
    own = {"unit": options.unit, "label_from_folder": options.label_from_folder}
    published_only = {"split": options.split, "option": options.option}
    for name, value in (own if options.dataset else published_only).items():
        if value and value != "video":
            raise VtjaxError(f"--{name}={value}: is {'not ' if options.dataset else ''}for --dataset")
    if options.dataset:
        same |= {"split": options.split, "exclude": exclude, "options": options.option}
        found, classes = published(options.dataset, options.input, problems, notes, **same)
    else:
        found, classes = own_videos(options.input, problems, **own, **same)
    return without(found, exclude, problems), classes


def _unique(videos: Sequence[VideoRecord]) -> None:
    seen: dict[str, str] = {}
    for video in videos:
        if video.id in seen:
            raise VtjaxError(f"{video.where} and {seen[video.id]}: two videos have the id {video.id!r}")
        seen[video.id] = video.where


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
    from vtjax.data.video.store import read_json

    for shard in range(plan.shards):
        if plan.sidecar(shard).is_file():
            for problem in read_json(plan.sidecar(shard), "")["problems"]:
                target = summary.noted if problem["kept"] else summary.problems
                target.add(problem["where"], problem["reason"])
