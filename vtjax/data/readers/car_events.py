"""CAR's released event files: event_texts/{keyid}_{idx}.json = {"events": [...]}, ECCV 2024.

idx is the caption's position in the unfiltered list of its motion's captions; mirrored ids have their own files.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence

from vtjax.errors import Problems, VtjaxError
from vtjax.text.shuffle import is_degenerate


def validate_events(events: object, where: str) -> tuple[str, ...]:
    """The events as a tuple of stripped strings. Raises VtjaxError unless a non-empty list of non-empty strings."""
    if not isinstance(events, (list, tuple)) or not events:
        raise VtjaxError(f"{where}: 'events' must be a non-empty list of sentences, found {events!r:.60}")
    for position, event in enumerate(events):
        if not isinstance(event, str) or not event.strip():
            raise VtjaxError(f"{where}: event {position} must be a non-empty sentence, found {event!r:.60}")
    return tuple(e.strip() for e in events)


def event_file(folder: str | os.PathLike, keyid: str, idx: int) -> pathlib.Path:
    """Where the events of caption `idx` of motion `keyid` are kept."""
    return pathlib.Path(folder) / f"{keyid}_{idx}.json"


def read_events(folder: str | os.PathLike, keyid: str, idx: int) -> tuple[str, ...] | None:
    """Events of one caption, None where it has no file. Raises VtjaxError naming the file where it is malformed."""
    path = event_file(folder, keyid, idx)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise VtjaxError(f"{path}: not JSON: {error}") from None
    if not isinstance(data, dict) or "events" not in data:
        raise VtjaxError(f'{path}: an object {{"events": [...]}} is expected')
    return validate_events(data["events"], str(path))


def write_events(folder: str | os.PathLike, keyid: str, idx: int, events: Sequence[str]) -> pathlib.Path:
    """Writes one caption's events in CAR's layout, whole or not at all; returns the file."""
    path = event_file(folder, keyid, idx)
    events = validate_events(list(events), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps({"events": list(events)}, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, path)
    return path


def usable_events(folder: str | os.PathLike, keyid: str, idx: int, problems: Problems) -> tuple[str, ...]:
    """Reads the events of a caption; () where there is none usable, and then the reason is in `problems`."""
    where = event_file(folder, keyid, idx)
    try:
        events = read_events(folder, keyid, idx)
    except VtjaxError as error:
        problems.add(error, "malformed event file")
        return ()
    if events is None:
        problems.add(where, "no event file for a caption")
    elif is_degenerate(events):
        problems.add(where, "degenerate events: all are the same sentence, so they have no order")
    else:
        return events
    return ()
