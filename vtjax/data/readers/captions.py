"""Sentences for motions that come as bare joints: from side files, and from the labels of known data sets.

Side files, in order of precedence: one named by the user; `<key>.txt` beside the motion (one sentence per line,
HumanML3D's `#` fields allowed); `<name>_meta.json`, `<name>.json`, `<name>.csv`, or in a folder `meta.json`,
`captions.csv`. A CSV has a header with the columns `key` and `text`, and optionally `label`.
A JSON file maps key -> {"captions": [...], "description": "...", "label": "...", "fps": 20}, all optional.
"""

from __future__ import annotations

import csv
import pathlib
import re

from vtjax.data.readers.json_stream import read_json
from vtjax.errors import Problems, VtjaxError

# Bandai-Namco set 1: what the recorded person does, checked against the joints.
BANDAI_CONTENTS = {
    "bow": "bows",
    "bye": "waves goodbye with one hand",
    "byebye": "waves goodbye with both hands",
    "call": "beckons somebody over",
    "dance-short": "dances",
    "dash": "sprints forward",
    "guide": "shows somebody the way",
    "kick": "kicks",
    "punch": "punches",
    "respond": "raises a hand to answer",
    "run": "runs forward",
    "slash": "slashes with a sword",
    "walk": "walks forward",
    "walk-back": "walks backwards",
    "walk-left": "walks to the left",
    "walk-right": "walks to the right",
}
BANDAI_STYLES = {
    "active": "in a lively way",
    "angry": "angrily",
    "childish": "like a child",
    "chimpira": "like a thug",
    "feminine": "in a feminine way",
    "giant": "like a giant",
    "happy": "happily",
    "masculinity": "in a masculine way",
    "musical": "to the rhythm of music",
    "normal": "",
    "not-confident": "without confidence",
    "old": "in an elderly way",
    "proud": "proudly",
    "sad": "sadly",
    "tired": "in a tired way",
}
_BANDAI_KEY = re.compile(r"dataset-1_([a-z-]+)_([a-z-]+)_\d+")

# CMU's descriptions are labels ("basketball - forward dribble"); this is what they say as a clause.
CMU_CLAUSES = {
    "walk": "walks forward",
    "slow walk": "walks forward slowly",
    "brisk walk": "walks forward briskly",
    "walk on uneven terrain": "walks on uneven ground",
    "run/jog": "jogs forward",
    "jump, balance": "jumps and keeps balance",
    "punch/strike": "punches and strikes",
    "bend over, scoop up, rise, lift arm": "bends over, scoops something up and lifts it",
    "swordplay": "fights with a sword",
    "wash self": "takes a shower",
}
CMU_CATEGORIES = {"dance": "dances", "basketball": "plays basketball", "playground": "plays on a playground"}
_CMU_WALKS = ("slow walk", "brisk walk", "walk on uneven terrain")


def bandai_sentence(key: str) -> tuple[str, str] | None:
    """(label, clause) of a Bandai-Namco set 1 key such as dataset-1_walk-back_old_001, None for another key."""
    match = _BANDAI_KEY.fullmatch(key.rsplit("/", 1)[-1])
    if match is None or match[1] not in BANDAI_CONTENTS or match[2] not in BANDAI_STYLES:
        return None
    return match[1], f"a person {BANDAI_CONTENTS[match[1]]} {BANDAI_STYLES[match[2]]}".strip()


def description_sentence(description: str) -> tuple[str, str]:
    """(label, clause) of a motion-capture description in CMU's style; an unknown one is its own label and clause."""
    description = description.strip()
    category, dash, rest = description.partition(" - ")
    if dash and category in CMU_CATEGORIES:
        return category, f"a person {CMU_CATEGORIES[category]}: {rest}"
    if description in CMU_CLAUSES:
        return "walk" if description in _CMU_WALKS else description, f"a person {CMU_CLAUSES[description]}"
    return category, description


class Captions:
    """Captions by key. `of(key, file)` gives the fields captions, label and sentence of a RawMotion."""

    def __init__(self, table: dict[str, dict] | None = None, problems: Problems | None = None):
        self.table = table or {}
        self.problems = problems

    @classmethod
    def find(cls, root: pathlib.Path, explicit: str | None = None, problems: Problems | None = None) -> Captions:
        """Reads the side file of a motion file or folder; no file is no error unless one was named."""
        if explicit:
            return cls(_read_table(pathlib.Path(explicit)), problems)
        if root.is_dir():
            places = [root / "meta.json", root / "captions.csv"]
        else:
            places = [root.with_name(root.stem + end) for end in ("_meta.json", ".json", ".csv")]
        file = next((p for p in places if p.is_file()), None)
        return cls(_read_table(file) if file else {}, problems)

    def fps(self, key: str) -> float | None:
        """The frame rate the side file gives for this key."""
        value = self.table.get(key, {}).get("fps")
        return float(value) if value is not None else None

    def of(self, key: str, file: pathlib.Path | None = None) -> dict:
        """Fields of RawMotion; empty where nothing is known about the key."""
        entry = self.table.get(key, self.table.get(key.rsplit("/", 1)[-1], {}))
        texts = [*entry.get("captions", ()), *entry.get("kit_captions", ())]
        label, sentence = str(entry.get("label", "")), ""
        if entry.get("description"):
            guessed, sentence = description_sentence(entry["description"])
            label = label or guessed
        if (bandai := bandai_sentence(key)) is not None:
            label, sentence = label or bandai[0], sentence or bandai[1]
        if file is not None and (side := file.with_suffix(".txt")).is_file():
            texts = [line.split("#")[0] for line in side.read_text(encoding="utf-8").splitlines() if line.strip()]
        kept = [t.strip() for t in texts if t.strip()]
        if len(kept) < len(texts) and self.problems is not None:
            self.problems.add(key, "empty caption")
        if sentence:
            kept.append(as_caption(sentence))
        return {"captions": tuple(dict.fromkeys(kept)), "label": label, "sentence": sentence}


def as_caption(clause: str) -> str:
    """'a person walks' -> 'A person walks.'"""
    return clause[:1].upper() + clause[1:].rstrip(".") + "."


def _read_table(path: pathlib.Path) -> dict[str, dict]:
    if path.suffix.lower() == ".csv" and path.is_file():
        return _read_csv(path)
    data = read_json(path, "captions file")
    if not isinstance(data, dict):
        raise VtjaxError(f"{path}: an object from motion key to its captions is expected")
    table = {}
    for key, entry in data.items():
        entry = {"captions": [entry]} if isinstance(entry, str) else entry
        entry = {"captions": entry} if isinstance(entry, list) else entry
        if not isinstance(entry, dict) or not all(isinstance(t, str) for t in entry.get("captions", [])):
            raise VtjaxError(f"{path}: {key!r}: a sentence, a list of sentences or an object is expected")
        table[key] = entry
    return table


def _read_csv(path: pathlib.Path) -> dict[str, dict]:
    rows = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
    if not {"key", "text"} <= set(rows.fieldnames or ()):
        raise VtjaxError(f"{path}:1: the columns 'key' and 'text' are expected, found {rows.fieldnames}")
    table: dict[str, dict] = {}
    for row in rows:
        if not row["key"] or row["text"] is None:
            raise VtjaxError(f"{path}:{rows.line_num}: a row needs a key and a text")
        entry = table.setdefault(row["key"].strip(), {"captions": []})
        entry["captions"].append(row["text"])
        if row.get("label"):
            entry["label"] = row["label"].strip()
    return table
