"""What a reader found: items listed, annotated and on disk, rows used, and every row left out with its reason.

A reader of videos is a function of (folder, *, split, videos, ...) -> Records: it gives each row of an annotation file
to a function that makes a record of it or raises BadRow, and hands the records to `Coverage.finish`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from vtjax.data.readers.media_folder import MediaFolder
from vtjax.data.video_records import VideoRecord
from vtjax.errors import Problems


class BadRow(Exception):
    """One row of an annotation file cannot be used. `reason` groups the report, `detail` is about this row."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason)
        self.reason, self.detail = reason, detail


@dataclasses.dataclass
class Coverage:
    """What a split lists, what of it was found, and what is used.

    listed: items the split names. annotated: items with an annotation. on_disk: items whose medium is on disk.
    used: items yielded. rows, rows_used: annotation rows read and used. missing: items looked for and not found.
    problems: what was left out. notes: what was kept but should be known. searched: where the media were looked for.
    """

    split: str
    medium: str = "motions"
    row_name: str = "captions"
    listed: int = 0
    annotated: int = 0
    on_disk: int = 0
    used: int = 0
    rows: int = 0
    rows_used: int = 0
    searched: str = ""
    missing: list[str] = dataclasses.field(default_factory=list)
    problems: Problems = dataclasses.field(default_factory=Problems)
    notes: Problems = dataclasses.field(default_factory=Problems)

    @contextlib.contextmanager
    def entry(self, where: Any) -> Iterator[None]:
        """What raises BadRow in this block is left out, with its place and reason."""
        try:
            yield
        except BadRow as bad:
            self.problems.add(f"{where}: {bad.detail}" if bad.detail else where, bad.reason)

    @contextlib.contextmanager
    def row(self, where: Any) -> Iterator[None]:
        """The same for one annotation row, which is counted as read, and as used unless it raises BadRow."""
        self.rows += 1
        with self.entry(where):
            yield
            self.rows_used += 1

    def entries(self, items: Iterable[tuple], make: Callable[..., Any]) -> list:
        """Collects make(*item) of items whose first part is their place; None and what raises BadRow is left out."""
        return self._collected(items, make, self.entry)

    def row_entries(self, items: Iterable[tuple], make: Callable[..., Any]) -> list:
        """Does the same where every item is an annotation row, counted as such."""
        return self._collected(items, make, self.row)

    def parts(self, where: str, name: str, items: Iterable, make: Callable[..., Any]) -> list:
        """Collects make(item) of the rows within one entry; their place is "{where} {name} {position}"."""
        return self.row_entries(((f"{where} {name} {i}", v) for i, v in enumerate(items)), lambda _, item: make(item))

    def _collected(self, items: Iterable[tuple], make: Callable[..., Any], counted: Callable) -> list:
        results = []
        for item in items:
            with counted(item[0]):
                if (result := make(*item)) is not None:
                    results.append(result)
        return results

    def finish(self, records: Iterable[VideoRecord], videos: Videos = None) -> Records:
        """Leaves out records whose id was listed before, and looks for their media in `videos`, a folder.

        Returns what a reader returns: (records, this coverage with all counts).
        """
        kept: dict[str, VideoRecord] = {}
        for record in records:
            if record.id in kept:
                self.problems.add(f"{record.where} (first at {kept[record.id].where})", "the id is listed twice")
            else:
                kept[record.id] = record
        self.used = len(kept)
        self.annotated = len({record.video for record in kept.values()})
        self.listed = max(self.listed, self.annotated)
        return list(kept.values()) if videos is None else self._locate(list(kept.values()), videos), self

    def _locate(self, records: list[VideoRecord], videos: str | os.PathLike | MediaFolder) -> list[VideoRecord]:
        folder = videos if isinstance(videos, MediaFolder) else MediaFolder(videos)
        self.searched = str(folder.root)
        paths = {record.video: folder.find(record.video) for record in records}
        self.on_disk = sum(path is not None for path in paths.values())
        self.missing = [video for video, path in paths.items() if path is None]
        for path in folder.empty:
            self.notes.add(path, "empty file, counted as missing")
        for path in folder.unreadable:
            self.notes.add(path, "cannot be read")
        for name in folder.ambiguous:
            self.notes.add(name, "several files have this name, the first in order of path is taken")
        return [dataclasses.replace(r, path=paths[r.video]) for r in records]

    def report(self, examples: int = 3) -> str:
        """One line of counts, then one line per kind of row that was left out or needs a note."""
        if self.medium == "motions":
            return (
                f"{self.split}: {self.listed} listed, {self.annotated} annotated, {self.on_disk} motions on disk, "
                f"{self.used} used; {self.rows_used} of {self.rows} {self.row_name} used"
            )
        lines = [
            f"{self.split}: {self.listed} {self.medium} listed, {self.annotated} annotated; "
            f"{self.rows_used} of {self.rows} {self.row_name} used"
        ]
        if self.searched:
            some = ", ".join(self.missing[:examples])
            more = f", and {len(self.missing) - examples} more" if len(self.missing) > examples else ""
            missing = f"; missing {len(self.missing)}: {some}{more}" if self.missing else ""
            lines.append(f"on disk in {self.searched}: {self.on_disk} of {self.annotated}{missing}")
        lines += self.problems.report(examples).splitlines()
        lines += [line.replace("left out", "note on", 1) for line in self.notes.report(examples).splitlines()]
        return "\n".join(lines)


Records = tuple[list[VideoRecord], Coverage]
Place = str | os.PathLike
Videos = Place | MediaFolder | None
