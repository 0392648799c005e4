"""TVSeries: 30 everyday actions in 27 episodes. GT-{train,val,test}.txt: episode, action, start, end
with tabs between them, seconds; further columns are not used.
"""

from __future__ import annotations

import pathlib

from vtjax.data.readers.class_lists import index_of
from vtjax.data.readers.coverage import BadRow, Coverage, Place, Records, Videos
from vtjax.data.readers.rows import known_split, span, text_lines
from vtjax.data.video_records import Segment, VideoRecord
from vtjax.errors import VtjaxError

CLASSES = (
    "Background", "Pick something up", "Point", "Drink", "Stand up", "Run", "Sit down", "Read", "Smoke", "Drive car",
    "Open door", "Give something", "Use computer", "Write", "Go down stairway", "Close door", "Throw something",
    "Go up stairway", "Get in/out of car", "Hang up phone", "Eat", "Answer phone", "Dress up", "Clap", "Undress",
    "Kiss", "Fall/trip", "Wave", "Pour", "Punch", "Fire weapon",
)  # fmt: skip
TEST = (
    "24_ep4", "Breaking_Bad_ep3", "Mad_Men_ep3", "How_I_Met_Your_Mother_ep7", "How_I_Met_Your_Mother_ep8",
    "Modern_Family_ep5", "Sons_of_Anarchy_ep3",
)  # fmt: skip


def read(folder: Place, *, split: str | None = None, videos: Videos = None) -> Records:
    """Reads every GT*.txt of the folder, or one file. split: "train", "test" (the 7 episodes of LSTR), None for all.

    Segment.label is an index into CLASSES, whose 0 is the background.
    """
    folder = pathlib.Path(folder)
    known_split("TVSeries", split, (None, "train", "test"))
    files = [folder] if folder.is_file() else sorted(folder.glob("GT*.txt"))
    if not files:
        raise VtjaxError(f"{folder}: no file GT-train.txt, GT-val.txt or GT-test.txt")
    coverage = Coverage(split or "all", "episodes", "segments")
    gathered: dict[str, tuple[str, list[Segment]]] = {}
    for path in files:
        for where, line in text_lines(path):
            episode = line.split("\t", 1)[0].strip()
            if split not in (None, "test" if episode in TEST else "train"):
                continue
            with coverage.row(where):
                cells = [cell.strip() for cell in line.split("\t")]
                if len(cells) < 4:
                    raise BadRow("'episode, action, start, end' with tabs is expected", line[:60])
                start, end = span(cells[2], cells[3], None, coverage, where)
                segment = Segment(start, end, cells[1], index_of(cells[1], CLASSES))
                gathered.setdefault(episode, (where, []))[1].append(segment)
    records = [
        VideoRecord(
            episode, episode, where, "test" if episode in TEST else "train",
            segments=tuple(sorted(rows, key=lambda s: (s.start, s.end, s.label))),
        )
        for episode, (where, rows) in gathered.items()
    ]  # fmt: skip
    return coverage.finish(records, videos)
