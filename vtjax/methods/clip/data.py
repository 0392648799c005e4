"""Videos of a run and of a search: which parts of them there are, their texts, and what a batch holds of them."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from vtjax.data.video.container import VideoError
from vtjax.data.video.excerpt import excerpt
from vtjax.data.video.items import LISTS, read_items
from vtjax.data.video.sampling import Sampler
from vtjax.data.video.source import ClipSource, VideoHandle, VideoSource, read_clip
from vtjax.data.video.store import VideoStore
from vtjax.data.video_records import VideoRecord
from vtjax.encoders.clip_config import ClipConfig, ClipDataConfig
from vtjax.encoders.image import ImageTransform
from vtjax.errors import Problems, VtjaxError, nearest
from vtjax.text.class_prompts import ClassSet, filled, named_classes
from vtjax.text.tokenizer import Tokenizer
from vtjax.worlds.workshop_classes import pair_classes
from vtjax.worlds.workshop_clips import WorkshopClips, world_clips

Span = tuple[float, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A video, or a part of it, with what is said of it.

    index: in the source it comes from. span: seconds, None for all of the record. texts: sentences, of which training
    draws one; the first is canonical. backwards: the same wordings for the clip played backwards, or none. label: class
    index or -1.
    """

    index: int
    key: str
    span: Span | None
    texts: tuple[str, ...]
    backwards: tuple[str, ...] = ()
    label: int = -1


class Rows(ClipSource):
    """Rows of a source, as a source of its own, so that a bad video is only ever replaced by one of the same split.

    log: as in ClipSource.
    """

    def __init__(self, source: ClipSource, rows: Sequence[Row], log: pathlib.Path | None = None):
        super().__init__(log)
        self.source, self.rows = source, list(rows)
        self.place = {row.key: i for i, row in enumerate(self.rows)}

    def __len__(self) -> int:
        return len(self.rows)

    def record(self, index: int) -> VideoRecord:
        """The video's record under the row's key."""
        row = self.rows[index]
        return dataclasses.replace(self.source.record(row.index), id=row.key, label=row.label)

    def open(self, index: int):
        """The row's part of its video. Raises VideoError."""
        row = self.rows[index]
        return excerpt(self.source.open(row.index), row.span)

    def texts(self) -> list[str]:
        """Every distinct text, the backward ones included."""
        return list(dict.fromkeys(t for row in self.rows for t in (*row.texts, *row.backwards)))


@dataclasses.dataclass
class Videos:
    """The source that a configuration names. classes: what its labels mean, None where no video has a label."""

    source: WorkshopClips | VideoStore
    fingerprint: str
    classes: ClassSet | None
    config: ClipDataConfig

    def rows(self, split: str, limit: int = 0, log: pathlib.Path | None = None) -> Rows:
        """Rows of one split that have a text, the first `limit` of them where that is set.

        Raises:
          VtjaxError: unknown split, or no text in it.
        """
        rows: list[Row] = []
        for index in self._split(split):
            rows += self._rows(index)
            if limit and len(rows) >= limit:
                break
        if not rows:
            raise VtjaxError(
                f"{self._name}: no video of split {split!r} has a caption, a label or a narration; "
                "name them in the list that vtjax.prepare reads"
            )
        return Rows(self.source, rows[:limit] if limit else rows, log)

    def has_split(self, split: str) -> bool:
        return split in self._splits

    @property
    def _name(self) -> str:
        return "the workshop world" if self.config.source == "world" else self.config.source

    @property
    def _splits(self) -> tuple[str, ...]:
        return tuple(self.source.splits) or ("train", "test")

    def _split(self, split: str) -> list[int]:
        if split not in self._splits:
            raise VtjaxError(f"{self._name}: no split {split!r}: {nearest(split, self._splits)}")
        if self.source.splits:
            return self.source.split(split)
        return divided(self.source, self.config.holdout)[split == "test"]

    def _rows(self, index: int) -> list[Row]:
        if isinstance(self.source, WorkshopClips):
            item = self.source.items[index]
            return [Row(index, str(index), None, tuple(item["captions"]), tuple(item["backwards"]), item["class"])]
        return rows_of(self.source.record(index), index, self.config.templates)


