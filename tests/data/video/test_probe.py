"""Looking at files without preparing them."""

import os
import pathlib
import subprocess
import sys

import pytest

from vtjax.data.video.probe import probe, probe_all
from vtjax.errors import Problems, VtjaxError

ROOT = pathlib.Path(__file__).parents[3]


def test_what_is_in_a_file(video, tmp_path):
    path = video.write(tmp_path / "a.mp4", 30, gop=10, rotation=90, options={"x264-params": "scenecut=0"})
    info = probe(path)
    assert (info.height, info.width, info.rotation, info.frames) == (64, 48, 90, 30)
    assert info.seconds == pytest.approx(3.0) and info.fps == pytest.approx(10) and not info.varying
    assert info.key_seconds == pytest.approx(1.0) and info.codec == "h264"
    assert info.damage == ""
    varying = video.write(tmp_path / "b.mkv", 5, pts=[0, 40, 90, 400, 440])
    assert probe(varying).varying


def test_rounded_time_stamps_are_not_a_varying_rate(video, tmp_path):
    assert not probe(video.write(tmp_path / "a.mkv", 20, fps=30)).varying


def test_the_command(good, tmp_path):
    (tmp_path / "a.mp4").write_bytes(good[".mp4"].read_bytes())
    (tmp_path / "b.mkv").write_bytes(good[".mkv"].read_bytes()[:-900])
    (tmp_path / "c.mp4").write_bytes(b"")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "vtjax.data.video.probe", str(tmp_path), "--exact"]
    result = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert result.returncode == 2, result.stderr
    assert "a.mp4: 64x48, 30 frames, 3.00 s, 10 fps" in result.stdout
    assert "damaged: " in result.stdout and "of 30 frames are there" in result.stdout
    assert "left out 1: empty file (0 bytes)" in result.stdout


def test_nothing_to_look_at(tmp_path):
    with pytest.raises(VtjaxError, match="no videos in it"):
        probe_all([tmp_path], Problems())
