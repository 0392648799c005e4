"""Keeps evaluation videos out of training (mptva.md 7.4).

TAN's own hold-out list overlaps HT-Step's hidden tests and does not protect them, so every HT-Step validation and test
id and every HTM-Align id is taken out explicitly.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from vtjax.data.readers.coverage import Coverage
from vtjax.data.readers.json_stream import json_entries
from vtjax.data.readers.rows import find_file, is_names
from vtjax.data.video_records import VideoRecord
from vtjax.errors import VtjaxError

HT_STEP_EVALUATION = ("val_seen", "val_unseen", "test_seen", "test_unseen")


def video_key(name: str) -> str:
    """The id that two data sets share: ActivityNet writes "v_" before the YouTube id of 11 characters."""
    return name[2:] if len(name) == 13 and name.startswith("v_") else name


def evaluation_ids(
    *, ht_step: str | os.PathLike | None = None, htm_align: str | os.PathLike | None = None, **others: Iterable[str]
) -> dict[str, str]:
    """Evaluation videos with the sets that hold them: {"-3CEg4y7mQM": "HTM-Align, HT-Step test_seen"}.

    ht_step: folder with video_splits.json. htm_align: htm_align.json or its folder. others: further lists by name.
    Raises VtjaxError when nothing is given or HT-Step lacks one of its four evaluation splits.
    """
    if ht_step is None and htm_align is None and not others:
        raise VtjaxError("evaluation_ids: name at least one of ht_step, htm_align or a list of ids")
    found: dict[str, list[str]] = {}
    if htm_align is not None:
        for _, video, _ in json_entries(find_file(htm_align, ("htm_align.json", "*htm_align*.json"))):
            found.setdefault(video_key(video), []).append("HTM-Align")
    if ht_step is not None:
        path = find_file(ht_step, ("video_splits.json",))
        splits = {name: videos for _, name, videos in json_entries(path)}
        for name in HT_STEP_EVALUATION:
            if not is_names(splits.get(name)):
                raise VtjaxError(f"{path}: the split {name!r} is expected as a list of ids, found: {', '.join(splits)}")
            for video in splits[name]:
                found.setdefault(video_key(video), []).append(f"HT-Step {name}")
    for name, videos in others.items():
        for video in videos:
            found.setdefault(video_key(video), []).append(name)
    return {video: ", ".join(dict.fromkeys(sets)) for video, sets in found.items()}


def refuse(video: str, where: object, exclude: Mapping[str, str] | None, coverage: Coverage) -> bool:
    """Whether `video` is an evaluation video; if so it is counted by the set that holds it."""
    if not exclude or video_key(video) not in exclude:
        return False
    coverage.problems.add(where, f"evaluation video of {exclude[video_key(video)]}, kept out of training")
    return True


def remove_evaluation_videos(
    records: Iterable[VideoRecord], exclude: Mapping[str, str], coverage: Coverage
) -> list[VideoRecord]:
    """The records whose source video is no evaluation video; the others are counted in `coverage` by reason."""
    kept = [r for r in records if not refuse(r.video, f"{r.where} ({r.video})", exclude, coverage)]
    coverage.used = len(kept)
    return kept
