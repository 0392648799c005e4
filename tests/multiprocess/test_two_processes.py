"""Two processes on one machine, joined by gloo, train what one process trains; and both stop when one is told to."""

import contextlib
import signal
import socket

import commands
import numpy as np
import pytest

from vtjax.parallel.partition import flatten
from vtjax.training.checkpoint import Checkpoints, load_params

TOY = commands.ROOT / "tests" / "support" / "toy.py"


def free_port():
    with contextlib.closing(socket.socket()) as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def two(work, *arguments):
    common = (TOY, work, "--processes=2", f"--port={free_port()}", *arguments)
    processes = [commands.start(*common, f"--process={i}") for i in range(2)]
    try:
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stdout.close()


def finish(processes):
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [p.returncode for p in processes] == [0, 0], "\n".join(said)
    return said


def close(a, b, atol):
    a, b = flatten(a), flatten(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=atol, err_msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    work = tmp_path_factory.mktemp("alone") / "run"
    result = commands.run(TOY, work, "--steps=12", "--checkpoint_every=5")
    assert "finished=True" in result.stdout, result.stderr
    return load_params(work / "checkpoints")


def test_two_train_what_one_trains_with_random_streams_and_all(tmp_path, alone):
    with two(tmp_path / "run", "--steps=12", "--checkpoint_every=5") as processes:
        said = finish(processes)
    assert all("finished=True step=12" in text for text in said)
    close(load_params(tmp_path / "run/checkpoints"), alone, atol=1e-6)
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert len(lines) == 6 + 12, "one process writes"


def test_told_to_one_both_stop_at_the_same_step_and_one_process_goes_on(tmp_path, alone):
    arguments = ("--steps=12", "--checkpoint_every=5", "--pause=0.3")
    with two(tmp_path / "run", *arguments) as processes:
        for text in processes[1].stdout:
            if text.startswith("evaluated"):
                processes[1].send_signal(signal.SIGTERM)
                break
        said = finish(processes)
    steps = {text.split("finished=False step=")[-1].split()[0] for text in said}
    assert len(steps) == 1 and all("finished=False" in text for text in said), said
    step = int(steps.pop())
    assert 1 < step < 12 and step in Checkpoints(tmp_path / "run/checkpoints").steps()
    rest = commands.run(TOY, tmp_path / "run", *arguments[:2])
    assert "finished=True step=12" in rest.stdout, rest.stderr
    assert rest.stdout.count("evaluated") == 12 - step
    close(load_params(tmp_path / "run/checkpoints"), alone, atol=1e-6)