def open_videos(config: ClipConfig, size: int, cache: pathlib.Path) -> Videos:
    """What `config.data.source` names: the world, drawn where needed at `size` pixels, or a prepared folder.

    Raises:
      VtjaxError: no prepared folder there, or one of features.
    """
    data = config.data
    if data.source == "world":
        counts = {"train": data.world_train, "val": data.val_size, "test": data.world_test}
        clips = world_clips(counts, seed=data.world_seed, size=size, frames=data.world_frames, cache=cache)
        return Videos(clips, clips.fingerprint, pair_classes(), data)
    store = VideoStore(data.source)
    if store.meta["making"]["features"]:
        raise VtjaxError(f"{data.source}: holds features; this method learns from frames, prepare without --features")
    classes = named_classes(store.classes, data.templates) if store.classes else None
    return Videos(store, store.fingerprint, classes, data)


def open_source(path: str, problems: Problems) -> ClipSource:
    """Videos at `path`: a prepared folder, a folder of files, one file, or a list that vtjax.prepare reads.

    Raises:
      VtjaxError: nothing usable there.
    """
    place = pathlib.Path(path)
    if (place / "meta.json").is_file():
        return VideoStore(place)
    unit = "segment" if place.suffix.lower() in LISTS else "video"
    records, _ = read_items(path, problems, unit=unit)
    records = [r for r in records if r.path is not None]
    if not records:
        raise VtjaxError(f"{path}: no video there\n{problems.report()}".strip())
    return VideoSource(records)


def state_of(source: ClipSource) -> Hashable:
    """Equal for what `open_source` gives as long as the videos and what is said of them stay as they are."""
    if isinstance(source, VideoStore):
        return source.fingerprint
    records = [source.record(i) for i in range(len(source))]
    files = [pathlib.Path(r.path).stat() if pathlib.Path(r.path).exists() else None for r in records]
    return repr([(r, f and (f.st_size, f.st_mtime_ns)) for r, f in zip(records, files, strict=True)])


def windows(source: ClipSource, seconds: float, problems: Problems) -> Rows:
    """Every readable video as one row, or, with `seconds` above 0, as windows of that length, half overlapping.

    Raises:
      VtjaxError: none can be read.
    """
    rows = []
    for index in range(len(source)):
        record = source.record(index)
        try:
            with source.open(index) as video:
                start, end = float(video.start), float(video.end)
        except VideoError as error:
            problems.add(error.where, error.reason)
            continue
        texts = tuple(c.text for c in record.captions)
        if seconds <= 0 or end - start <= seconds:
            rows.append(Row(index, record.id, None, texts))
            continue
        count = int(np.ceil((end - start - seconds) / (seconds / 2))) + 1
        for begin in np.linspace(start, end - seconds, count):
            span = (float(begin), float(begin + seconds))
            # An excerpt of an excerpt counts on the same clock.
            rows.append(Row(index, f"{record.id}@{span[0]:.2f}-{span[1]:.2f}", span, texts))
    if not rows:
        raise VtjaxError(f"no video can be read\n{problems.report()}")
    return Rows(source, rows)


