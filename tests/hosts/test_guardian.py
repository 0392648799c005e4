"""Who is named when processes end without a word: from heartbeats alone, written here."""

import json
import subprocess
import sys
import time

import pytest

from vtjax.hosts import guardian, heartbeat


def write(folder, process, state, step=7, **more):
    record = {"process": process, "processes": 3, "host": f"host{process}", "state": state, "step": step, "beat": 1}
    heartbeat.file_of(folder, process).write_text(json.dumps({**record, **more}))


@pytest.mark.parametrize(
    "process, others, said",
    [
        (1, {0: "finished", 2: "finished"}, "process 1 of 3 (host host1) was killed or crashed at step 7"),
        (0, {1: "finished", 2: "finished"}, "process 0 of 3 (host host0) was killed or crashed at step 7"),
        (1, {0: "died", 2: "finished"}, "ended at step 7 because it lost process 0 (host host0), "),
        (1, {0: "died", 2: "died"}, "because it lost process 0 (host host0), "),
        (1, {0: "finished", 2: "died"}, "because it lost process 2 (host host2), "),
        (0, {1: "died", 2: ("failed", [1])}, "because it lost process 1 (host host1), "),
        (2, {0: ("failed", [2]), 1: ("failed", [2])}, "process 2 of 3 (host host2) was killed or crashed at step 7"),
        (2, {0: "died", 1: ("failed", [0, 2])}, "because it lost process 0 (host host0), "),
        (2, {0: ("failed", [1]), 1: "died"}, "because it lost process 1 (host host1), "),
        (2, {0: ("failed", []), 1: ("failed", [0])}, "because it lost process 0 (host host0), "),
        (1, {0: "running", 2: "finished"}, "because it lost process 0 (host host0), "),  # silent, as it does not beat
    ],
)
def test_who_is_to_blame(tmp_path, monkeypatch, process, others, said):
    monkeypatch.setattr(heartbeat, "SETTLE", 0.01)
    write(tmp_path, process, "running")
    for other, state in others.items():
        state, lost = state if isinstance(state, tuple) else (state, [])
        write(tmp_path, other, state, lost=lost, time=1.0, message="m")
    text = guardian.last_words(str(tmp_path), process, 3, 0.2)
    assert said in text
    assert heartbeat.read(tmp_path)[process]["state"] == "died"


@pytest.mark.parametrize(
    "word, state, said", [(b"bye", "running", ""), (b"", "died", "was killed or crashed at step 7")]
)
def test_the_program(tmp_path, word, state, said):
    write(tmp_path, 0, "running")
    command = [sys.executable, "-m", guardian.__name__, str(tmp_path), "0", "1", "0.1"]
    done = subprocess.run(command, input=word, capture_output=True, timeout=60)
    assert done.returncode == 0 and said in done.stderr.decode() and bool(done.stderr) == bool(said)
    assert heartbeat.read(tmp_path)[0]["state"] == state


def test_files_of_an_earlier_start_with_more_processes_are_removed(tmp_path):
    for process in range(4):
        write(tmp_path, process, "died")
    heartbeat.Heartbeat(tmp_path, 1, 2, 60).end("finished")
    assert set(heartbeat.read(tmp_path)) == {0, 1, 2, 3}
    heartbeat.Heartbeat(tmp_path, 0, 2, 60).end("finished")
    assert {p: r["state"] for p, r in heartbeat.read(tmp_path).items()} == {0: "finished", 1: "finished"}


def test_a_beating_heart_is_told_from_a_silent_one(tmp_path):
    beat = heartbeat.Heartbeat(tmp_path, 0, 2, 0.02)
    write(tmp_path, 1, "running")
    observer = heartbeat.Observer(tmp_path)
    for _ in range(20):
        observer.look()
        time.sleep(0.02)
    assert not observer.gone(0, 0.2) and observer.gone(1, 0.2) and not observer.gone(2, 0.0)
    beat.note(step=4)
    beat.end("finished")
    assert observer.look()[0]["step"] == 4 and not observer.gone(0, 0.0)
    assert "process 1 (host host1)" in heartbeat.describe(1, observer.records[1])
