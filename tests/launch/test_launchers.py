"""TPU, GKE and Slurm launchers: what they run is what a dry run prints, word for word, whatever is in the words."""

import json
import os
import shlex
import subprocess
import sys

import commands
import pytest
from fakes import Fakes

ODD = ["--config.note=it's a \"test\" of $HOME and $(date) `id`", "--x=two\nlines", "--ü=✓ \\ *?", "", "--a b"]
PROGRAM = ["--", "vtjax.train", "--config=configs/car.py:smoke", "--work_directory=gs://b/run", *ODD]
TPU = [
    "--name=run", "--project=p", "--zone=z", "--accelerator_type=v5p-16", "--runtime_version=r", "--poll_seconds=0.01",
]  # fmt: skip


def launch(which, *arguments, path=None, cwd=commands.ROOT, **changes):
    changes = changes | ({"PATH": path} if path else {})
    return commands.run("-m", f"launch.{which}", *arguments, cwd=cwd, **changes)


@pytest.fixture
def fakes(tmp_path):
    found = Fakes(tmp_path / "bin", "gcloud", "kubectl", "sbatch", "squeue", "scancel")
    found.answer("gcloud", "ACTIVE")
    return found


CASES = [
    ("tpu", ["create", *TPU, "--spot", "--create_flag=--labels=a=b c"]),
    ("tpu", ["create", *TPU, "--slices=3"]),
    ("tpu", ["install", *TPU, f"--source={commands.ROOT}", "--slices=2"]),
    ("tpu", ["run", *TPU, "--slices=2", *PROGRAM]),
    ("tpu", ["delete", *TPU]),
    ("tpu", ["resume", *TPU, "--slices=2", f"--source={commands.ROOT}", *PROGRAM]),
    ("gke", ["submit", "--name=run", "--image=i", "--output=m/run.json", "--env=A=$(B) c", *PROGRAM]),
    ("gke", ["delete", "--name=run", "--namespace=n"]),
    ("slurm", ["submit", "--name=run", "--time=1:00:00", "--setup=module load cuda", "--output=o/j.sbatch", *PROGRAM]),
    ("slurm", ["watch", "--name=run"]),
    ("slurm", ["cancel", "--name=run"]),
]


