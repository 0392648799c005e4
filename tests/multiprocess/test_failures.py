"""One of several processes dies, hangs, never comes or is another program: the others say so and end in time."""

import json
import os
import signal
import socket
import time

import commands
import pytest
from several import Several

from vtjax.hosts.processes import LOST

HOST = socket.gethostname()
LONG = ("--steps=100000", "--checkpoint_every=5", "--pause=0.05", "--batch_size=12")


@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed(tmp_path, victim):
    """Of three; the first also coordinates them."""
    with Several(3, tmp_path / "run", *LONG) as processes:
        assert processes.wait_for(victim, "evaluated", 7)
        processes.processes[victim].kill()
        killed = time.monotonic()
        ended = processes.end(timeout=90)
        assert time.monotonic() - killed < 60
    for i, (status, said) in ended.items():
        if i == victim:
            assert status == -signal.SIGKILL
            assert f"error: process {i} of 3 (host {HOST}) was killed or crashed at step" in said
            continue
        assert status in ((LOST, -signal.SIGABRT) if victim == 0 else (LOST,)), said
        assert f"lost process {victim} (host {HOST})" in said and "killed or crashed" in said, said
    states = [json.loads(p.read_text())["state"] for p in sorted((tmp_path / "run/heartbeats").iterdir())]
    assert states[victim] == "died" and set(states) <= {"died", "failed"}


def test_one_hangs_and_the_save_names_it(tmp_path):
    arguments = (tmp_path / "run", "--steps=20", "--checkpoint_every=5", "--save=3")
    with Several(2, *arguments, "--hang=1:5") as processes:
        assert processes.wait_for(1, "evaluated", 5)
        began = time.monotonic()
        ended = processes.end(timeout=60)
        assert time.monotonic() - began < 60
    assert ended[0][0] == LOST
    assert f"error: process 1 (host {HOST}), last heard of" in ended[0][1]
    assert "has not arrived within 3 s (save); once all processes run again" in ended[0][1]
    assert ended[1][0] in (LOST, -signal.SIGABRT), "it is ended, too"


@pytest.mark.parametrize("missing", [0, 1])
def test_one_never_comes_and_the_start_names_it(tmp_path, missing):
    began = time.monotonic()
    with Several(2, tmp_path / "run", "--startup=6", "--heartbeat=0.3", ranks=[1 - missing]) as processes:
        ((status, said),) = processes.end(timeout=120).values()
    assert status == LOST and time.monotonic() - began < 90
    for words in (f"process {missing} did not arrive within 6 s", f"arrived: process {1 - missing} (host {HOST})",
                  "coordinator localhost:", "heartbeats"):  # fmt: skip
        assert words in said, said


@pytest.mark.parametrize(
    "difference, words",
    [
        ({"each": {1: ("--fingerprint=other",)}},
         ['differ in their data', f'fingerprint: "toy" on process 0 ({HOST}), "other" on process 1 ({HOST})']),
        ({"environments": {1: {"XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_dump_max_hlo_modules=1"}}},
         ["differ in their library", "XLA_FLAGS: ", "--xla_dump_max_hlo_modules=1"]),
    ],
)  # fmt: skip
def test_processes_that_differ_are_refused(tmp_path, difference, words):
    with Several(2, tmp_path / "run", "--steps=3", **difference) as processes:
        ended = processes.end()
    for status, said in ended.values():
        assert status == 2, said
        for word in words:
            assert word in said, said
    assert "evaluated" not in ended[0][1]


def test_other_settings_are_refused_before_anything_is_written(tmp_path):
    """The training command itself, with a seed of its own in each process."""
    config = f"--config={commands.ROOT}/configs/car.py:smoke"

    def command(i, count, port):
        places = (f"--coordinator=localhost:{port}", f"--processes={count}", f"--process={i}")
        return ("-m", "vtjax.train", config, f"--config.seed={i}", f"--work_directory={tmp_path / 'run'}", *places)

    with Several(2, command=command) as processes:
        ended = processes.end()
    for status, said in ended.values():
        assert status == 2 and "the processes differ in their configuration:" in said, said
        assert f"seed: 0 on process 0 ({HOST}), 1 on process 1 ({HOST})" in said
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["heartbeats"]


def test_an_error_of_one_is_told_by_all(tmp_path):
    """The second has a limit on the size of its files, as if its disk were full."""
    arguments = ("--steps=100000", "--checkpoint_every=2", "--width=12000", "--eval_every=0", "--save=6")
    with Several(2, tmp_path / "run", *arguments, each={1: ("--file_limit=100000",)}) as processes:
        ended = processes.end()
    assert ended[1][0] == 2 and "could not be written" in ended[1][1] and "File too large" in ended[1][1]
    status, said = ended[0]
    assert status in (2, LOST) and "process 1 (" in said and "File too large" in said, said
