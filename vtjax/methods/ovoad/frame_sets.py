"""The published sets of online action detection, ready to be scored: targets, class names and phrases, protocols."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping

import numpy as np

from vtjax.data.readers import epic_kitchens, frame_targets
from vtjax.data.readers import thumos14 as thumos14_files
from vtjax.data.readers.class_phrases import phrases
from vtjax.data.readers.coverage import Coverage
from vtjax.errors import VtjaxError, nearest
from vtjax.evals.frame_targets import FrameTargets

EPIC_RATE = 4.0  # rows per second of verb_perframe: 30 frames a second in ticks of 7.5
# Metric that papers give, and the protocols of LSTR's and of OV-OAD's figures.
_PUBLISHED = {
    "THUMOS": ("mAP", ("lstr", "ovoad")),
    "TVSeries": ("mcAP", ("lstr", "ovoad")),
    "EK100": ("mcAP", ("lstr", "ovoad-fg")),
    "FINEACTION": ("mAP", ("lstr", "ovoad-fg")),
    "Anet": ("mAP", ("ovoad-fg",)),
}


@dataclasses.dataclass(frozen=True)
class FrameSet:
    """targets: by video. phrases: one a class, in the order of the targets' columns, as prompts name them.
    metric: the one that papers give, protocols: the names that they use. coverage: what was read and left out."""

    name: str
    targets: Mapping[str, FrameTargets]
    phrases: tuple[str, ...]
    metric: str
    protocols: tuple[str, ...]
    coverage: Coverage

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the columns, background first."""
        return next(iter(self.targets.values())).classes


def _frame_set(name: str, records, coverage: Coverage, kind: str = "spaced") -> FrameSet:
    targets = {r.id: r.targets for r in records if r.targets is not None}
    if not targets:
        raise VtjaxError(f"{name}: no video has targets\n{coverage.report()}")
    key = next((k for k in _PUBLISHED if k.lower() == name.lower().split(" ")[0]), "")
    metric, protocols = _PUBLISHED.get(key, ("mAP", ("lstr", "ovoad")))
    return FrameSet(name, targets, phrases(next(iter(targets.values())).classes, kind), metric, protocols, coverage)


def thumos14(folder: str | os.PathLike, split: str = "test") -> FrameSet:
    """THUMOS14 from its segment files and thumos14_frame_targets.npz."""
    return _frame_set("THUMOS", *thumos14_files.read(folder, split=split))


def lstr_folder(
    folder: str | os.PathLike, dataset: str, info: str | os.PathLike, split: str = "test", **options
) -> FrameSet:
    """Any set in the layout of LSTR, TeSTra and MiniROAD; options as `frame_targets.read`."""
    return _frame_set(dataset, *frame_targets.read(folder, dataset=dataset, info=info, split=split, **options))


def epic_verbs_or_nouns(
    folder: str | os.PathLike, kind: str = "verb", split: str = "validation", rate: float = EPIC_RATE
) -> FrameSet:
    """EPIC-KITCHENS-100 with the official class order: column = official id + 1, column 0 the background, multi-hot.

    OV-OAD's published verb columns came from an unordered set, and agree with the official ids in 1 of 97 places.
    folder: the official csv files. kind: "verb" or "noun".
    """
    if kind not in ("verb", "noun"):
        raise VtjaxError(f"EPIC-KITCHENS-100 has no {kind!r} classes: {nearest(kind, ('verb', 'noun'))}")
    records, coverage = epic_kitchens.read(folder, split=split)
    names = ("background", *epic_kitchens.classes(folder, kind))
    rated = []
    for record in records:
        end = record.duration or max(s.end for s in record.segments)
        table = epic_kitchens.rasterise(
            record.segments, math.ceil(end * rate), rate, len(names), noun=kind == "noun"
        ).astype(np.uint8)
        rated.append(dataclasses.replace(record, targets=FrameTargets(table, names, rate)))
    return _frame_set(f"EK100 {kind}s", rated, coverage, kind)
