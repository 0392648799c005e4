"""The metrics file: one line a step and split, never twice, whatever was cut off before."""

import json

import pytest

from vtjax.errors import VtjaxError
from vtjax.training.logging import MetricsWriter


def read(path):
    return [(line["step"], line["split"], line.get("a")) for line in map(json.loads, path.read_text().splitlines())]


def test_lines_are_whole_after_each_write(tmp_path):
    path = tmp_path / "x" / "metrics.jsonl"
    writer = MetricsWriter(path)
    writer.write(1, "train", {"a": 1.5, "b": float("nan"), "c": float("inf")})
    record = json.loads(path.read_text())  # before it is closed
    assert record.pop("time") > 1e9
    assert record == {"step": 1, "split": "train", "a": 1.5, "b": None, "c": None}
    writer.close()


def test_a_resumed_file_goes_on_from_the_restored_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path)
    for step in (2, 4, 6):
        writer.write(step, "train", {"a": step})
    writer.write(4, "eval", {"a": 40})
    writer.close()
    path.write_text(path.read_text() + '{"step": 7, "spl\n{"split": "train"}\n[1]\n{"step": 3, "split": "trai')
    writer = MetricsWriter(path, step=4)
    writer.write(4, "eval", {"a": 41})  # there already
    writer.write(4, "test", {"a": 42})
    writer.write(6, "train", {"a": 60})
    writer.close()
    assert read(path) == [(2, "train", 2), (4, "train", 4), (4, "eval", 40), (4, "test", 42), (6, "train", 60)]
    assert list(tmp_path.iterdir()) == [path]


def test_a_fresh_run_in_an_old_file_starts_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 5, "split": "train"}\n')
    MetricsWriter(path, step=0).close()
    assert path.read_text() == ""


def test_tensorboard_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(VtjaxError, match=r"pip install 'vtjax\[tensorboard\]'"):
        MetricsWriter(tmp_path / "m.jsonl", tensorboard=True)
