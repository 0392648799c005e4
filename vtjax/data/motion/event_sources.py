"""Where the events of captions come from while motion is prepared, and CAR's event files written of them.

rules: the offline splitter. none: no events. cache:PATH, call:module:function, http:URL#model: a text generator.
Anything else is a folder of CAR's released files {keyid}_{idx}.json.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

from vtjax.data.motion.clip import Caption
from vtjax.data.readers.car_events import usable_events, write_events
from vtjax.errors import Problems, VtjaxError

GENERATORS = ("cache", "call", "http", "https")
INDICES = ("unfiltered", "filtered")

# (clip key, caption indices, texts) -> events of each caption, () for none
_Find = Callable[[str, Sequence[int], Sequence[str]], Sequence[Sequence[str]]]


def is_generator(choice: str) -> bool:
    """Whether --events=choice names a text generator."""
    kind, colon, _ = choice.partition(":")
    return bool(colon) and kind in GENERATORS and not pathlib.Path(choice).exists()


class EventSource:
    """Gives captions their events by `choice`, and remembers them for `write`.

    cache: JSONL file that keeps the answers of a generator. index: with a folder, which position of a caption names
    its file; "filtered" counts only the captions that were admitted, as the released training code does, and so reads
    another caption's events wherever an earlier caption was left out (CAR's released code).
    What is missing or invalid is counted in `problems`, and an invalid answer leaves its caption as one event.
    Raises VtjaxError where the choice, the folder or the cache cannot work.
    """

    def __init__(
        self, choice: str, problems: Problems, *, cache: str | None = None, index: str = "unfiltered"
    ) -> None:
        if cache and (not is_generator(choice) or choice.startswith("cache:")):
            raise VtjaxError(
                f"--events_cache={cache} keeps the answers of --events=call:module:function or http:URL#model, but "
                f"--events={choice}"
            )
        self.filtered = index == "filtered"
        if self.filtered and (choice in ("rules", "none") or is_generator(choice)):
            raise VtjaxError(f"--event_index=filtered is about a folder of event files, but --events={choice}")
        self.choice = choice
        self.kept: dict[tuple[str, int], tuple[str, ...]] = {}
        self._find = _finder(choice, problems, cache)

    def attach(self, key: str, captions: Sequence[Caption]) -> tuple[Caption, ...]:
        """The captions of one motion with their events; those that have events already keep them."""
        if self._find is None:
            return tuple(captions)
        indices = [i if self.filtered or c.index is None else c.index for i, c in enumerate(captions)]
        asked = [i for i, caption in enumerate(captions) if not caption.events]
        events = self._find(key, [indices[i] for i in asked], [captions[i].text for i in asked])
        by_place = dict(zip(asked, events, strict=True))
        result = [dataclasses.replace(c, events=tuple(by_place.get(i, c.events))) for i, c in enumerate(captions)]
        self.remember(key, result)
        return tuple(result)

    def remember(self, key: str, captions: Sequence[Caption]) -> None:
        """Keeps the events of captions for `write`."""
        for i, caption in enumerate(captions):
            if caption.events:
                self.kept[key, i if caption.index is None else caption.index] = caption.events

    def write(self, folder: pathlib.Path) -> int:
        """Writes {keyid}_{idx}.json for every caption with events into `folder`; returns how many."""
        for (key, index), events in self.kept.items():
            write_events(folder, key, index, events)
        return len(self.kept)


def _finder(choice: str, problems: Problems, cache: str | None) -> _Find | None:
    if choice == "none":
        return None
    if choice == "rules":
        from vtjax.text.events import split_events

        return lambda key, indices, texts: [split_events(text) for text in texts]
    if is_generator(choice):
        from vtjax.text.decompose import decompose
        from vtjax.text.generator import make_generator

        generator = make_generator(choice, cache=cache, problems=problems)

        def ask(key: str, indices: Sequence[int], texts: Sequence[str]) -> list[list[str]]:
            return decompose(texts, generator, problems, [f"{key}_{i}" for i in indices]) if texts else []

        return ask
    folder = pathlib.Path(choice)
    if not folder.is_dir():
        raise VtjaxError(
            f"--events={choice}: no such folder; rules, none, cache:PATH, call:module:function, http:URL#model or a "
            "folder of event files {keyid}_{idx}.json is expected"
        )
    folder = folder / "event_texts" if (folder / "event_texts").is_dir() else folder
    return lambda key, indices, texts: [usable_events(folder, key, i, problems) for i in indices]


def written_folder(path: str, overwrite: bool) -> pathlib.Path:
    """Where --write_events=path puts its files: path/event_texts, CAR's own name, or `path` where it has that name.

    Raises VtjaxError where there are event files already and `overwrite` is False.
    """
    folder = pathlib.Path(path)
    folder = folder if folder.name == "event_texts" else folder / "event_texts"
    if not overwrite and folder.is_dir() and next(folder.glob("*.json"), None) is not None:
        raise VtjaxError(f"{folder}: has event files already; name another folder or pass --overwrite")
    return folder
