"""Work directories in a bucket: a fake one in a folder, reached in the two ways a real one is (support/bucket.py)."""

import importlib.util
import json
import shutil
from urllib.parse import unquote

import commands
import numpy as np
import pytest
from several import TOY, Several

from vtjax import files, remote
from vtjax.errors import VtjaxError
from vtjax.sharding.partition import flatten
from vtjax.training.checkpoint import load_params

BUCKET = commands.ROOT / "tests" / "support" / "bucket.py"
ASK = """
import json, sys
sys.path.insert(0, {support!r})
import bucket
bucket.start({folder!r})
from vtjax.files import as_path
from vtjax.training.checkpoint import complete_steps, load_params
from vtjax.sharding.partition import flatten
work = as_path("gs://bucket/run")
params = {{k: v.tolist() for k, v in flatten(load_params(work / "checkpoints")).items()}}
print(json.dumps([complete_steps(work / "checkpoints"), params]))
"""


def objects(folder, prefix="bucket/run/"):
    found = {unquote(p.name): p for p in folder.iterdir() if not p.name.startswith(".")}
    return {name.removeprefix(prefix): p for name, p in found.items() if name.startswith(prefix)}


def ask(folder):
    """(steps, parameters) of the run's checkpoints."""
    done = commands.run("-c", ASK.format(support=str(BUCKET.parent), folder=str(folder)))
    assert done.returncode == 0, done.stderr
    steps, params = json.loads(done.stdout.splitlines()[-1])
    return steps, {k: np.array(v, np.float32) for k, v in params.items()}


def test_a_run_in_a_bucket_is_that_on_a_disk_also_by_two_processes_and_after_damage(tmp_path):
    arguments = ("--steps=12", "--checkpoint_every=5")
    local = commands.run(TOY, tmp_path / "local", *arguments)
    assert "finished=True step=12" in local.stdout, local.stderr
    wanted = flatten(load_params(tmp_path / "local/checkpoints"))
    folder = tmp_path / "objects"
    first = commands.run(BUCKET, folder, "toy", "gs://bucket/run", *arguments)
    assert "finished=True step=12" in first.stdout, first.stderr
    steps, params = ask(folder)
    assert steps == [10, 12] and params.keys() == wanted.keys()
    for name, value in params.items():
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)
    lines = objects(folder)["metrics.jsonl"].read_text().splitlines()
    assert len(lines) == 6 + 12 and [json.loads(x)["step"] for x in lines if '"train"' in x] == [2, 4, 6, 8, 10, 12]
    for name, path in objects(folder).items():
        if name.startswith("checkpoints/12/state/d/"):
            path.write_bytes(path.read_bytes()[:10])

    def command(i, count, port):
        places = (f"--processes={count}", f"--process={i}", f"--port={port}")
        return (BUCKET, folder, "toy", "gs://bucket/run", *arguments, *places)

    with Several(2, command=command) as processes:
        said = processes.finish(timeout=180)
    assert all("checkpoints/12 cannot be read" in text and "resumed at step 10" in text for text in said.values()), said
    steps, params = ask(folder)
    assert steps == [10, 12]
    for name, value in params.items():
        np.testing.assert_allclose(value, wanted[name], rtol=0, atol=1e-6, err_msg=name)
    assert {"heartbeats/process-00000.json", "heartbeats/process-00001.json"} <= objects(folder).keys()


def test_the_commands_in_a_bucket(tmp_path):
    small = [f"--config={commands.ROOT}/configs/car.py:smoke", "--config.train.steps=3",
             "--config.train.batch_size=8", "--config.train.eval_every=2",
             "--config.optim.warmup_steps=1", "--config.method.data.world_train=48", "--config.method.model.latent=16",
             "--config.method.data.world_test=40"]  # fmt: skip
    folder, work = tmp_path / "objects", "--work_directory=gs://bucket/run"

    def run(*arguments):
        done = commands.run(BUCKET, folder, *arguments, cwd=tmp_path, timeout=300, VTJAX_CACHE=str(tmp_path / "cache"))
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout

    assert "report: gs://bucket/run/report.html" in run("vtjax.train", *small, work)
    there = objects(folder)
    assert {"config.json", "results.json", "report.html", "train/done.json", "train/metrics.jsonl"} <= there.keys()
    assert any(name.startswith("assets/") for name in there) and not any("cache" in name for name in there)
    assert "lock.json" not in there, "released"
    shutil.rmtree(tmp_path / "cache" / "runs")  # another machine, but for the world that it would make anew
    assert "written: gs://bucket/run/results-test-last.json" in run("vtjax.evaluate", work)
    there = objects(folder)
    results = [json.loads(there[name].read_text()) for name in ("results.json", "results-test-last.json")]
    for one, other in zip(*results, strict=True):
        assert one["metrics"] == pytest.approx(other["metrics"], abs=1e-4)
    assert not list(tmp_path.glob("gs:*")), "nothing was written into a folder of that name"


def test_a_mirror_brings_and_sends_what_changed(tmp_path, monkeypatch):
    """With a plain folder in the bucket's place."""
    bucket, cache = tmp_path / "bucket", tmp_path / "cache"
    monkeypatch.setenv("VTJAX_CACHE", str(cache))
    monkeypatch.setattr(remote, "is_remote", lambda path: str(path).startswith(str(bucket)))
    left = ("lock.json", "checkpoints/1/x", "s/best_m/2/x", "heartbeats/p.json", "c_frozen/x")
    for name in ("a/b.txt", "config.json", *left):
        (bucket / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (bucket / "run" / name).write_text(name)
    own = remote.local(bucket / "run")
    assert own.parent == cache / "runs" and own.name.startswith("run-") and remote.local(own) == own
    assert remote.local(bucket / "run", 3) != own and remote.origin(own / "a" / "b.txt") == bucket / "run/a/b.txt"
    remote.fetch(own)
    mirrored = (str(p.relative_to(own)) for p in own.rglob("*") if p.is_file() and p.name[0] != ".")
    assert sorted(mirrored) == ["a/b.txt", "config.json"]
    (own / "report.html").write_text("new")
    (bucket / "run" / "config.json").write_text("changed there")
    remote.send(own)
    assert (bucket / "run/report.html").read_text() == "new"
    assert (bucket / "run/config.json").read_text() == "changed there", "what did not change here is not sent"
    assert not (bucket / "run/.origin").exists() and not (bucket / "run/.sent.json").exists()


def test_a_folder_of_this_machine_is_its_own_mirror(tmp_path):
    assert remote.local(tmp_path) == tmp_path and remote.origin(tmp_path / "x") == tmp_path / "x"
    remote.fetch(tmp_path)
    remote.send(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_bucket_without_its_client_is_named():
    if importlib.util.find_spec("gcsfs") is None:
        with pytest.raises(VtjaxError, match=r"gs://a/b: .*pip install 'vtjax\[gcs\]'"):
            files.as_path("gs://a/b")
    with pytest.raises(VtjaxError, match="gs://, s3:// and az:// are the buckets"):
        files.as_path("ftp://a/b")