def divided(source: ClipSource, share: float) -> tuple[list[int], list[int]]:
    """(train, test) indices of a folder without splits: parts of one video are on one side, whatever their order.

    Raises:
      VtjaxError: one video only.
    """
    videos = [source.record(i).video for i in range(len(source))]
    ranked = sorted(set(videos), key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(ranked) < 2:
        raise VtjaxError("one video cannot be divided into training and test; give its rows a split column")
    test = set(ranked[: min(max(1, round(share * len(ranked))), len(ranked) - 1)])
    sides: tuple[list[int], list[int]] = [], []
    for index, video in enumerate(videos):
        sides[video in test].append(index)
    return sides


def rows_of(record: VideoRecord, index: int, templates: Sequence[str]) -> list[Row]:
    """What is said of a video, by the part that it is said of.

    Captions come first, then class names through the templates, for parts without a caption; narrations only where a
    video has neither. Parts without any text give no row.
    """
    captions: dict[Span | None, list[str]] = {}
    labels: dict[Span | None, tuple[int, str]] = {}
    for caption in record.captions:
        captions.setdefault(_span(caption.start, caption.end), []).append(caption.text)
    for segment in record.segments:
        labels[_span(segment.start, segment.end)] = (segment.label, segment.text)
    whole = record.span
    if record.class_name:
        labels[whole] = (record.label, record.class_name)
    if whole is not None and None in captions:
        captions.setdefault(whole, []).extend(captions.pop(None))
    if not captions and not labels:
        for narration in record.narrations:
            captions.setdefault(_span(narration.start, narration.end), []).append(narration.text)
    rows = []
    for span in dict.fromkeys([*captions, *labels]):
        label, name = labels.get(span, (-1, ""))
        texts = captions.get(span) or filled(templates, name)
        part = None if span == whole else span  # the source has cut the record's own span out already
        key = record.id if part is None else f"{record.id}@{span[0]:g}-{span[1]:g}"
        rows.append(Row(index, key, part, tuple(dict.fromkeys(texts)), label=label))
    return rows


def _span(start: float | None, end: float | None) -> Span | None:
    return None if start is None or end is None else (start, end)


def sampler_of(config: ClipConfig) -> Sampler:
    """Which frames of a clip the model sees."""
    return Sampler(config.data.sampling, config.model.frames, config.data.stride, config.data.rate)


class TrainTransform:
    """A handle of `Rows` and the position's rng to one training example of task.example_spec; picklable."""

    def __init__(self, config: ClipConfig, size: int, tokenizer: Tokenizer, length: int):
        self.config, self.tokenizer, self.length = config, tokenizer, length
        self.sampler, self.image = sampler_of(config), ImageTransform(size, resize=config.data.resize)

    def __call__(self, handle: VideoHandle, rng: np.random.Generator) -> dict[str, np.ndarray]:
        clip = read_clip(handle, self.sampler, rng)
        source: Any = handle.source  # a Rows, or one that was unpickled
        row = source.rows[source.place[clip.record.id]]
        choice = int(rng.integers(len(row.texts)))
        example = {
            "frames": self.image.pixels(augmented(clip.frames, rng, self.config.data)),
            "frame_mask": clip.mask,
            "substitute": np.asarray(clip.substitute),
        }
        texts = [row.texts[choice]]
        if self.config.loss.backwards:
            # Rows without such a caption repeat their own; backwards_valid keeps them out of the loss.
            texts.append(row.backwards[choice] if row.backwards else texts[0])
            example["backwards_valid"] = np.asarray(bool(row.backwards))
        ids, _ = self.tokenizer.encode(texts, self.length)
        example["text_ids"] = ids[0]
        if self.config.loss.backwards:
            example["backwards_ids"] = ids[1]
        return example


def augmented(frames: np.ndarray, rng: np.random.Generator, config: ClipDataConfig) -> np.ndarray:
    """uint8 [T, H, W, 3] -> the same cropped, mirrored and brightened alike in all frames, uint8 [T, h, w, 3].

    The same numbers are drawn from rng whatever is switched on.
    """
    scale, top, left, mirror, gain = rng.random(5)
    if config.crop < 1:
        height, width = frames.shape[1:3]
        side = config.crop + (1 - config.crop) * scale
        h, w = max(1, round(side * height)), max(1, round(side * width))
        y, x = int(top * (height - h + 1)), int(left * (width - w + 1))
        frames = frames[:, y : y + h, x : x + w]
    if config.flip and mirror < 0.5:
        frames = frames[:, :, ::-1]
    if config.brightness:
        factor = 1 + config.brightness * (2 * gain - 1)
        frames = np.clip(np.rint(frames * np.float32(factor)), 0, 255).astype(np.uint8)
    return frames
