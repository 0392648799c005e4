"""Readers, one per published layout. The record below is what readers of bare joints yield.

Readers of video data are found by name: `video_reader("crosstask")(folder, split=..., videos=...)` gives
(list of vtjax.data.video_records.VideoRecord, Coverage). A reader's module is only imported when it is asked for.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from vtjax.errors import VtjaxError, nearest

_MODULES = {  # module -> its data sets; where there is one, its function is `read`
    "action_lists": ("kinetics", "hmdb51", "ucf101", "ssv2", "action_list"),
    "activitynet": ("activitynet", "activitynet_captions", "fineaction"),
    "instructions": ("llava", "valley", "video_chatgpt", "vtimellm"),
    "narratives": ("localized_narratives", "video_localized_narratives"),
}
_SINGLE = (
    "howto100m", "htm_align", "ht_step", "crosstask", "youcook2", "coin", "thumos14", "tvseries", "epic_kitchens",
    "internvid", "frame_targets", "video_qa",
)  # fmt: skip
VIDEO_READERS = {name: (f"{__name__}.{module}", name) for module, names in _MODULES.items() for name in names}
VIDEO_READERS |= {name: (f"{__name__}.{name}", "read") for name in _SINGLE}


def video_reader(name: str) -> Callable[..., Any]:
    """Returns a video data set's reader, a function of (folder, *, split, videos, ...).

    Raises:
      VtjaxError: unknown; names the nearest known name.
    """
    if name not in VIDEO_READERS:
        raise VtjaxError(f"unknown data set {name!r}: {nearest(name, VIDEO_READERS)}")
    module, function = VIDEO_READERS[name]
    return getattr(importlib.import_module(module), function)


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
