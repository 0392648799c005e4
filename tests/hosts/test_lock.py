"""Two trainings do not share a work directory; the lock of a dead one, or one silent elsewhere, is taken over."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import commands
import pytest
from several import Several

from vtjax.errors import VtjaxError
from vtjax.hosts import lock, session

HOLD = """
import sys, time
from absl import logging
from vtjax.hosts import lock
with lock.held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
print("released", flush=True)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(session, "current", None)
    for name, seconds in (("REFRESH", 0.1), ("SILENCE", 1.0), ("SETTLE", 0.1)):
        monkeypatch.setattr(lock, name, seconds)


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path / "run"."""
    process = commands.start("-c", HOLD, tmp_path / "run", 600)
    for text in process.stdout:
        if text == "held\n":
            break
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def record(work):
    return json.loads((work / lock.NAME).read_text())


def write(work, **changes):
    work.mkdir(exist_ok=True)
    who = {"token": "other", "host": "far", "pid": 77, "machine": "far away", "process_started": "1"}
    (work / lock.NAME).write_text(json.dumps({**who, "since": "noon", "count": 0, **changes}))


def test_a_second_process_is_refused_with_the_name_of_the_first(tmp_path, holder):
    began = time.monotonic()
    with pytest.raises(lock.WorkInUse) as error, lock.held(tmp_path / "run"):
        raise AssertionError("held twice")
    who = f"process {holder.pid} on host {socket.gethostname()}, started 20"
    assert str(error.value).startswith(f"{tmp_path / 'run'} is in use by another training: {who}")
    assert "--work_directory" in str(error.value)
    assert time.monotonic() - began < 0.5 and record(tmp_path / "run")["pid"] == holder.pid


def test_the_training_command_is_refused_and_other_commands_are_not(tmp_path, holder, trained):
    config = f"--config={commands.ROOT}/configs/car.py:smoke"
    second = commands.run("-m", "vtjax.train", config, f"--work_directory={tmp_path / 'run'}")
    commands.refused(second, "is in use by another training", f"process {holder.pid} on host {socket.gethostname()}")
    assert holder.poll() is None and not (tmp_path / "run" / "config.json").exists()
    with lock.held(trained):
        done = commands.run("-m", "vtjax.evaluate", f"--work_directory={trained}", timeout=300)
        assert done.returncode == 0, done.stderr
    assert not (trained / lock.NAME).exists()


def test_sigkill_leaves_a_lock_that_the_next_takes_over_at_once(tmp_path, holder, caplog):
    holder.kill()
    holder.wait()
    began = time.monotonic()
    with lock.held(tmp_path / "run"):
        assert time.monotonic() - began < 0.8 and record(tmp_path / "run")["pid"] == os.getpid()
    assert f"taken over from process {holder.pid} on host " in caplog.text
    assert not (tmp_path / "run" / lock.NAME).exists()


def test_sigterm_releases_it_and_ends_the_process_as_ever(tmp_path, holder):
    holder.send_signal(signal.SIGTERM)
    assert holder.wait(30) == -signal.SIGTERM and not (tmp_path / "run" / lock.NAME).exists()


def test_another_process_with_the_id_of_a_dead_holder_is_not_it(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        write(tmp_path, machine=lock._machine(), pid=other.pid, process_started=lock._process_start(other.pid))
        with pytest.raises(lock.WorkInUse, match=f"process {other.pid} on host far, started noon"), lock.held(tmp_path):
            pass
        write(tmp_path, machine=lock._machine(), pid=other.pid, process_started="1")
        with lock.held(tmp_path):
            assert record(tmp_path)["pid"] == os.getpid()
        other.kill()
    assert lock._process_start(other.pid) == ""


def test_a_holder_on_another_machine_that_is_silent_is_waited_for_and_then_taken_over(tmp_path, caplog):
    write(tmp_path)
    began = time.monotonic()
    with lock.held(tmp_path):
        assert time.monotonic() - began > 1.0
    assert "held by process 77 on host far, started noon: waiting up to 1 s to see whether that one" in caplog.text
    assert "taken over from process 77 on host far, started noon, which no longer runs" in caplog.text


def test_a_holder_on_another_machine_that_writes_is_not(tmp_path):
    write(tmp_path)
    threading.Timer(0.3, write, (tmp_path,), {"count": 1}).start()
    began = time.monotonic()
    with pytest.raises(lock.WorkInUse, match="process 77 on host far"), lock.held(tmp_path):
        pass
    assert time.monotonic() - began < 0.9


def test_a_lock_that_is_released_while_another_waits_is_free(tmp_path):
    write(tmp_path)
    threading.Timer(0.3, (tmp_path / lock.NAME).unlink).start()
    began = time.monotonic()
    with lock.held(tmp_path):
        assert time.monotonic() - began < 0.9


def test_the_holder_refreshes_and_an_error_releases(tmp_path):
    with pytest.raises(ZeroDivisionError), lock.held(tmp_path / "a" / "b"):
        time.sleep(0.5)
        assert record(tmp_path / "a" / "b")["count"] >= 2
        raise ZeroDivisionError
    assert not list((tmp_path / "a" / "b").iterdir())


def test_a_lock_of_nobody_known_is_taken_over_after_the_wait(tmp_path):
    (tmp_path / lock.NAME).write_text("")
    with lock.held(tmp_path):
        assert record(tmp_path)["pid"] == os.getpid()


@pytest.mark.parametrize("bucket, free", [(False, False), (False, True), (True, False), (True, True)])
def test_of_many_at_once_one_gets_it(tmp_path, monkeypatch, bucket, free):
    """With a plain folder in the bucket's place."""
    monkeypatch.setattr(lock, "is_remote", lambda path: bucket)
    if not free:
        write(tmp_path, machine=lock._machine(), pid=2**22 + 1)
    got, refused = [], []

    def take():
        try:
            with lock.held(tmp_path):
                got.append(record(tmp_path)["token"])
                time.sleep(2)
        except lock.WorkInUse:
            refused.append(1)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1 and len(refused) == 7 and not (tmp_path / lock.NAME).exists()


