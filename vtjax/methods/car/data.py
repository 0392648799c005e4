"""CAR's examples: a clip and a caption to normalised motion, ordered and shuffled texts, and swapped motions."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vtjax.data.motion.clip import Caption, MotionClip
from vtjax.data.motion.store import MotionStore
from vtjax.data.motion.validate import caption_rows
from vtjax.errors import VtjaxError
from vtjax.methods.car.config import CarConfig, CarDataConfig
from vtjax.methods.car.text import TextFields
from vtjax.text.shuffle import all_orders, has_wrong_order, ordered_text, shuffled_order
from vtjax.worlds.motion_folder import motion_folder
from vtjax.worlds.motion_world import MotionWorldSettings

_LISTED_EVENTS = 5  # up to this many events, every wrong order is listed


class Clips:
    """Some clips of a store, as a picklable sequence of (index in this sequence, MotionClip)."""

    def __init__(self, store: MotionStore, indices: Sequence[int]):
        self.store, self.indices = store, list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[int, MotionClip]:
        return index, self.store[self.indices[index]]

    def __iter__(self) -> Iterator[tuple[int, MotionClip]]:
        return (self[i] for i in range(len(self)))

    def captions(self) -> list[tuple[Caption, ...]]:
        """Captions of every clip, without reading features."""
        return [self.store.captions(i) for i in self.indices]


def world_store(config: CarDataConfig, cache: pathlib.Path) -> MotionStore:
    """Opens the embedded world of a configuration as a prepared folder, generated on first use."""
    sizes = {"train": config.world_train, "val": config.val_size, "test": config.world_test}
    settings = MotionWorldSettings(
        min_events=config.min_events, max_events=config.max_events, event_similarity=config.event_similarity,
        paraphrase=config.paraphrase, script=config.script,
    )  # fmt: skip
    return motion_folder(config.world_seed, sizes, settings, cache)


def open_store(config: CarDataConfig, cache: pathlib.Path) -> MotionStore:
    """The store that a configuration names: the world, generated where needed, or a prepared folder."""
    return world_store(config, cache) if config.source == "world" else MotionStore(config.source)


def split_clips(store: MotionStore, name: str, limit: int = 0) -> Clips:
    """Clips of one split, the first `limit` of them where that is set.

    Raises:
      VtjaxError: unknown split.
    """
    indices = store.split(name)
    return Clips(store, indices[:limit] if limit else indices)


def events_of(caption: Caption) -> tuple[str, ...]:
    """A caption's events in order; a caption that was never decomposed is one event."""
    return caption.events or (caption.text,)


def positive_text(caption: Caption, mode: str) -> str:
    """The text that belongs to the motion: ordered events joined ("events") or the caption as written ("caption")."""
    return caption.text if mode == "caption" else ordered_text(events_of(caption))


def wrong_texts(caption: Caption, limit: int) -> list[str]:
    """Up to `limit` shuffled texts of a caption, always the same ones, for caches; [] where no order is wrong."""
    events = events_of(caption)
    if len(events) < 2:
        return []
    if len(events) <= _LISTED_EVENTS:
        orders = all_orders(events)
    else:
        rng = np.random.default_rng(len(events))
        drawn = (shuffled_order(len(events), rng, distinct_of=events) for _ in range(4 * limit))
        orders = list(dict.fromkeys(order for order in drawn if order))
    picks = np.random.default_rng([len(events), len(caption.text)]).permutation(len(orders))[:limit]
    return [ordered_text(events, orders[p]) for p in sorted(picks)]


def survey(clips: Clips, frames: int) -> str:
    """One line on what of a split cannot be used in full: motions cut to `frames`, captions without a wrong order."""
    captions = clips.captions()
    lengths = [clips.store.records[i]["length"] for i in clips.indices]
    cut = 0
    for several, rows in zip(captions, lengths, strict=True):
        cut += any(end - begin > frames for begin, end in (caption_rows(caption, rows) for caption in several))
    events = [events_of(caption) for several in captions for caption in several]
    ordered = [e for e in events if len(e) > 1]
    fixed, long = sum(not has_wrong_order(e) for e in ordered), sum(len(e) > _LISTED_EVENTS for e in ordered)
    return (
        f"{len(clips)} clips, {cut} ({100 * cut / max(1, len(clips)):.1f} %) longer than {frames} frames and cut; "
        f"{len(events)} captions, {len(ordered)} of several events, of these {fixed} without a wrong order (identical "
        f"events) and {long} of more than {_LISTED_EVENTS} events, whose orders are drawn and not listed"
    )


def all_texts(clips: Clips, mode: str, orders: int) -> list[str]:
    """Every text that training on `clips` may ask for, with `orders` wrong orders per caption."""
    captions = itertools.chain.from_iterable(clips.captions())
    texts = ([positive_text(c, mode), *wrong_texts(c, orders)] for c in captions)
    return list(dict.fromkeys(itertools.chain.from_iterable(texts)))


