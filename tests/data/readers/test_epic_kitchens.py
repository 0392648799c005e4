"""EPIC-KITCHENS-100 in the official layout, with the shipped class lists; rates of each video."""

import shutil

import numpy as np
import pytest

from vtjax.data.readers.epic_kitchens import classes, rasterise, read
from vtjax.data.video_records import Segment
from vtjax.errors import VtjaxError

HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
)


def row(name, video, start, stop, frame, verb, noun):
    times = f"00:00:00.5,{start},{stop},{frame},{frame + 9}"
    return f"{name},P01,{video},{times},open door,open,{verb},door,{noun},\"['door']\",\"[3]\"\n"


@pytest.fixture
def folder(tmp_path, shared_data):
    for kind in ("verb", "noun"):
        shutil.copy(shared_data / f"detection/EPIC_100_{kind}_classes.csv", tmp_path)
    (tmp_path / "EPIC_100_video_info.csv").write_text(
        "video_id,duration,fps,resolution\nP01_01,100.5,59.94,1920x1080\nP01_101,80,50.0,1920x1080\nP01_09,x,50,\n"
    )
    (tmp_path / "EPIC_100_validation.csv").write_text(
        HEADER
        + row("P01_01_1", "P01_01", "00:01:10.50", "00:01:12.00", 4225, 3, 3)
        + row("P01_01_0", "P01_01", "00:00:00.14", "00:00:03.37", 8, 3, 3)
        + row("P01_101_0", "P01_101", "00:00:10.00", "00:00:11.00", 600, 96, 299)
        + row("P01_101_0", "P01_101", "00:00:20.00", "00:00:21.00", 1000, 1, 1)
        + row("P01_101_2", "P01_101", "00:00:20.00", "00:00:21.00", 1000, 97, 1)
        + row("P01_101_3", "P01_101", "00:00:2z.00", "00:00:21.00", 1000, 1, 1)
        + "short,row\n"
    )
    return tmp_path


def test_layout_and_bad_rows(folder):
    records, coverage = read(folder)
    assert [(r.id, r.duration, r.fps) for r in records] == [("P01_01", 100.5, 59.94), ("P01_101", 80, 50)]
    times = [t for s in records[0].segments for t in (s.start, s.end)]
    assert times == pytest.approx([0.14, 3.37, 70.5, 72])
    first = records[0].segments[0]
    assert (first.label, first.noun, first.text, first.tag) == (3, 3, "open door", "P01_01_0")
    assert coverage.problems.counts() == {
        "narration_id is listed twice": 1, "verb_class or noun_class is not in the class lists": 1,
        "start is not a number": 1, "wrong number of columns": 1, "duration is not a number": 1,
    }  # fmt: skip
    assert coverage.notes.counts() == {"frame and time disagree at the rate": 1}
    assert coverage.notes.items[0].where.startswith(f"{folder}/EPIC_100_validation.csv:4")
    assert len(classes(folder, "verb")) == 97 and classes(folder, "noun")[3] == "cupboard"


def test_without_rates_none_is_assumed(folder):
    (folder / "EPIC_100_video_info.csv").unlink()
    records, coverage = read(folder)
    assert {(r.duration, r.fps) for r in records} == {(None, None)}
    assert "no durations and frame rates" in coverage.notes.counts()
    with pytest.raises(VtjaxError, match="split 'val'"):
        read(folder, split="val")


def test_rows_of_testras_rule():
    segments = (Segment(1.0, 2.1, "a", 4, 7), Segment(2.0, 2.2, "b", 0, 7), Segment(9.9, 99, "c", 1, 1))
    verbs, nouns = rasterise(segments, 44, 4.0, 98), rasterise(segments, 44, 4.0, 301, noun=True)
    expected = np.zeros((44, 98))
    for t in range(44):
        for s in segments:
            if np.floor(s.start * 4) <= t <= np.ceil(s.end * 4) - 1:
                expected[t, s.label + 1] = 1
        expected[t, 0] = not expected[t].any()
    np.testing.assert_array_equal(verbs, expected)
    assert verbs[8].sum() == 2 and nouns[8].sum() == 1 and nouns[8, 8] == 1 and verbs[39, 2] == 1
