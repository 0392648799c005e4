"""Keeps evaluation videos out of training.

TAN's own hold-out list overlaps HT-Step's hidden tests and does not protect them, so every HT-Step validation and test
id and every HTM-Align id is taken out explicitly.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from vtjax.data.readers.coverage import Place
from vtjax.data.readers.json_stream import json_entries
from vtjax.data.readers.rows import find_file, id_list, is_names
from vtjax.data.video_records import VideoRecord
from vtjax.errors import Problems, VtjaxError

HT_STEP_EVALUATION = ("val_seen", "val_unseen", "test_seen", "test_unseen")
Exclude = Mapping[str, str] | None


def video_key(name: str) -> str:
    """The id that two data sets share: ActivityNet writes "v_" before the YouTube id of 11 characters."""
    return name[2:] if len(name) == 13 and name.startswith("v_") else name


def evaluation_ids(sets: Sequence[Place]) -> dict[str, str]:
    """Reads evaluation videos with the sets that hold them: {"-3CEg4y7mQM": "HTM-Align, HT-Step test_seen"}.

    Args:
      sets: folders of HT-Step (video_splits.json), files of HTM-Align (.json), or text files with an id a line.

    Raises:
      VtjaxError: none of these, or HT-Step lacks one of its four evaluation splits.
    """
    names: dict[str, dict[str, None]] = {}
    for place in map(pathlib.Path, sets):
        for video, name in _evaluation_videos(place):
            names.setdefault(video_key(video), {})[name] = None
    return {video: ", ".join(of) for video, of in names.items()}


def _evaluation_videos(place: pathlib.Path) -> Iterator[tuple[str, str]]:
    """(video, name of the set) of one place."""
    if place.is_dir() or place.name == "video_splits.json":
        path = find_file(place, ("video_splits.json",))
        splits = {name: videos for _, name, videos in json_entries(path)}
        for name in HT_STEP_EVALUATION:
            if not is_names(splits.get(name)):
                raise VtjaxError(f"{path}: the split {name!r} is expected as a list of ids, found: {', '.join(splits)}")
            yield from ((video, f"HT-Step {name}") for video in splits[name])
    elif place.suffix == ".json":
        yield from ((video, "HTM-Align") for _, video, _ in json_entries(place))
    else:
        yield from ((video, place.name) for video in id_list(place))


def refuse(video: str, where: Any, exclude: Exclude, problems: Problems) -> bool:
    """Returns whether `video` is an evaluation video; if so it is counted by the set that holds it."""
    if not exclude or video_key(video) not in exclude:
        return False
    problems.add(where, f"evaluation video of {exclude[video_key(video)]}, kept out of training")
    return True


def without(records: Iterable[VideoRecord], exclude: Exclude, problems: Problems) -> list[VideoRecord]:
    """Returns the records of other videos than these; the records of these are counted among the problems."""
    return [r for r in records if not refuse(r.video, f"{r.where} ({r.video})", exclude, problems)]
