"""Programs that are killed, terminated, or left without disk space, and what the next start makes of it."""

import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import commands
import numpy as np
import pytest

from vtjax.sharding.partition import flatten
from vtjax.training.checkpoint import load_params

TOY = commands.ROOT / "tests" / "support" / "toy.py"


def same(a, b):
    a, b = flatten(a), flatten(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def kill_at_random(process, line, most_lines, rng):
    """Kills by SIGKILL within 50 ms after a random one of the lines that start with `line`; the number seen."""
    wanted, seen, said = rng.randint(1, most_lines), 0, []
    for text in process.stdout:
        said.append(text)
        seen += text.startswith(line)
        if seen == wanted:
            time.sleep(rng.uniform(0, 0.05))
            process.kill()
            break
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL, "".join(said)
    return seen


def curves(path):
    """(step, split) and values of every line, without times."""
    lines = map(json.loads, path.read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in ("time", "examples_per_second", "data_wait")} for line in lines]


def test_killed_three_times_and_resumed_bitwise(tmp_path):
    arguments = ("--steps=60", "--checkpoint_every=3", "--pause=0.01")
    whole = commands.run(TOY, tmp_path / "whole", *arguments)
    assert "finished=True step=60" in whole.stdout, whole.stderr
    rng = random.Random(os.getpid())
    for _ in range(3):
        kill_at_random(commands.start(TOY, tmp_path / "parts", *arguments), "evaluated", 18, rng)
    last = commands.run(TOY, tmp_path / "parts", *arguments)
    assert "finished=True step=60" in last.stdout, last.stderr
    assert last.stdout.count("evaluated") < 60, "it went on, and did not start again"
    same(load_params(tmp_path / "parts/checkpoints"), load_params(tmp_path / "whole/checkpoints"))
    assert curves(tmp_path / "parts/metrics.jsonl") == curves(tmp_path / "whole/metrics.jsonl")
    left = [p.name for p in (tmp_path / "parts/checkpoints").iterdir()]
    assert sorted(left) == ["57", "60"]


def test_sigterm_saves_and_exits_with_0(tmp_path):
    process = commands.start(TOY, tmp_path, "--steps=100000", "--checkpoint_every=0", "--pause=0.01")
    for text in process.stdout:
        if text.startswith("evaluated"):
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stdout.read()
    assert process.wait() == 0, rest
    assert "finished=False" in rest and "SIGTERM received: saving after this step" in rest
    step = int(rest.split("step=")[-1].split()[0])
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [str(step)]


@contextlib.contextmanager
def small_disk(folder):
    """A file system of 4 MiB, or None where this user may not mount one."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True)
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("kind", ["full disk", "file size limit"])
def test_a_full_disk_during_a_save(tmp_path, kind):
    common = (TOY, tmp_path / "disk" / "run", "--checkpoint_every=2", "--eval_every=0", "--width=12000")
    context = small_disk(tmp_path / "disk") if kind == "full disk" else contextlib.nullcontext(True)
    with context as usable:
        if not usable:
            pytest.skip("this user may not mount a file system; the other case limits the size of files instead")
        first = commands.run(*common, "--steps=2")
        assert "finished=True step=2" in first.stdout, first.stderr
        good = load_params(tmp_path / "disk/run/checkpoints")
        limit = () if kind == "full disk" else ("--file_limit=200000",)
        if kind == "full disk":  # leave room for some of the next checkpoint, and not for all of it
            free = shutil.disk_usage(tmp_path / "disk").free
            (tmp_path / "disk" / "filler").write_bytes(os.urandom(max(free - 150_000, 0)))
        second = commands.run(*common, "--steps=8", *limit)
        commands.refused(second, "No space left on device" if kind == "full disk" else "File too large", "step 4 could not be written", "the last complete one is step 2", "MiB are free", "--work_directory")
        same(load_params(tmp_path / "disk/run/checkpoints"), good)
        left = [p.name for p in (tmp_path / "disk/run/checkpoints").iterdir() if p.name.isdigit()]
        assert left == ["2"]
        (tmp_path / "disk" / "filler").unlink(missing_ok=True)
        shutil.copytree(tmp_path / "disk/run", tmp_path / "copy/run")
    # With room again the run goes on from step 2, and what was half-written is gone.
    third = commands.run(TOY, tmp_path / "copy/run", *common[2:], "--steps=8", "--keep=1")
    assert "finished=True step=8" in third.stdout, third.stderr
    assert [p.name for p in pathlib.Path(tmp_path / "copy/run/checkpoints").iterdir()] == ["8"]
