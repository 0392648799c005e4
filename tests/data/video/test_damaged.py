"""Damaged files in a folder of good ones: the run finishes, the good are there, the bad listed, memory bounded."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from vtjax.data.video.store import VideoStore

ROOT = pathlib.Path(__file__).parents[3]
MEASURED = """
import resource, sys
from vtjax.data.video.prepare import Options, prepare
if __name__ == "__main__":
    print(prepare(Options(sys.argv[2], sys.argv[1], processes=2, memory=2.0)))
    # Its own ru_maxrss still holds the parent's peak after fork and exec; VmHWM does not.
    own = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, own)
"""


def run(root, output):
    script = root.parent / "measured.py"
    script.write_text(MEASURED)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, str(script), str(root), str(output)], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    peak = max(map(int, result.stdout.rsplit("peak", 1)[1].split())) / 1024
    return result.stdout, peak


def check(root, good, video, count, tmp_path, seed):
    root.mkdir()
    for number in range(12):
        source = sorted(good.values())[number % len(good)]
        (root / f"fine{number:02d}{source.suffix}").write_bytes(source.read_bytes())
    bad = video.spoil(root, good, count, np.random.default_rng(seed))
    text, peak = run(root, tmp_path / "out")
    store = VideoStore(tmp_path / "out")
    store.verify()
    keys = set(store.keys)
    assert {f"fine{number:02d}" for number in range(12)} <= keys
    for index, key in enumerate(store.keys):
        if key.startswith("fine"):
            stored = store.open(index)
            assert stored.damage == "" and len(stored) == 12 and stored.frames([0, 11]).shape == (2, 48, 64, 3)
    problems = [json.loads(line) for line in (tmp_path / "out/problems.jsonl").read_text().splitlines()]
    listed = {pathlib.Path(p["where"]).name: p for p in problems}
    assert set(listed) <= set(bad) and all(p["reason"] for p in problems)
    # What is not listed decodes to the last frame without any sign of damage: flips in bytes that nothing reads.
    unlisted = [name for name in bad if name not in listed]
    assert all(name.split("_")[1][0] in "23" for name in unlisted), unlisted
    assert len(unlisted) <= 0.1 * count
    assert "all of them: " in text
    assert peak < 300, f"{peak} MiB"
    return listed, peak


def test_a_few_damaged_files(good, video, tmp_path):
    listed, _ = check(tmp_path / "mixed", good, video, 28, tmp_path, 1)
    reasons = {p["reason"] for p in listed.values()}
    assert len(reasons) >= 5
    assert "a play list or text, not a video" in reasons and "kept, but damaged" in reasons


@pytest.mark.slow
def test_two_hundred_damaged_files(good, video, tmp_path):
    listed, peak = check(tmp_path / "mixed", good, video, 200, tmp_path, 2)
    print(len(listed), "listed, peak", round(peak), "MiB")
