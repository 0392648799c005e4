"""Videos as frame features at 4 a second with what is said of their parts, and windows of them to train on."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from absl import logging

from vtjax.config import Experiment
from vtjax.data.video_records import VideoRecord
from vtjax.encoders.frames import FrameEncoder
from vtjax.errors import MissingSplit, Problems, VtjaxError, nearest
from vtjax.files import write_atomically
from vtjax.methods.ovoad.captions import CaptionRecipe
from vtjax.methods.ovoad.classes import ClassSet, named_classes, world_classes
from vtjax.methods.ovoad.config import OvoadConfig, OvoadDataConfig, span_of, window_of
from vtjax.text.tokenizer import Tokenizer
from vtjax.worlds.drawn import Drawn, cache_folder
from vtjax.worlds.workshop_streams import SPLITS, world_streams


@dataclasses.dataclass
class FeatureVideo:
    """One video of L frames.

    Attributes:
      features: float [L, D].
      spans: wordings of every annotated part, of which one is said at a time.
      labels: class of every part, or -1.
      frame_span: int32 [L], the part that is said of a frame, or -1.
      rows: of every part, [first, after the last); they may overlap.
      fps: frames per second.
      frames: gives the pictures uint8 [L, H, W, 3], or None.
    """

    key: str
    features: np.ndarray
    spans: tuple[tuple[str, ...], ...]
    labels: tuple[int, ...]
    frame_span: np.ndarray
    rows: tuple[tuple[int, int], ...]
    fps: float
    frames: Callable[[], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.features)

    def targets(self, classes: int) -> np.ndarray:
        """uint8 [L, classes], several ones where parts overlap; column 0 is the background, 1 where nothing is."""
        table = np.zeros((len(self), classes), np.uint8)
        for label, (begin, end) in zip(self.labels, self.rows, strict=True):
            if label >= 0:
                table[begin:end, label] = 1
        table[:, 0] = ~table[:, 1:].any(axis=1)
        return table


def annotated(videos: Sequence[FeatureVideo]) -> bool:
    """Says whether any part of the videos has a class."""
    return any(label > 0 for video in videos for label in video.labels)


def rasterise(start: float, end: float, length: int, fps: float, rule: str) -> tuple[int, int]:
    """Converts a part given in seconds to rows [begin, end) among `length`.

    rule: "lstr": floor(fps s) to ceil(fps e) - 1. "early": the released code's, which begins one row earlier.
    """
    first, last = int(np.floor(fps * start)), int(np.ceil(fps * end))
    if rule == "early":
        return max(first, 1) - 1, min(last, length)
    return min(max(first, 0), length), min(max(last, 0), length)


def feature_video(
    key: str,
    features: np.ndarray,
    parts: Sequence[tuple[int, int, Sequence[str], int]],
    fps: float,
    frames: Callable[[], np.ndarray] | None = None,
) -> FeatureVideo:
    """Makes a video of its parts: (first row, row after the last, wordings, class or -1).

    Where parts overlap the later one is said; one without wordings is scored against and never said.
    """
    frame_span = np.full(len(features), -1, np.int32)
    for number, (begin, end, texts, _) in enumerate(parts):
        if texts:
            frame_span[begin:end] = number
    return FeatureVideo(
        key, features, tuple(tuple(p[2]) for p in parts), tuple(p[3] for p in parts), frame_span,
        tuple((p[0], p[1]) for p in parts), fps, frames,
    )  # fmt: skip


def open_split(
    experiment: Experiment, work: pathlib.Path, split: str, encoder: FrameEncoder | None
) -> tuple[list[FeatureVideo], ClassSet, str]:
    """Opens a split: its videos, the classes that their labels count in, and a fingerprint of the data.

    Raises:
      MissingSplit: there is no such split.
      VtjaxError: a folder that cannot be used, or features of another width than the model's.
    """
    config = experiment.method
    opened = _world(experiment, work, split, encoder) if config.data.source == "world" else _prepared(config, split)
    wrong = next((v for v in opened[0] if v.features.shape[1:] != (config.model.width,)), None)
    if wrong is not None:
        raise VtjaxError(
            f"{wrong.key}: features of {wrong.features.shape[1:]} values, but config.method.model.width="
            f"{config.model.width}; they must come from the encoder that the model is made for"
        )
    return opened


def _world(
    experiment: Experiment, work: pathlib.Path, split: str, encoder: FrameEncoder | None
) -> tuple[list[FeatureVideo], ClassSet, str]:
    config = experiment.method
    if split not in SPLITS:
        raise MissingSplit(f"the workshop world: no split {split!r}: {nearest(split, SPLITS)}")
    count = {"train": config.data.world_train, "val": config.data.val_size}.get(split, config.data.world_test)
    streams = world_streams(
        split, count, seed=config.data.world_seed, size=encoder.image_size, fps=config.data.fps,
        cache=cache_folder(experiment, work),
    )  # fmt: skip
    features = _world_features(streams, split, encoder, work)
    classes = world_classes(config)
    videos = []
    for i, item in enumerate(streams.items):
        parts = [(s["begin"], s["end"], s["captions"], 1 + s["label"]) for s in item["segments"]]
        frames = lambda i=i: streams.frames[i]
        videos.append(feature_video(item["key"], features[i], parts, config.data.fps, frames))
    return videos, classes, f"{streams.fingerprint}-{encoder.fingerprint}"


def _world_features(streams: Drawn, split: str, encoder: FrameEncoder, work: pathlib.Path) -> np.ndarray:
    """float32 [streams, L, D], computed once in a work directory."""
    digest = hashlib.sha256(f"{streams.fingerprint}-{encoder.fingerprint}".encode()).hexdigest()
    path = work / "features" / f"{split}-{digest[:12]}.npy"
    if not path.is_file():
        shape = streams.frames.shape[:2]
        flat = encoder.features(frame for stream in streams.frames for frame in stream)
        content = io.BytesIO()
        np.save(content, flat.reshape(*shape, -1))
        write_atomically(path, content.getvalue())
    return np.load(path, mmap_mode="r")


def _prepared(config: OvoadConfig, split: str) -> tuple[list[FeatureVideo], ClassSet, str]:
    from vtjax.data.video.store import VideoStore

    data = config.data
    store = VideoStore(data.source)
    if not store.meta["making"]["features"]:
        raise VtjaxError(
            f"{data.source}: holds frames; prepare with --fps={data.fps:g} --features=module:function, a function "
            "that calls the encoder (vtjax/encoders/frames.py, FrameEncoder.features)"
        )
    names = list(store.classes)
    classes = named_classes([n for n in names if n], config) if any(names) else named_classes(["action"], config)
    place = {name: i for i, name in enumerate(classes.names)}
    problems, videos = Problems(), []
    for index in store.split(split):
        record = store.record(index)
        with store.open(index) as video:
            if abs(video.fps - data.fps) > 0.01 * data.fps:
                raise VtjaxError(
                    f"{record.where}: {video.fps:g} features a second, config.method.data.fps={data.fps:g}; "
                    f"prepare with --fps={data.fps:g}"
                )
            features = video.frames(np.arange(len(video))).reshape(len(video), -1)
        parts = _parts(record, len(features), data, names, place, problems)
        videos.append(feature_video(record.id, features, parts, data.fps))
    if len(problems):
        logging.warning("%s", problems.report())
    return videos, classes, f"{store.fingerprint}-{split}"


def _parts(
    record: VideoRecord,
    length: int,
    data: OvoadDataConfig,
    names: Sequence[str],
    place: dict[str, int],
    problems: Problems,
) -> list[tuple[int, int, Sequence[str], int]]:
    """What is said of the parts of a prepared video, by the caption recipe, in the order of their starts."""
    said: list[tuple[float, float, str, int]] = []
    if data.captions == "sentences":
        said += [(c.start, c.end, c.text, -1) for c in record.captions if c.start is not None]
    for segment in record.segments:
        known = 0 <= segment.label < len(names)
        name = names[segment.label] if known else segment.text
        label = place.get(name, -1)
        if data.captions == "labels" or not record.captions:
            said.append((segment.start, segment.end, name.replace("_", " "), label))
        elif label >= 0:  # scored against, never said
            said.append((segment.start, segment.end, "", label))
    parts: list[tuple[int, int, Sequence[str], int]] = []
    for start, end, text, label in sorted(said):
        begin, stop = rasterise(start, end, length, data.fps, data.labels)
        if stop <= begin:
            problems.add(record.where, "a part lies outside its video")
        elif text or label >= 0:
            parts.append((begin, stop, (text,) if text else (), label))
    return parts


class Windows:
    """Windows of videos as a picklable sequence of (video, row of the last frame)."""

    def __init__(self, videos: Sequence[FeatureVideo], config: OvoadConfig):
        self.videos = [dataclasses.replace(v, frames=None) for v in videos]
        window, data = window_of(config.model), config.data
        self.places = [
            (v, row)
            for v, video in enumerate(self.videos)
            for row in range(0 if data.cold_start else window - 1, len(video), data.stride)
        ]
        if not self.places:
            longest = max((len(v) for v in videos), default=0)
            raise VtjaxError(f"no video has a whole window of {window} frames; the longest has {longest}")
        if data.balance:
            self.places = _balanced(self.places, [self.videos[v].frame_span[row] >= 0 for v, row in self.places])

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[FeatureVideo, int]:
        video, row = self.places[index]
        return self.videos[video], row


def _balanced(places: list[tuple[int, int]], action: list[bool]) -> list[tuple[int, int]]:
    """The places with those of the rarer kind repeated until both kinds are equally many."""
    sides = [[p for p, a in zip(places, action, strict=True) if a == side] for side in (False, True)]
    size = max(map(len, sides))
    return [side[i % len(side)] for i in range(size) for side in sides if side]


def window_at(features: np.ndarray, row: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts out the window that ends with `row`: float32 [window, D] and valid bool [window].

    Before the video begins its first frame is repeated and not valid.
    """
    rows = np.arange(row - window + 1, row + 1)
    return np.asarray(features[np.maximum(rows, 0)], np.float32), rows >= 0


