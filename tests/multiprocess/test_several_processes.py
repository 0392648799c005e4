"""Several processes on one machine, joined by gloo, train what one process trains; all stop when one is told to."""

import json
import signal

import commands
import pytest
from several import TOY, Several, close, read_order

from vtjax.training.checkpoint import Checkpoints, load_params

ARGUMENTS = ("--steps=12", "--checkpoint_every=5")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Parameters after one process's run, and the rows of its batches."""
    work = tmp_path_factory.mktemp("alone")
    result = commands.run(TOY, work / "run", *ARGUMENTS, f"--order={work / 'order'}")
    assert "finished=True" in result.stdout, result.stderr
    return load_params(work / "run/checkpoints"), read_order(work / "order")


@pytest.mark.parametrize("count, more", [(2, ()), (4, ("--fsdp=2",))])
def test_they_train_what_one_trains_with_random_streams_and_all(tmp_path, alone, count, more):
    with Several(count, tmp_path / "run", *ARGUMENTS, f"--order={tmp_path / 'order'}", *more) as processes:
        said = processes.finish()
    assert all("finished=True step=12" in text for text in said.values())
    params, order = alone
    close(load_params(tmp_path / "run/checkpoints"), params)
    own = read_order(tmp_path / "order")
    assert all(own[step] == order[step] for step in range(12)), "bitwise the same rows in the same places"
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert len(lines) == 6 + 12, "one process writes"
    beats = [json.loads(p.read_text()) for p in sorted((tmp_path / "run/heartbeats").iterdir())]
    assert [(b["process"], b["state"], b["step"]) for b in beats] == [(i, "finished", 12) for i in range(count)]
    assert all(b["host"] and b["time"] > 1e9 and b["processes"] == count for b in beats)


def test_told_to_one_all_stop_at_the_same_step_and_another_number_goes_on(tmp_path, alone):
    arguments = (tmp_path / "run", *ARGUMENTS, f"--order={tmp_path / 'order'}")
    with Several(2, *arguments, "--pause=0.3") as processes:
        assert processes.wait_for(1, "evaluated")
        processes.processes[1].send_signal(signal.SIGTERM)
        said = processes.finish()
    steps = {text.split("finished=False step=")[-1].split()[0] for text in said.values()}
    assert len(steps) == 1 and all("finished=False" in text for text in said.values()), said
    step = int(steps.pop())
    assert 1 < step < 12 and step in Checkpoints(tmp_path / "run/checkpoints").steps()
    beats = [json.loads(p.read_text())["state"] for p in sorted((tmp_path / "run/heartbeats").iterdir())]
    assert beats == ["stopped", "stopped"]
    with Several(4, *arguments, "--fsdp=4") as processes:
        said = processes.finish()
    assert all("finished=True step=12" in text and text.count("evaluated\n") == 12 - step for text in said.values())
    params, order = alone
    close(load_params(tmp_path / "run/checkpoints"), params)
    own = read_order(tmp_path / "order")
    assert all(own[s] == order[s] for s in range(12))


def test_a_last_checkpoint_that_one_process_cannot_read_is_left_by_all(tmp_path, alone):
    arguments = (tmp_path / "run", *ARGUMENTS, "--fsdp=2")
    with Several(2, *arguments) as processes:
        processes.finish()
    with Several(2, *arguments, "--unreadable=1:12") as processes:
        said = processes.finish()
    for text in said.values():
        assert "checkpoints/12 cannot be read (process 1 (" in text and "Input/output error): trying the one" in text
        assert "resumed at step 10" in text and "finished=True step=12" in text
    close(load_params(tmp_path / "run/checkpoints"), alone[0])