def test_who_lost_the_lock_ends(tmp_path):
    """As after a pause of the whole machine, in which another has taken over."""
    code = f"from vtjax.hosts import lock; lock.REFRESH = 0.1\n{HOLD}"
    process = commands.start("-c", code, tmp_path, 600)
    for text in process.stdout:
        if text == "held\n":
            break
    write(tmp_path)
    rest = process.stdout.read()
    process.stdout.close()
    assert process.wait() == 2 and "was taken over by process 77 on host far, started noon" in rest
    assert record(tmp_path)["token"] == "other"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(VtjaxError, match="file"), lock.held(place):
            pass


PARALLEL = """
import pathlib, sys
from vtjax import command_line
from vtjax.hosts import lock, processes
work, count, index, port = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
def main(_):
    processes.join("on", work / "heartbeats", coordinator=f"localhost:{port}", processes=count, process=index)
    with lock.held(work):
        processes.barrier("all hold it")
        print("held by", lock.json.loads((work / lock.NAME).read_text())["pid"], flush=True)
        processes.barrier("all have looked")
command_line.run(main, ["x"])
"""


def test_of_several_processes_the_first_holds_it_and_all_are_refused(tmp_path):
    def command(i, count, port):
        return ("-c", PARALLEL, tmp_path, count, i, port)

    with Several(2, command=command) as processes:
        said = processes.finish()
        assert all(f"held by {processes.processes[0].pid}\n" in text for text in said.values())
    assert not (tmp_path / lock.NAME).exists()
    with lock.held(tmp_path), Several(2, command=command) as processes:
        ended = processes.end()
    for status, text in ended.values():
        assert status == 2 and f"in use by another training: process {os.getpid()} on host" in text, text