def _worded(texts: tuple[str, ...], rng: np.random.Generator) -> tuple[str, ...]:
    return (texts[int(rng.integers(len(texts)))],) if texts else ()


class TrainTransform:
    """Makes one example (task.OvoadObjective.example_spec) of a window and the position's rng; picklable."""

    def __init__(self, config: OvoadConfig, tokenizer: Tokenizer, length: int):
        self.window, self.span = window_of(config.model), span_of(config.model)
        self.tokenizer, self.length = tokenizer, length
        self.recipe, self.data = CaptionRecipe(config), config.data

    def __call__(self, record: tuple[FeatureVideo, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        video, row = record
        # One wording of a part in all of an example, so that equal texts mean the same part.
        video = dataclasses.replace(video, spans=tuple(_worded(texts, rng) for texts in video.spans))
        if self.data.windows == 1:
            return self._window(video, row, rng)
        windows = [self._window(video, r, rng) for r in [row, *self._others(video, row, rng)]]
        return {name: np.stack([w[name] for w in windows]) for name in windows[0]}

    def _others(self, video: FeatureVideo, row: int, rng: np.random.Generator) -> list[int]:
        """Further rows of the video, the last frames of windows; in parts of their own while there are any."""
        first = 0 if self.data.cold_start else self.window - 1
        shuffled = first + rng.permutation(len(video) - first)
        taken = {int(video.frame_span[row])}
        fresh: list[int] = []
        rest: list[int] = []
        for other in map(int, shuffled):
            span = int(video.frame_span[other])
            (rest if span in taken else fresh).append(other)
            taken.add(span)
        return [*fresh, *rest, *[row] * self.data.windows][: self.data.windows - 1]

    def _window(self, video: FeatureVideo, row: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        features, valid = window_at(video.features, row, self.window)
        frames = np.full(self.window, -1)
        frames[valid] = video.frame_span[row - int(valid.sum()) + 1 : row + 1]
        texts, current = self.recipe(video.spans, frames[-self.span :], rng)
        ids, _ = self.tokenizer.encode([*texts, current], self.length)
        return {
            "features": features,
            "valid": valid,
            "action": frames >= 0,
            "text_ids": ids[:-1],
            "current_ids": ids[-1],
        }