@dataclasses.dataclass
class Normalizer:
    """Per-dimension statistics of the training rows, and a fixed number of frames.

    frames: motions are cut or zero-padded to this many rows, after normalising.
    """

    mean: np.ndarray
    std: np.ndarray
    frames: int

    def __call__(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """features [T, 263] -> (float32 [frames, 263], mask bool [frames])."""
        rows = min(len(features), self.frames)
        motion = np.zeros((self.frames, features.shape[1]), np.float32)
        motion[:rows] = (features[:rows] - self.mean) / (self.std + 1e-12)
        mask = np.zeros(self.frames, bool)
        mask[:rows] = True
        return motion, mask

    def save(self, folder: pathlib.Path) -> None:
        np.save(folder / "mean.npy", self.mean)
        np.save(folder / "std.npy", self.std)

    @classmethod
    def load(cls, folder: pathlib.Path, frames: int) -> Normalizer:
        for name in ("mean.npy", "std.npy"):
            if not (folder / name).is_file():
                raise VtjaxError(f"{folder / name}: missing; vtjax.train writes it at its start")
        return cls(np.load(folder / "mean.npy"), np.load(folder / "std.npy"), frames)


class TrainTransform:
    """(index, clip) and the position's rng to one training example of task.example_spec; picklable.

    sentence: float32 [captions of all clips, E]; first: row of each clip's first caption in it.
    """

    def __init__(
        self,
        config: CarConfig,
        normalizer: Normalizer,
        text: TextFields,
        sentence: np.ndarray | None = None,
        first: np.ndarray | None = None,
    ):
        self.config, self.normalizer, self.text = config, normalizer, text
        self.sentence, self.first = sentence, first

    def __call__(self, record: tuple[int, MotionClip], rng: np.random.Generator) -> dict[str, np.ndarray]:
        index, clip = record
        loss, quirks = self.config.loss, self.config.quirks
        choice = int(rng.integers(len(clip.captions)))
        caption = clip.captions[choice]
        begin, end = caption_rows(clip.captions[0] if quirks.annotation0_crop else caption, len(clip.features))
        motion, mask = self.normalizer(clip.features[begin:end])
        wrong = self._shuffles(caption, rng, loss.text_negatives)
        # Rows without a wrong order repeat the text; negative_valid keeps them out of the loss.
        positive = positive_text(caption, loss.positive_text)
        values, masks = self.text([positive, *(w or positive for w in wrong)])
        example = {"motion": motion, "motion_mask": mask, f"text_{self.text.kind}": values[0], "text_mask": masks[0]}
        if loss.text_negatives:
            example[f"negative_{self.text.kind}"] = values[1:]
            example["negative_mask"] = masks[1:]
            example["negative_valid"] = np.array([w is not None for w in wrong])
        if loss.motion_negatives:
            example |= self._motion_negatives(clip, whole=(begin, end) == (0, len(clip.features)))
        if loss.filter != "none":
            example["sentence"] = self.sentence[self.first[index] + choice]
        return example

    def _shuffles(self, caption: Caption, rng: np.random.Generator, count: int) -> list[str | None]:
        events = events_of(caption)
        if self.text.kind == "states":  # only these have states
            cached = wrong_texts(caption, self.config.data.orders)
            return [cached[int(rng.integers(len(cached)))] if cached else None for _ in range(count)]
        texts = []
        for _ in range(count):
            if self.config.quirks.identity_shuffles and len(events) > 1:
                order = tuple(rng.permutation(len(events)))
            else:
                order = shuffled_order(len(events), rng, distinct_of=events)
            texts.append(None if order is None else ordered_text(events, order))
        return texts

    def _motion_negatives(self, clip: MotionClip, whole: bool) -> dict[str, np.ndarray]:
        """The clip's stored swapped motion; it describes the whole clip, so a cropped caption has none."""
        count = self.config.loss.motion_negatives
        if count > 1:
            field = f"config.method.loss.motion_negatives={count}"
            raise VtjaxError(f"{field}: a clip carries one swapped motion, so 0 or 1")
        if clip.swapped is None or not whole:
            motion = np.zeros((self.normalizer.frames, clip.features.shape[1]), np.float32)
            mask = np.zeros(self.normalizer.frames, bool)
            mask[0] = True  # an encoder needs something to look at; negative_motion_valid keeps it out of the loss
            valid = False
        else:
            motion, mask = self.normalizer(clip.swapped)
            valid = True
        return {
            "negative_motion": motion[None],
            "negative_motion_mask": mask[None],
            "negative_motion_valid": np.array([valid]),
        }


def sentence_rows(clips: Clips) -> tuple[list[Caption], np.ndarray]:
    """All captions of `clips` in order, and for each clip the row of its first one."""
    captions = clips.captions()
    first = np.cumsum([0, *map(len, captions[:-1])])
    return list(itertools.chain.from_iterable(captions)), first


def sentence_embeddings(captions: Sequence[Caption], config: CarConfig) -> np.ndarray:
    """float32 [N, loss.sentence_width], unit norm, of positive texts: for false negatives and the threshold protocol.

    Raises:
      VtjaxError: an encoder of another width, or captions without gold sequences where the filter asks for them.
    """
    from vtjax.encoders import sentence

    loss = config.loss
    if loss.filter == "sequence":
        return sentence.gold_embeddings([c.sequence for c in captions], loss.sentence_width)
    texts = [positive_text(c, loss.positive_text) for c in captions]
    if loss.sentence_encoder == "builtin":
        encoder: Any = sentence.HashedSentenceEncoder(loss.sentence_width)
    else:
        encoder = sentence.SentenceEncoder(loss.sentence_encoder)
    if encoder.dim != loss.sentence_width:
        raise VtjaxError(
            f"config.method.loss.sentence_width={loss.sentence_width}: {loss.sentence_encoder} gives {encoder.dim}"
        )
    distinct = list(dict.fromkeys(texts))
    rows = dict(zip(distinct, encoder.encode(distinct), strict=True))
    return np.stack([rows[text] for text in texts])
