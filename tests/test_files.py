import os

import pytest

from vtjax.errors import VtjaxError
from vtjax.files import write_atomically


def test_writes_text_and_bytes_and_makes_parents(tmp_path):
    path = write_atomically(tmp_path / "a" / "b.txt", "é")
    assert path.read_bytes() == "é".encode()
    assert write_atomically(str(path), b"\x00\x01").read_bytes() == b"\x00\x01"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = write_atomically(tmp_path / "b.txt", "old")

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(VtjaxError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["b.txt"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VtjaxError, match="cannot be written"):
        write_atomically(tmp_path / "file" / "b.txt", "x")
