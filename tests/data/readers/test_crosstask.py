"""CrossTask: the release's counts, and bad rows."""

import collections
import tarfile

import pytest

from vtjax.data.readers.crosstask import read, tasks
from vtjax.errors import VtjaxError


def test_counts_are_the_releases(shared_data):
    root = shared_data / "instructional/crosstask"
    assert len(tasks(root / "tasks_primary.txt")) == 18 and len(tasks(root / "tasks_related.txt")) == 65
    records, coverage = read(root)
    assert len(records) == 2750 and not coverage.problems and not coverage.notes
    assert len({r.script.task for r in records}) == 18 and coverage.rows_used == 20919
    per_task = collections.Counter(r.script.task for r in records if r.split == "val")
    assert len(per_task) == 18 and set(per_task.values()) == {20}
    assert sum(r.split == "train" for r in records) == 2390
    assert all(s.text == r.script.steps[s.label].text and s.label >= 0 for r in records for s in r.segments)
    everything, coverage = read(root, annotated=False)
    assert len(everything) == 4700 and sum(bool(r.segments) for r in everything) == 2750 and not coverage.problems
    assert len(read(root, split="val")[0]) == 360


def test_one_file_by_hand(shared_data):
    root = shared_data / "instructional/crosstask"
    with tarfile.open(root / "annotations.tar.gz") as tar:
        lines = tar.extractfile("annotations/105222_-YtYoSwdUf8.csv").read().decode().split()
    record = next(r for r in read(root)[0] if r.id == "105222_-YtYoSwdUf8")
    assert record.video == "-YtYoSwdUf8" and record.where.endswith("!annotations/105222_-YtYoSwdUf8.csv")
    assert [f"{s.label + 1},{s.start:g},{s.end:g}" for s in record.segments] == [
        ",".join(f"{float(v):g}" for v in line.split(",")) for line in lines
    ]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tasks_primary.txt").write_text("23\nMake Tea\nhttp://x\n2\nboil water,pour tea\n\n")
    (tmp_path / "tasks_related.txt").write_text("99\nMake Soup\nhttp://y\n1\nstir\n\n")
    (tmp_path / "videos.csv").write_text("23,a_b,u\n23,two,u\n99,soup,u\nbroken\n23,none,u\n")
    (tmp_path / "videos_val.csv").write_text("23,two,u\n")
    (tmp_path / "annotations").mkdir()
    for name, text in {
        "23_a_b.csv": "2,1.5,3\n3,1,2\n1,5,4\n1,x,4\n1,2\n\n1,-1,4\n",
        "23_two.csv": "1,0,2.5\n",
        "23_unlisted.csv": "1,0,2\n",
        "readme.csv": "",
    }.items():
        (tmp_path / "annotations" / name).write_text(text)
    return tmp_path


def test_bad_rows(folder):
    records, coverage = read(folder)
    assert [(r.id, r.split) for r in records] == [("23_a_b", "train"), ("23_two", "val")]
    assert [(s.start, s.end, s.text, s.label) for s in records[0].segments] == [(1.5, 3, "pour tea", 1)]
    assert coverage.problems.counts() == {
        "the task has no such step": 1,
        "the segment ends before it starts": 1,
        "start is not a number": 1,
        "'step,start,end' is expected": 1,
        "the segment starts before the video": 1,
        "'task,video,URL' is expected": 1,
        "annotated, but not in videos.csv": 1,
        "the file name is not {task}_{video}.csv of a known task": 1,
        "no usable step times": 1,
    }
    assert any(f"{folder}/annotations/23_a_b.csv:2" in p.where for p in coverage.problems.items)
    assert [r.id for r in read(folder, split="val")[0]] == ["23_two"]
    assert [r.id for r in read(folder, annotated=False)[0]] == ["23_a_b", "23_two", "99_soup", "23_none"]


def test_errors(folder):
    with pytest.raises(VtjaxError, match="no split 'test'"):
        read(folder, split="test")
    (folder / "tasks_primary.txt").write_text("23\nMake Tea\nhttp://x\n3\nboil water,pour tea\n")
    with pytest.raises(VtjaxError, match=r"tasks_primary\.txt:1: task 23 declares 3 steps and lists 2"):
        read(folder)
    (folder / "tasks_primary.txt").write_text("23\nMake Tea\n")
    with pytest.raises(VtjaxError, match="blocks of 5 lines"):
        read(folder)
