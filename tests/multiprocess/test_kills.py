"""SIGKILLs of random processes at random moments: nothing is lost beyond the last checkpoint, nothing is unreadable."""

import json
import random
import re
import signal
import time

import commands
import numpy as np
import pytest
from several import TOY, Several, close, read_order

from vtjax.hosts.processes import LOST
from vtjax.training.checkpoint import complete_steps, load_params

EVERY = 3  # steps between checkpoints


def curve(path):
    """{(step, split): loss or None}; fails where a step is there twice."""
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    found = {(line["step"], line["split"]): line.get("loss") for line in lines}
    assert len(found) == len(lines)
    return found


def run_with_kills(folder, kills, steps, seed):
    """Kills `kills` processes, each attempt with 1, 2 or 4 of them, then lets the run finish; what happened."""
    rng, work, log = random.Random(seed), folder / "run", []
    arguments = (work, f"--steps={steps}", f"--checkpoint_every={EVERY}", "--pause=0.02", f"--order={folder / 'order'}")
    known = 0  # the last step known to be safe
    for attempt in range(kills + 1):
        count = rng.choice((1, 2, 4))
        victim = rng.randrange(count)
        more = ("--fsdp=2",) if count > 1 and rng.random() < 0.5 else ()
        with Several(count, *arguments, *more) as processes:
            if attempt < kills:
                assert processes.wait_for(victim, "evaluated", rng.randint(1, 12)), processes.said(victim)
                time.sleep(rng.uniform(0, 0.1))
                safe = max(complete_steps(work / "checkpoints"), default=0)
                processes.processes[victim].send_signal(signal.SIGKILL)
                killed = time.monotonic()
            ended = processes.end()
        starts = [int(m.group(1)) for _, said in ended.values() if (m := re.search(r"resumed at step (\d+)", said))]
        assert len(starts) == count or not known, f"{known}: {ended}"
        assert all(start >= known for start in starts) and len(set(starts)) <= 1, (known, starts)
        if attempt == kills:
            assert all(status == 0 and f"finished=True step={steps}" in said for status, said in ended.values()), ended
            break
        seconds = time.monotonic() - killed
        for i, (status, said) in ended.items():
            if i == victim:
                assert status == -signal.SIGKILL, said
            else:
                assert status in (LOST, -signal.SIGABRT) and f"lost process {victim} " in said, said
        log.append({"count": count, "victim": victim, "start": starts[:1], "safe": safe, "seconds": seconds})
        known = safe
        print(f"kill {attempt + 1}: {log[-1]}", flush=True)
        if known:
            assert all(np.isfinite(x).all() for x in load_params(work / "checkpoints")["body"].values())
    return log


def check(folder, kills, steps, seed):
    arguments = (f"--steps={steps}", f"--checkpoint_every={EVERY}", f"--order={folder / 'whole_order'}")
    whole = commands.run(TOY, folder / "whole", *arguments, timeout=600)
    assert f"finished=True step={steps}" in whole.stdout, whole.stderr
    log = run_with_kills(folder, kills, steps, seed)
    close(load_params(folder / "run/checkpoints"), load_params(folder / "whole/checkpoints"))
    order, own = read_order(folder / "whole_order"), read_order(folder / "order")
    assert all(own[step] == order[step] for step in range(steps)), "bitwise the same rows in the same places"
    one, several = curve(folder / "whole/metrics.jsonl"), curve(folder / "run/metrics.jsonl")
    assert one.keys() == several.keys()
    losses = [k for k in one if k[1] == "train"]
    np.testing.assert_allclose([several[k] for k in losses], [one[k] for k in losses], rtol=1e-5)
    left = {p.name for p in (folder / "run/checkpoints").iterdir()}
    assert left == {str(steps), str(steps - EVERY)}, "nothing half-written is left"
    return log


def test_three_kills(tmp_path):
    check(tmp_path, kills=3, steps=45, seed=5)


@pytest.mark.slow
def test_fifty_kills(tmp_path):
    log = check(tmp_path, kills=50, steps=600, seed=17)
    print(f"\n{len(log)} kills; longest until all had ended: {max(x['seconds'] for x in log):.1f} s")
    print("by processes:", {n: sum(x["count"] == n for x in log) for n in (1, 2, 4)})
    print("of the first process:", sum(x["victim"] == 0 for x in log), "by starts:", [x["start"] for x in log])
