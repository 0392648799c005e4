"""The local launcher: processes that are joined, watched, stopped, and started again."""

import json
import os
import signal
import subprocess
import time

import commands
import pytest

PROBE = """
import os, pathlib, signal, sys, time
place = int(next(a for a in sys.argv if a.startswith("--process=")).split("=")[1])
devices = f"{os.environ['JAX_NUM_CPU_DEVICES']} {os.environ.get('CUDA_VISIBLE_DEVICES')}"
sys.stdout.write(f"words {sys.argv[1:]} {devices}\\n")
sys.stdout.flush()
kind = sys.argv[1]
if kind == "crash" and place == 1:
    tried = pathlib.Path(sys.argv[2])
    tried.write_text(tried.read_text() + "x" if tried.exists() else "x")
    if len(tried.read_text()) < 3:
        os.kill(os.getpid(), signal.SIGKILL)
if kind == "wrong" and place == 0:
    sys.exit(2)
if kind in ("wrong", "hang"):
    time.sleep(1000)
if kind == "term":
    signal.signal(signal.SIGTERM, lambda *_: (print("saving", flush=True), sys.exit(0)))
    print("ready", flush=True)
    time.sleep(1000)
"""


def launcher(tmp_path, *arguments):
    (tmp_path / "probe_program.py").write_text(PROBE)
    paths = f"{commands.environment()['PYTHONPATH']}{os.pathsep}{tmp_path}"
    return ["-m", "launch.local", *arguments], {"PYTHONPATH": paths}


def run(tmp_path, *arguments):
    command, changes = launcher(tmp_path, *arguments)
    return commands.run(*command, **changes)


def test_words_devices_and_places(tmp_path):
    done = run(tmp_path, "--processes=2", "--cpu_devices=3", "--gpus=4,5,6,7", "--", "probe_program", "a b", "$(x)'\"")
    assert done.returncode == 0, done.stderr
    lines = sorted(line for line in done.stdout.splitlines() if "words" in line)
    assert [line[:3] for line in lines] == ["[0]", "[1]"]
    for i, line in enumerate(lines):
        words = [repr(w) for w in ("a b", "$(x)'\"")]
        assert f"words [{words[0]}, {words[1]}, '--coordinator=localhost:" in line
        assert line.endswith(f"'--processes=2', '--process={i}'] 3 {'4,5' if i == 0 else '6,7'}")
    dry = run(tmp_path, "--dry_run", "--port=5", "--processes=2", "--", "probe_program", "a b", "$(x)'\"")
    (tmp_path / "s.sh").write_text(dry.stdout)
    environment = commands.environment(PYTHONPATH=str(tmp_path))
    again = subprocess.run(["bash", "s.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert again.stdout.splitlines()[0].startswith("words ['a b', ") and "'--coordinator=localhost:5'" in again.stdout


def test_a_crash_is_started_again_and_a_users_error_is_not(tmp_path):
    arguments = ("--processes=2", "--restarts=3", "--grace_seconds=0.5", "--")
    done = run(tmp_path, *arguments, "probe_program", "crash", tmp_path / "tried")
    assert done.returncode == 0 and done.stdout.count("of 4\n") == 2, done.stdout
    assert (tmp_path / "tried").read_text() == "xxx"
    began = time.monotonic()
    done = run(tmp_path, *arguments, "probe_program", "wrong")
    assert done.returncode == 2 and "the others have not ended within" in done.stdout and "of 4\n" not in done.stdout
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("kind, code", [("term", 0), ("hang", 128 + signal.SIGTERM)])
def test_sigterm_is_passed_on(tmp_path, kind, code):
    command, changes = launcher(tmp_path, "--processes=2", "--restarts=3", "--", "probe_program", kind)
    process = commands.start(*command, **changes)
    wanted, said = {"term": "ready", "hang": "words"}[kind], ""
    while said.count(wanted) < 2:
        line = process.stdout.readline()
        assert line, f"it has ended:\n{said}"
        said += line
    process.send_signal(signal.SIGTERM)
    said += process.stdout.read()
    assert process.wait() == code and said.count("saving") == (2 if kind == "term" else 0)
    process.stdout.close()


def test_it_trains_evaluates_and_is_watched(tmp_path):
    """Two processes train a method by its command, report, and evaluate; and the figures are those of one process."""
    small = [f"--config={commands.ROOT}/configs/car.py:smoke", "--config.train.steps=3", "--config.train.batch_size=8",
             "--config.train.eval_every=2", "--config.optim.warmup_steps=1", "--config.method.data.world_train=48",
             "--config.method.model.latent=16", "--config.method.data.world_test=40"]  # fmt: skip
    for name, start in (("one", ["-m", "vtjax.train"]), ("two", ["-m", "launch.local", "--", "vtjax.train"])):
        done = commands.run(*start, *small, f"--work_directory={tmp_path / name}", cwd=tmp_path, timeout=400)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "two/report.html").is_file()

    def figures(path):
        return [r["metrics"] for r in json.loads((tmp_path / path).read_text())]

    def same(a, b):
        for x, y in zip(figures(a), figures(b), strict=True):
            assert x == pytest.approx(y, abs=1e-4)

    same("two/results.json", "one/results.json")
    start = ("-m", "launch.local", "--processes=2", "--cpu_devices=2", "--")
    done = commands.run(*start, "vtjax.evaluate", f"--work_directory={tmp_path / 'two'}", timeout=400)
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.count("written: ") == 1
    same("two/results-test-last.json", "one/results.json")
    watched = commands.run("-m", "launch.watch", "--once", f"--work_directory={tmp_path / 'two'}", "--silent_seconds=1")
    assert watched.returncode == 0 and watched.stdout.count("finished") == 3 and "process    1" in watched.stdout
