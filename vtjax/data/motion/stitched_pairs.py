"""Stitched pairs: two recorded motions joined in a random order, so that real motion has events of known order.

The same crops are joined once in the told order and once in the other, by the same code: the second is the clip's
swapped motion, which differs from the first in nothing but order.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from vtjax.data.motion.clip import Caption, MotionClip
from vtjax.data.motion.features import joints_to_features, preprocess_joints
from vtjax.data.motion.stitch import stitch
from vtjax.data.readers.captions import as_caption
from vtjax.errors import VtjaxError


@dataclasses.dataclass(frozen=True)
class Source:
    """A motion ready for features: joints float32 [T, 22, 3], metres, Y up, 20 fps.

    clause: "a person walks sadly", "" when nothing tells what it shows. label: its action; pairs are of two labels.
    split: "" until assigned.
    """

    key: str
    joints: np.ndarray
    captions: tuple[Caption, ...] = ()
    label: str = ""
    clause: str = ""
    split: str = ""


def clause_of(text: str) -> str:
    """A caption as a clause: no final stop, and a lower case first letter unless the word is I or capitals."""
    text = text.strip().rstrip(".").strip()
    word = text.split(" ")[0]
    return text[:1].lower() + text[1:] if word[1:] == word[1:].lower() and word != "I" else text


def crop(joints: np.ndarray, frames: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A random window of a random length in [frames[0], frames[1]], or the whole motion where it is shorter."""
    length = min(len(joints), int(rng.integers(frames[0], frames[1] + 1)))
    start = int(rng.integers(0, len(joints) - length + 1))
    return joints[start : start + length]


def make_pairs(
    sources: Sequence[Source],
    count: int,
    *,
    seed: int,
    segment_frames: tuple[int, int] = (30, 80),
    blend: int = 8,
) -> Iterator[MotionClip]:
    """Yields `count` pairs of two sources with different labels and clauses; labels are drawn evenly, then sources.

    Pair i is a function of (seed, i, the sources' keys). Its key is "first+second#i". Raises VtjaxError where fewer
    than two labels have a clause.
    """
    by_label: dict[str, list[Source]] = {}
    for source in sorted(sources, key=lambda s: s.key):
        if source.clause:
            by_label.setdefault(source.label or source.clause, []).append(source)
    labels = sorted(by_label)
    if len(labels) < 2:
        raise VtjaxError(
            f"stitched pairs need motions of two actions with captions, these {len(sources)} have {len(labels)}; "
            "give captions, or labels in the column 'label' of a captions file"
        )
    stream = int.from_bytes(hashlib.sha256("|".join(s.key for s in sources).encode()).digest()[:4], "big")
    for index in range(count):
        rng = np.random.default_rng([seed, stream, index])
        chosen = [by_label[labels[i]] for i in rng.choice(len(labels), 2, replace=False)]
        first, second = (group[int(rng.integers(len(group)))] for group in chosen)
        if first.clause == second.clause:
            raise VtjaxError(f"{first.key} and {second.key} have different labels but one clause, {first.clause!r}")
        segments = [preprocess_joints(crop(s.joints, segment_frames, rng)) for s in (first, second)]
        joints, bounds = stitch(segments, blend=blend)
        swapped, _ = stitch(segments[::-1], blend=blend)
        features = joints_to_features(joints, uniform_skeleton=False)
        text = as_caption(f"{first.clause}, then {second.clause}")
        # Both events of a pair have the same form, so that form tells no order.
        events = (as_caption(first.clause), as_caption(second.clause))
        caption = Caption(text, events, sequence=f"{first.clause} > {second.clause}")
        yield MotionClip(
            f"{first.key}+{second.key}#{index}",
            features,
            (caption,),
            tuple((begin, min(end, len(features))) for begin, end in bounds),
            joints_to_features(swapped, uniform_skeleton=False),
            (1, 0),
        )
