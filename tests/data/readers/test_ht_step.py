"""HT-Step: the counts of val_seen in mptva.md 7.1, and bad rows."""

import collections
import json

import numpy as np
import pytest

from vtjax.data.readers.ht_step import articles, read
from vtjax.errors import VtjaxError


def test_counts_are_the_sheets(shared_data):
    records, coverage = read(shared_data / "instructional/htstep")
    segments = [s for r in records for s in r.segments]
    assert (len(records), len(segments)) == (600, 3441) and not coverage.problems and not coverage.notes
    assert sum(len({s.label for s in r.segments}) for r in records) == 2387
    assert collections.Counter(s.tag for s in segments) == {"Partial Match": 2440, "Full Match": 1001}
    assert len({r.script.title for r in records}) == 120
    assert sum(len(r.script.steps) for r in records) == 6078  # 10.13 candidates a video
    lengths = [s.end - s.start for s in segments]
    assert np.mean(lengths) == pytest.approx(15.9, abs=0.05) and np.median(lengths) == pytest.approx(7.7, abs=0.05)
    durations = np.array([r.duration for r in records])
    assert (int((durations > 1024).sum()), int((durations < 64).sum()), durations.max()) == (13, 2, 1759)
    assert round(durations.mean()) == 383
    repeated = [r for r in records if len({s.text for s in r.script.steps}) < len(r.script.steps)]
    assert len(repeated) == 5  # told apart by id only
    assert all(r.script.index(s.label) >= 0 for r in records for s in r.segments)


def test_taxonomy_counts(shared_data):
    found = articles(shared_data / "instructional/htstep")
    assert sum(len(a.steps) for a in found.values()) == 4958
    assert len({activity for activity, _ in found}) == 433
    assert sum(len(a.steps) for (_, variation), a in found.items() if variation == "none") == 3315


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "taxonomy.csv").write_text(
        "global_step_index,activity,step_index,variation,variation_index,headline,paragraph\n"
        '0,Tea,0,none,1,Boil water.,"Hot, very."\n1,Tea,1,none,1,Pour.,\n'
        "2,Soup,0,quick,1,Cut.,\n3,Soup,0,slow,2,Cut.,\n"
    )
    splits = {s: [] for s in ("train", "val_unseen", "test_seen", "test_unseen")}
    (tmp_path / "video_splits.json").write_text(json.dumps({**splits, "val_seen": ["a", "b", "c", "d", "e"]}))
    return tmp_path


def entry(activity, *rows, **more):
    made = [{"id": i, "segment": [s, e], "partial": "Full Match"} for i, s, e in rows]
    return {"subset": "val_seen", "activity": activity, "duration": 60.0, "annotations": made, **more}


def test_bad_rows(folder):
    data = {
        "a": entry("Tea", (1, 2, 5), (0, 50, 61), (2, 1, 2), (1, 9, 8), (1, 70, 80), ("x", 1, 2)),
        "b": entry("Soup", (2, 1, 2), (3, 4, 5)),
        "c": entry("Soup", (3, 1, 2), variation="quick"),
        "zz": entry("Tea", (0, 1, 2)),
        "d": entry("Tea", (0, 1, 2), duration=0),
        "e": {**entry("Tea"), "annotations": [{"id": 0, "segment": [1, 2], "partial": "Half"}]},
        "train1": {**entry("Tea", (0, 1, 2)), "subset": "train"},
    }
    (folder / "annotations.json").write_text(json.dumps(data, indent=1))
    records, coverage = read(folder)
    assert [r.id for r in records] == ["a", "c"]
    assert [(s.start, s.end, s.text, s.label) for s in records[0].segments] == [
        (2, 5, "Pour.", 1), (50, 60, "Boil water.", 0),
    ]  # fmt: skip
    assert [s.text for s in records[0].script.steps] == ["Boil water.", "Pour."] and records[1].script.steps[0].id == 2
    assert records[0].script.steps[0].detail == "Hot, very."
    assert coverage.notes.counts() == {"the segment ends after the video, cut": 1}
    assert coverage.problems.counts() == {
        "the step is not of the video's activity": 1,
        "the segment ends before it starts": 1,
        "the segment starts after the video": 1,
        "id is not a number": 1,
        "the segments are of several variations of the activity": 1,
        "annotated, but video_splits.json lists it in another split or not at all": 1,
        "the duration is not positive": 1,
        "'partial' is neither 'Full Match' nor 'Partial Match'": 1,
        "no usable segment": 1,
    }
    assert (coverage.listed, coverage.annotated) == (5, 2)
    line = (folder / "annotations.json").read_text().splitlines().index(' "zz": {') + 1
    assert any(p.where.startswith(f"{folder}/annotations.json:{line}: zz") for p in coverage.problems.items)


def test_errors(folder):
    with pytest.raises(VtjaxError, match="did you mean 'val_seen'"):
        read(folder, split="val_sen")
    with pytest.raises(VtjaxError, match="annotations.json"):
        read(folder)
    (folder / "taxonomy.csv").write_text("a,b\n")
    with pytest.raises(VtjaxError, match=r"taxonomy\.csv:1: column 'global_step_index'"):
        read(folder)
