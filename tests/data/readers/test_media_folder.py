"""Finding the files of videos on disk."""

import pytest

from vtjax.data.readers.coverage import Coverage
from vtjax.data.readers.media_folder import MediaFolder, files_below, stem
from vtjax.data.video_records import VideoRecord
from vtjax.errors import VtjaxError


@pytest.fixture
def folder(tmp_path):
    for name in ("train/abc.mp4", "train/dup.mp4", "val/dup.webm", "dotted.name.v2.avi", "feat.webm.npy", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "empty.mp4").touch()
    return tmp_path


def test_stem_strips_known_suffixes_only():
    assert stem("a.mp4.npy") == stem("a.MP4") == "a"
    assert stem("dotted.name.v2.avi") == "dotted.name.v2" and stem("x.y") == "x.y" and stem(".mp4") == ".mp4"


def test_found_by_path_then_by_name(folder):
    media = MediaFolder(folder)
    assert len(media) == 5
    assert media.find("abc") == media.find("train/abc.avi") == media.find("abc.mp4") == folder / "train/abc.mp4"
    assert media.find("dotted.name.v2") == folder / "dotted.name.v2.avi"
    assert media.find("feat") == media.find("feat.webm") == folder / "feat.webm.npy"
    assert media.find("val/dup") == folder / "val/dup.webm" and not media.ambiguous
    assert media.find("dup") == folder / "train/dup.mp4" and media.ambiguous == ["dup"]
    assert media.find("notes") is None and media.find("empty") is None
    assert media.empty == [str(folder / "empty.mp4")]


def test_coverage_says_what_is_missing(folder):
    records = [VideoRecord(i, v, f"a.csv:{n}") for n, (i, v) in enumerate([("1", "abc"), ("2", "empty"), ("3", "abc")])]
    coverage = Coverage("train", "videos", "rows")
    placed, _ = coverage.finish([*records, records[0]], folder)
    assert [r.path for r in placed] == [folder / "train/abc.mp4", None, folder / "train/abc.mp4"]
    assert (coverage.annotated, coverage.used, coverage.on_disk, coverage.missing) == (2, 3, 1, ["empty"])
    assert coverage.problems.counts() == {"the id is listed twice": 1}
    report = coverage.report()
    assert "1 of 2; missing 1: empty" in report and "note on 1: empty file" in report
    with pytest.raises(VtjaxError, match="no such folder"):
        Coverage("train", "videos").finish(records, folder / "absent")


def test_links_are_followed_but_not_in_circles_and_what_cannot_be_read_is_told(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    for folder in (root / "sub", other):
        folder.mkdir(parents=True)
    for path in (root / "a.mp4", root / "sub/b.mp4", other / "c.mp4", root / ".hidden.mp4"):
        path.write_bytes(b"x")
    (root / "sub" / "back").symlink_to(root)
    (root / "sub" / "self").symlink_to(root / "sub")
    (root / "there").symlink_to(other)
    (root / "gone.mp4").symlink_to(tmp_path / "nothing.mp4")
    unreadable = []
    found = [path.relative_to(root).as_posix() for path in files_below(root, unreadable)]
    assert found == ["a.mp4", "gone.mp4", "sub/b.mp4", "there/c.mp4"] and not unreadable
    assert list(files_below(tmp_path / "absent", unreadable)) == [] and unreadable == [str(tmp_path / "absent")]
    folder = MediaFolder(root)
    assert len(folder) == 3 and folder.unreadable == [str(root / "gone.mp4")]
    assert folder.find("c") == root / "there/c.mp4"
