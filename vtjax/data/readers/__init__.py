"""Readers, one per published layout. The record below is what readers of bare joints yield.

Readers of video data are found by name: `video_reader("crosstask").read(folder, split=..., videos=...)` gives
(list of vtjax.data.video_records.VideoRecord, Coverage). A reader's module is only imported when it is asked for.
"""

from __future__ import annotations

import dataclasses
import importlib
import types

import numpy as np

from vtjax.errors import VtjaxError, nearest

VIDEO_READERS = {
    name: f"{__name__}.{name}"
    for name in (
        "howto100m", "htm_align", "ht_step", "crosstask", "youcook2", "coin",
        "thumos14", "tvseries", "activitynet", "epic_kitchens", "fineaction", "internvid", "frame_targets",
        "kinetics", "hmdb51", "ucf101", "ssv2", "action_list",
        "activitynet_captions", "localized_narratives", "video_localized_narratives",
        "vtimellm", "llava", "valley", "video_chatgpt", "video_qa",
    )
}  # fmt: skip


def video_reader(name: str) -> types.ModuleType:
    """The module of a video data set's reader; it has `read(folder, *, split, videos, ...)`.

    Raises VtjaxError naming the nearest known name.
    """
    if name not in VIDEO_READERS:
        raise VtjaxError(f"unknown data set {name!r}: {nearest(name, VIDEO_READERS)}")
    return importlib.import_module(VIDEO_READERS[name])


@dataclasses.dataclass(frozen=True)
class RawMotion:
    """A recorded motion before it is mapped, resampled and turned into features.

    key: unique within its source. joints: [T, J, 3] in the file's unit, Y up. fps: of the file. where: file (and key),
    for messages. names: joint names, None when the file has none. captions: sentences, the first is the main one.
    label: the action, equal for motions of the same kind, "" when unknown. sentence: one short clause that tells the
    motion from those of other labels ("a person walks sadly"), "" when none is known.
    """

    key: str
    joints: np.ndarray
    fps: float
    where: str
    names: tuple[str, ...] | None = None
    captions: tuple[str, ...] = ()
    label: str = ""
    sentence: str = ""
