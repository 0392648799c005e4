"""Prepares motion: reads any supported layout, checks it, brings it to features, and writes a store."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from vtjax.data.motion.clip import FPS, MotionClip
from vtjax.data.motion.event_sources import INDICES, EventSource, is_generator, written_folder
from vtjax.data.motion.features import features_to_joints
from vtjax.data.motion.sources import assign_splits, mirrored, source_clips, to_source
from vtjax.data.motion.stitched_pairs import Source, clause_of, make_pairs
from vtjax.data.motion.store import MotionStore, write_store
from vtjax.data.motion.validate import check_features
from vtjax.data.options import flag, from_flags
from vtjax.data.readers.bvh import read_bvh
from vtjax.data.readers.coverage import Coverage
from vtjax.data.readers.humanml3d import SPLITS, read_humanml3d, read_split
from vtjax.data.readers.joint_arrays import read_joint_arrays
from vtjax.data.readers.tmr_annotations import read_tmr
from vtjax.errors import Problems, VtjaxError

FORMATS = ("auto", "bvh", "joints", "humanml3d", "tmr")
ANNOTATED = ("humanml3d", "tmr")  # features with their own split files
_SHARE: dict[str, Any] = {"lower_bound": 0, "upper_bound": 0.9}


@dataclasses.dataclass(frozen=True)
class Options:
    """What `prepare` does; each field is the flag of the same name."""

    input: tuple[str, ...] = flag("list", ..., "Files or folders to read, separated by commas.", required=True)
    output: str = flag("string", ..., "Folder to write.", required=True)
    format: str = flag("enum", "auto", "Layout of the input.", enum_values=FORMATS)
    joint_map: str = flag("string", "auto", "smpl22, bandai21, cmu_bvh, mixamo, a .json file, or auto by joint names.")
    fps: float | None = flag("float", None, "Frame rate of joint arrays that do not say it.", lower_bound=1)
    captions: str | None = flag(
        "string", None, "Captions file (.json or .csv with key,text), instead of the side files."
    )
    scale: str = flag("string", "auto", "Metres per unit of the input, or auto by the length of the legs.")
    up: str = flag("enum", "y", "The upward axis of the input.", enum_values=("y", "z"))
    features: str | None = flag("string", None, "TMR layout: folder of {path}.npy, where it is not the input's.")
    split_by: str = flag(
        "string", "sequence", "Unit that is held out: sequence, subject (key up to the first _), none, or a regular "
        "expression on the key whose first group names the unit."
    )  # fmt: skip
    holdout: float = flag("float", 0.25, "Share of the units held out as the split 'test'.", **_SHARE)
    validation: float = flag("float", 0.0, "Share of the units held out as the split 'val'.", **_SHARE)
    events: str = flag(
        "string", "rules", "rules, none, a folder of CAR event files {key}_{idx}.json, or a text generator: "
        "cache:PATH, call:module:function, http:URL#model."
    )  # fmt: skip
    events_cache: str | None = flag("string", None, "JSONL file that keeps the answers of a text generator.")
    write_events: str | None = flag(
        "string", None, "Folder to write event_texts/{key}_{idx}.json of every caption into."
    )
    event_index: str = flag(
        "enum", "unfiltered", "TMR layout: the caption's position that names its event file; filtered repeats the "
        "released training code's mistake.", enum_values=INDICES
    )  # fmt: skip
    min_frames: int = flag("integer", 10, "Shortest motion that is kept, in frames at 20 fps.", lower_bound=2)
    max_frames: int | None = flag(
        "integer", None, "Longest clip in frames; longer ones are cut (left out if annotated)."
    )
    window_seconds: float = flag(
        "float", 10.0, "Longer sequences are cut into even windows; 0 never cuts.", lower_bound=0
    )
    mirror: bool = flag("bool", False, "Add the left-right mirrored clip of every training clip.")
    stitch_pairs: int = flag(
        "integer", 0, "Write this many stitched pairs of clips instead of the clips.", lower_bound=0
    )
    segment_seconds: tuple[float, float] = flag(
        "list", (1.5, 4.0), "Shortest and longest segment of a stitched pair.", default=["1.5", "4.0"]
    )
    blend: int = flag("integer", 8, "Frames over which stitched segments are blended.", lower_bound=0)
    seed: int = flag("integer", 0, "Seed of splits and pairs.")
    overwrite: bool = flag("bool", False, "Replace the output folder where it is a prepared folder.")
    strict: bool = flag("bool", False, "Stop without writing where anything was left out.")


OPTIONS = (Options,)


def run(flags) -> int:
    """Runs `prepare` on absl flags and prints its summary."""
    try:
        seconds = tuple(float(v) for v in flags.segment_seconds)
    except ValueError:
        seconds = ()
    if len(seconds) != 2 or not 0 < seconds[0] <= seconds[1]:
        raise VtjaxError(f"--segment_seconds={','.join(flags.segment_seconds)}: two rising numbers are expected")
    print(prepare(from_flags(Options, flags, input=tuple(flags.input), segment_seconds=seconds)))
    return 0


@dataclasses.dataclass
class Summary:
    """What was read and what was written; `str` is the report."""

    output: str
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)
    splits: dict[str, int] = dataclasses.field(default_factory=dict)
    read: int = 0
    usable: int = 0
    notes: dict[str, int] = dataclasses.field(default_factory=dict)
    problems: Problems = dataclasses.field(default_factory=Problems)
    seconds: float = 0.0

    def note(self, text: str, count: int = 1) -> None:
        self.notes[text] = self.notes.get(text, 0) + count

    def __str__(self) -> str:
        lines = [f"read {self.read} motions, {self.usable} usable"]
        lines += [f"note: {text}" + (f" ({count})" if count > 1 else "") for text, count in self.notes.items()]
        if len(self.problems):
            lines.append(self.problems.report())
        if self.meta:
            clips = int(self.meta["clips"])
            splits = ", ".join(f"{name} {count}" for name, count in self.splits.items()) or "none"
            lines.append(
                f"wrote {clips} clips, {self.meta['captions']} captions, {self.meta['rows']} rows to {self.output} "
                f"({1000 * self.seconds / clips:.1f} ms per clip)"
            )
            lines.append(f"splits: {splits}; fingerprint {str(self.meta['fingerprint'])[:16]}")
        return "\n".join(lines)


def detect_format(path: pathlib.Path) -> str:
    """The layout of a file or folder. Raises VtjaxError where it is none of the known ones."""
    if not path.exists():
        raise VtjaxError(f"{path}: no such file or folder")
    if path.is_dir():
        if (path / "new_joint_vecs").is_dir():
            return "humanml3d"
        if (path / "annotations.json").is_file():
            return "tmr"
        names = {p.suffix.lower() for p in path.rglob("*") if p.is_file()}
        if ".bvh" in names:
            return "bvh"
        if names & {".npy", ".npz"}:
            return "joints"
        raise VtjaxError(
            f"{path}: no motions found: a folder of .bvh, .npy or .npz, HumanML3D's, or TMR's is expected; "
            "videos are prepared with --kind=video"
        )
    if path.name == "annotations.json":
        return "tmr"
    known = {".bvh": "bvh", ".npy": "joints", ".npz": "joints"}
    if path.suffix.lower() not in known:
        raise VtjaxError(f"{path}: unknown kind of file; {', '.join(known)} or annotations.json is expected")
    return known[path.suffix.lower()]


def prepare(options: Options) -> Summary:
    """Reads every input and writes the store. Raises VtjaxError where nothing is usable, or on anything if strict."""
    start = time.monotonic()
    run = _Run(options)
    summary = run.summary
    meta: dict[str, object] = {}
    clips = run.clips()

    def finished() -> Iterator:
        yield from _progress(clips, "features")
        if not summary.usable:
            raise VtjaxError(f"nothing usable in {', '.join(options.input)}\n{summary}")
        if options.strict and len(summary.problems):
            raise VtjaxError(f"--strict: {len(summary.problems)} problems, nothing is written\n{summary}")
        meta.update(
            source=list(options.input),
            options={k: v for k, v in dataclasses.asdict(options).items() if k not in ("input", "output")},
            world="",
            left_out=summary.problems.counts(),
            notes=summary.notes,
        )

    summary.meta = write_store(
        options.output, finished(), meta=meta, splits=run.splits, subsets=run.subsets, overwrite=options.overwrite
    )
    summary.splits = MotionStore(options.output).splits
    if run.written is not None:
        summary.note(f"event files written to {run.written}", run.events.write(run.written))
    summary.seconds = time.monotonic() - start
    return summary


def _progress(items, name: str):
    from tqdm import tqdm

    return tqdm(items, desc=name, unit=" clips", mininterval=1.0, disable=None)


class _Run:
    """One run of `prepare`. splits: key -> split of every clip so far. subsets: further lists of keys by name.

    formats: layout of every input. events: what gives captions their events. written: the folder that event files are
    written to, None for none. Raises VtjaxError on options that do not go together.
    """

    def __init__(self, options: Options):
        self.options, self.summary = options, Summary(options.output)
        self.splits: dict[str, str] = {}
        self.subsets: dict[str, list[str]] = {}
        self.formats = {name: options.format if options.format != "auto" else detect_format(pathlib.Path(name))
                        for name in options.input}  # fmt: skip
        if len({f in ANNOTATED for f in self.formats.values()}) > 1:
            raise VtjaxError("layouts with their own split files cannot be prepared together with bare joints")
        self.annotated = self.formats[options.input[0]] in ANNOTATED
        if self.annotated and options.mirror:
            raise VtjaxError("--mirror: HumanML3D and TMR folders already hold mirrored ids (M...)")
        choice = options.events
        if options.event_index == "filtered" and set(self.formats.values()) != {"tmr"}:
            raise VtjaxError("--event_index=filtered repeats what the released code does with TMR's annotations.json")
        if options.stitch_pairs:
            if choice not in ("rules", "none"):
                raise VtjaxError(f"--events={choice}: stitched pairs know their events; leave --events out")
            choice = "none"
        elif options.write_events and choice == "none":
            raise VtjaxError("--write_events: there are no events to write with --events=none")
        if is_generator(choice) and not options.events_cache and not choice.startswith("cache:"):
            remedy = "--events_cache=FILE.jsonl keeps them for the next run"
            self.summary.note(f"the text generator's answers are not kept; {remedy}")
        index, cache = options.event_index, options.events_cache
        self.events = EventSource(choice, self.summary.problems, cache=cache, index=index)
        self.written = written_folder(options.write_events, options.overwrite) if options.write_events else None

    def clips(self) -> Iterator[MotionClip]:
        """Yields what is to be stored."""
        clips = self._annotated_clips() if self.annotated else None
        if clips is None or self.options.stitch_pairs:
            sources = self._read_sources() if clips is None else self._sources_of(clips)
            clips = self._pairs(sources) if self.options.stitch_pairs else self._clips(sources)
            self.subsets.clear()
        return self._with_mirrored(clips) if self.options.mirror else clips

    def _read_sources(self) -> list[Source]:
        """Every usable motion of bare-joint inputs as a Source with its split."""
        sources, options, summary = [], self.options, self.summary
        for name, kind in self.formats.items():
            common: dict[str, Any] = {"captions": options.captions, "problems": summary.problems}
            raws = read_bvh(name, **common) if kind == "bvh" else read_joint_arrays(name, fps=options.fps, **common)
            for raw in _progress(raws, f"reading {name}"):
                summary.read += 1
                source, note = to_source(raw, self.options, summary.problems)
                if source is not None:
                    sources.append(source)
                    if note:
                        summary.note(note)
        summary.usable = len(sources)
        if not sources:
            raise VtjaxError(f"nothing usable in {', '.join(self.formats)}\n{summary}")
        silent = sum(not s.captions for s in sources)
        if silent:
            summary.note("motions without any caption: they can be searched, not trained on", silent)
        # Pairs need both sides, and a label's only source has to be trained on; windows follow their source.
        return assign_splits(sources, options.split_by, options.holdout, options.validation, options.seed)

    def _clips(self, sources: Sequence[Source]) -> Iterator[MotionClip]:
        for source in sources:
            source = dataclasses.replace(source, captions=self.events.attach(source.key, source.captions))
            for clip in source_clips(source, self.options.window_seconds, self.options.max_frames):
                self.splits[clip.key] = source.split
                yield clip

    def _pairs(self, sources: Sequence[Source]) -> Iterator[MotionClip]:
        """Pairs within each split: the test's share of them is the holdout, the validation's its own."""
        options, summary = self.options, self.summary
        least, most = (max(2, round(s * FPS)) for s in options.segment_seconds)
        present = {s.split for s in sources}
        shares = {"test": options.holdout, "val": options.validation}
        counts = {name: round(options.stitch_pairs * share) if name in present else 0 for name, share in shares.items()}
        counts = {"train": options.stitch_pairs - sum(counts.values()), **counts}
        for source in sources:
            if not source.clause:
                summary.problems.add(source.key, "no caption to make a pair's sentence of")
        for split, count in counts.items():
            if count:
                part = [s for s in sources if s.split == split]
                text = f"{split} pairs are made of {len(part)} source motions, none of them in another split"
                summary.note(text, count)
                drawn = {"seed": options.seed, "blend": options.blend}
                for clip in make_pairs(part, count, segment_frames=(least, most), **drawn):
                    self.splits[clip.key] = split
                    self.events.remember(clip.key, clip.captions)
                    yield clip

    def _with_mirrored(self, clips: Iterator[MotionClip]) -> Iterator[MotionClip]:
        """Every clip, and after each training clip its mirrored twin."""
        for clip in clips:
            yield clip
            if self.splits.get(clip.key) == "train":
                twin = mirrored(clip)
                self.splits[twin.key] = "train"
                yield twin

    def _annotated_clips(self) -> Iterator[MotionClip]:
        """Clips of HumanML3D and TMR folders, with coverage per split noted; fills splits and subsets."""
        options, summary = self.options, self.summary
        limits = {"min_frames": options.min_frames, "max_frames": options.max_frames}
        for name, kind in self.formats.items():
            root = pathlib.Path(name)
            root = root.parent if root.is_file() else root
            listed = [s for s in SPLITS if (root / f"{s}.txt").is_file()]
            if not listed:
                raise VtjaxError(f"{root}: no split files; at least one of train.txt, val.txt and test.txt is expected")
            if (root / "nsim_test.txt").is_file():
                self.subsets["nsim_test"] = read_split(root / "nsim_test.txt")
            for split in listed:
                coverage = Coverage(split)
                common: dict[str, Any] = {"problems": summary.problems, "coverage": coverage}
                if kind == "humanml3d":
                    clips = read_humanml3d(root, split, **common)
                else:
                    clips = read_tmr(root, split, features=options.features, **common)
                for clip in clips:
                    if not check_features(clip.features, clip.key, problems=summary.problems, **limits):
                        continue
                    self.splits[clip.key] = split
                    summary.usable += 1
                    yield dataclasses.replace(clip, captions=self.events.attach(clip.key, clip.captions))
                summary.read += coverage.listed
                summary.note(coverage.report())

    def _sources_of(self, clips: Iterator[MotionClip]) -> list[Source]:
        """Clips of features as sources of stitched pairs: the whole clip and its first whole-clip caption."""
        sources = []
        for clip in clips:
            whole = [c for c in clip.captions if c.start is None]
            clause = clause_of(whole[0].text) if whole else ""
            joints = features_to_joints(clip.features, last_frame=True)
            sources.append(Source(clip.key, joints, clip.captions, "", clause, self.splits[clip.key]))
        if not sources:
            raise VtjaxError(f"nothing usable\n{self.summary}")
        self.splits.clear()
        return sources