@pytest.mark.parametrize("which, arguments", CASES, ids=[f"{w} {a[0]} {i}" for i, (w, a) in enumerate(CASES)])
def test_a_dry_run_is_a_script_that_does_the_same(which, arguments, fakes, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "dry").mkdir()
    (tmp_path / "script").mkdir()
    done = launch(which, *arguments, path=fakes.path, cwd=tmp_path / "real")
    assert done.returncode == 0, done.stderr
    calls = fakes.calls()
    assert calls
    dry = launch(which, arguments[0], "--dry_run", *arguments[1:], cwd=tmp_path / "dry")
    assert dry.returncode == 0, dry.stderr
    assert not list((tmp_path / "dry").iterdir()), "a dry run writes nothing"
    script = subprocess.run(
        ["bash", "-e", "-c", dry.stdout], cwd=tmp_path / "script", env={**os.environ, "PATH": fakes.path},
        capture_output=True, text=True,
    )  # fmt: skip
    assert script.returncode == 0, script.stderr
    assert fakes.calls() == calls
    files, again = (
        {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        for folder in (tmp_path / "real", tmp_path / "script")
    )
    assert files == again


def test_the_commands_of_a_tpu(fakes):
    launch("tpu", "create", *TPU, "--spot", path=fakes.path)
    common = ["--project=p", "--zone=z"]
    assert fakes.calls() == [
        ["gcloud", "compute", "tpus", "queued-resources", "create", "run", "--node-id=run", "--accelerator-type=v5p-16",
         "--runtime-version=r", "--spot", *common],
    ]  # fmt: skip
    launch("tpu", "run", "--name=run", "--slices=2", *PROGRAM, path=fakes.path)
    describe, *started = fakes.calls()
    queued = ["gcloud", "compute", "tpus", "queued-resources"]
    assert describe == [*queued, "describe", "run", "--format=value(state.state)"]
    assert [call[5:7] for call in started] == [["run-0", "--worker=all"], ["run-1", "--worker=all"]]


def test_a_hosts_shell_gives_the_program_its_words(fakes, tmp_path):
    """The remote command is run here, with a Python that prints what it is given."""
    launch("tpu", "run", "--name=run", *PROGRAM, path=fakes.path)
    (remote,) = [w.removeprefix("--command=") for call in fakes.calls() for w in call if w.startswith("--command=")]
    python = tmp_path / "vtjax-venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (tmp_path / "vtjax-source").mkdir()
    python.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    python.chmod(0o755)
    subprocess.run(["bash", "-c", remote + "; wait"], env={**os.environ, "HOME": str(tmp_path)}, check=True)
    assert json.loads((tmp_path / "vtjax.log").read_text()) == ["-m", *PROGRAM[1:], "--multihost=on"]
    assert (tmp_path / "vtjax.pid").read_text().strip().isdigit()


def heartbeats(work, *states, step=5):
    (work / "heartbeats").mkdir(parents=True, exist_ok=True)
    for i, state in enumerate(states):
        record = {"process": i, "processes": len(states), "host": f"h{i}", "state": state, "step": step, "beat": 1}
        (work / "heartbeats" / f"process-{i:05d}.json").write_text(json.dumps(record))


def watch(fakes, tmp_path, *more):
    program = ["--", "vtjax.train", f"--work_directory={tmp_path / 'run'}"]
    flags = [*TPU, f"--source={commands.ROOT}", "--silent_seconds=0.5", *more]
    return launch("tpu", "watch", *flags, *program, path=fakes.path)


def test_watching_ends_when_the_run_has_finished(fakes, tmp_path):
    heartbeats(tmp_path / "run", "finished", "finished")
    done = watch(fakes, tmp_path)
    assert done.returncode == 0 and "the run: finished" in done.stdout and "h1" in done.stdout
    assert [call[4] for call in fakes.calls()] == ["describe"]


def test_a_preempted_tpu_is_made_anew_and_goes_on(fakes, tmp_path):
    """Suspended at the third look, active again two looks later; then its processes die, and are started again."""
    heartbeats(tmp_path / "run", "died", "running")
    fakes.answer("gcloud", "SUSPENDED", "WAITING_FOR_RESOURCES", "ACTIVE", "ACTIVE")
    done = watch(fakes, tmp_path, "--resume", "--restarts=2")
    assert done.returncode == 1, done.stderr  # the fake's processes never live again
    actions = [call[4] if call[3] == "queued-resources" else f"{call[4]} {call[5]}" for call in fakes.calls()]
    start = ["ssh run"]
    assert actions == [
        "describe", "delete", "create", "describe", "describe", "ssh run", "scp --recurse", "ssh run", *start,
        "describe", *start, "describe",
    ]  # fmt: skip
    assert "start again, 2 of at most 2" in done.stdout
    fakes.answer("gcloud", "SUSPENDED")
    assert watch(fakes, tmp_path).returncode == 1
    assert [call[4] for call in fakes.calls()] == ["describe"], "without --resume nothing is made"


def test_the_jobset(fakes, tmp_path):
    flags = ["--name=run", "--image=i", "--accelerator=tpu-v5p-slice", "--topology=4x4x4", "--hosts=16", "--slices=2",
             "--spot", "--service_account=s", "--env=A=b", "--grace_seconds=77", "--restarts=9"]  # fmt: skip
    done = launch("gke", "submit", *flags, *PROGRAM, path=fakes.path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert fakes.calls() == [["kubectl", "--namespace=default", "apply", "--filename=run.jobset.json"]]
    spec = json.loads((tmp_path / "run.jobset.json").read_text())["spec"]
    (group,) = spec["replicatedJobs"]
    job = group["template"]["spec"]
    assert spec["failurePolicy"] == {"maxRestarts": 9} and group["replicas"] == 2
    fields = ("parallelism", "completions", "completionMode", "backoffLimit")
    assert [job[name] for name in fields] == [16, 16, "Indexed", 0]
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice", "cloud.google.com/gke-tpu-topology": "4x4x4",
        "cloud.google.com/gke-spot": "true",
    }  # fmt: skip
    assert pod["terminationGracePeriodSeconds"] == 77 and pod["serviceAccountName"] == "s"
    (container,) = pod["containers"]
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    assert [w.replace("$$(", "$(") for w in container["command"]] == ["python", "-m", *PROGRAM[1:]]
    assert "$$(date)" in " ".join(container["command"]), "Kubernetes would expand $(date)"
    values = {e["name"]: e.get("value", e.get("valueFrom")) for e in container["env"]}
    assert values["VTJAX_JOBS"] == "2" and values["VTJAX_PODS_PER_JOB"] == "16" and values["A"] == "b"
    assert values["JOB_INDEX"] == {"fieldRef": {"fieldPath": "metadata.labels['jobset.sigs.k8s.io/job-index']"}}


@pytest.mark.parametrize(
    "status, state, again, code",
    [
        (0, "finished", False, 0),
        (0, "stopped", True, 0),
        (75, "died", True, 0),
        (2, "failed", False, 2),
        (1, "failed", False, 1),
    ],
)
def test_the_batch_script(fakes, tmp_path, status, state, again, code):
    """Run here: it passes the words on, and goes back into the queue when the run has not finished."""
    Fakes(tmp_path / "bin", "scontrol")
    srun = tmp_path / "bin" / "srun"
    srun.write_text(f"#!/bin/bash\nprintf '%s\\0' \"$@\" > {tmp_path}/words\nexit {status}\n")
    srun.chmod(0o755)
    heartbeats(tmp_path / "run", state, state)
    program = ["--", "vtjax.train", f"--work_directory={tmp_path / 'run'}", *ODD]
    flags = ["--name=run", "--nodes=2", "--gpus_per_node=4", "--time=1:00", "--partition=q", "--sbatch=--mem=0",
             f"--python={sys.executable}", f"--setup=touch {shlex.quote(str(tmp_path / 'set up'))}"]  # fmt: skip
    done = launch("slurm", "submit", *flags, *program, path=fakes.path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert fakes.calls() == [["sbatch", "run.sbatch"]]
    text = (tmp_path / "run.sbatch").read_text()
    for line in ("nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "signal=TERM@180", "requeue", "mem=0", "time=1:00"):
        assert f"#SBATCH --{line}\n" in text
    environment = commands.environment(PATH=fakes.path, SLURM_JOB_ID="17")
    ran = subprocess.run(["bash", "run.sbatch"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == code, ran.stderr
    words = (tmp_path / "words").read_text().split("\0")[:-1]
    assert words == ["--kill-on-bad-exit=0", sys.executable, "-m", *program[1:], "--multihost=on"]
    assert (tmp_path / "set up").exists()
    assert fakes.calls() == ([["scontrol", "requeue", "17"]] if again else [])


@pytest.mark.parametrize(
    "which, arguments, words",
    [
        ("tpu", [], ["an action is needed", "create, install, run"]),
        ("tpu", ["creat", *TPU], ["'creat': no such action", "did you mean 'create'"]),
        ("tpu", ["create", "--name=run"], ["--accelerator_type, --runtime_version are needed"]),
        ("tpu", ["run", *TPU], ["what is to run comes after --"]),
        ("tpu", ["run", *TPU, "--", "vtjax.train"], ["--work_directory, a place that all hosts share"]),
        ("tpu", ["run", *TPU, "--", "--config=x"], ["'--config=x' is not a module"]),
        ("tpu", ["install", "--dry_run", *TPU, "--source=."], ["not a checkout of vtjax"]),
        ("tpu", ["delete", *TPU, "--", "vtjax.train"], ["the delete action runs no program"]),
        ("tpu", ["delete", "--nam=run"], ["Unknown command line flag 'nam'"]),
        ("tpu", ["delete", "--name=run", "more"], ["'more' is not a flag; the program to run comes after --"]),
        ("tpu", ["delete", *TPU], ["gcloud is not installed here; --dry_run"]),
        ("gke", ["submit", "--name=r", *PROGRAM], ["--image is needed"]),
        ("gke", ["submit", "--name=r", "--image=i", "--topology=4x4", *PROGRAM],
         ["--accelerator and --topology belong"]),
        ("gke", ["submit", "--name=r", "--image=i", "--topology=4x4", "--accelerator=a", "--hosts=2", *PROGRAM],
         ["--topology=4x4 has 16 chips, --hosts=2 of 4 chips have 8"]),
        ("gke", ["submit", "--name=r", "--image=i", "--env=A", *PROGRAM], ["--env=A: NAME=VALUE"]),
        ("local", ["--gpus=0,1,2", "--", "vtjax.train"], ["3 cannot be shared out evenly to 2 processes"]),
        ("local", [], ["what is to run comes after --"]),
        ("watch", [], ["--work_directory is needed"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(which, arguments, words, tmp_path):
    commands.refused(launch(which, *arguments, cwd=tmp_path, PATH=str(tmp_path)), *words)


@pytest.mark.parametrize("which", ["local", "tpu", "gke", "slurm", "watch"])
def test_help(which):
    done = launch(which, "--help")
    assert "--[no]dry_run" in done.stdout and f"python -m launch.{which}" in done.stdout


def test_no_project_nor_bucket_is_baked_in():
    for path in (commands.ROOT / "launch").glob("*.py"):
        text = path.read_text()
        assert not [w for w in ("gs://vt", "my-project", "us-central", "europe-west") if w in text]
