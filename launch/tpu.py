"""Cloud TPU slices as queued resources: create, install, run, watch, resume after preemption, delete.

    python -m launch.tpu create  --name=run --project=P --zone=Z --accelerator_type=v5p-128 --runtime_version=R
    python -m launch.tpu install --name=run --project=P --zone=Z
    python -m launch.tpu run     --name=run --project=P --zone=Z -- vtjax.train --config=F --work_directory=gs://B/run
    python -m launch.tpu watch   --name=run ... --resume -- vtjax.train ...
    python -m launch.tpu delete  --name=run --project=P --zone=Z

watch --resume creates, installs and runs again when needed.

Needs the gcloud command and its login. Every action with --dry_run prints the commands instead.
"""

from __future__ import annotations

import pathlib
import shlex

from absl import flags

from launch import common, watch
from vtjax.errors import VtjaxError

flags.adopt_module_key_flags(common)
NAME = flags.DEFINE_string("name", "", "Name of the queued resource; its nodes are named after it.")
PROJECT = flags.DEFINE_string("project", "", "Google Cloud project; default gcloud's own.")
ZONE = flags.DEFINE_string("zone", "", "Zone; default gcloud's own.")
TYPE = flags.DEFINE_string("accelerator_type", "", "Such as v5litepod-256 or v5p-128; of each slice.")
RUNTIME = flags.DEFINE_string("runtime_version", "", "Software of the TPU VMs, such as v2-alpha-tpuv5.")
SLICES = flags.DEFINE_integer("slices", 1, "Number of slices.", lower_bound=1)
SPOT = flags.DEFINE_bool("spot", False, "Spot capacity, which may be taken away.")
CREATE_FLAGS = flags.DEFINE_multi_string("create_flag", [], "Further flag of the create command; may be repeated.")
SOURCE = flags.DEFINE_string("source", ".", "Checkout of vtjax that `install` copies.")
PYTHON = flags.DEFINE_string("python", "python3", "Python 3.11 or later on the TPU VMs.")
RESUME = flags.DEFINE_bool("resume", False, "watch: create, install and run again after a preemption or a crash.")
RESTARTS = flags.DEFINE_integer("restarts", 100, "watch: how often to do so.")
EVERY = flags.DEFINE_float("poll_seconds", 60, "watch: time between looks.")
SHIPPED = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "vtjax", "launch", "configs")
ACTIONS = ("create", "install", "run", "watch", "resume", "status", "delete")
GONE = ("SUSPENDED", "SUSPENDING", "FAILED", "")  # "" is a queued resource that is not there


def _where() -> list[str]:
    return [f"--{name}={value}" for name, value in (("project", PROJECT.value), ("zone", ZONE.value)) if value]


def _queued(*arguments: str) -> list[str]:
    return ["gcloud", "compute", "tpus", "queued-resources", *arguments, *_where()]


def _vm(*arguments: str) -> list[str]:
    return ["gcloud", "compute", "tpus", "tpu-vm", *arguments, *_where()]


def nodes() -> list[str]:
    """The TPU VMs that the queued resource makes."""
    return [NAME.value] if SLICES.value == 1 else [f"{NAME.value}-{i}" for i in range(SLICES.value)]


def create(runner: common.Runner) -> None:
    common.needed(accelerator_type=TYPE.value, runtime_version=RUNTIME.value)
    several = [f"--node-count={SLICES.value}", f"--node-prefix={NAME.value}"]
    which = [f"--node-id={NAME.value}"] if SLICES.value == 1 else several
    spot = ["--spot"] if SPOT.value else []
    kind = [f"--accelerator-type={TYPE.value}", f"--runtime-version={RUNTIME.value}"]
    runner.run(_queued("create", NAME.value, *which, *kind, *spot, *CREATE_FLAGS.value))


def state(runner: common.Runner) -> str:
    """State of the queued resource, "" where there is none; "ACTIVE" in a dry run."""
    answer = runner.ask(_queued("describe", NAME.value, "--format=value(state.state)"), check=False)
    return "ACTIVE" if runner.dry_run else answer or ""


def wait_until_active(runner: common.Runner) -> None:
    while (now := state(runner)) != "ACTIVE":
        if now in GONE:
            gone = f"{NAME.value}: the queued resource is {now or 'not there'}"
            raise VtjaxError(f"{gone}; the resume action makes it anew")
        runner.say(f"{NAME.value}: {now}")
        runner.sleep(EVERY.value)


def remote(runner: common.Runner, command: str, check: bool = True) -> None:
    """A shell command on every host of every slice."""
    for node in nodes():
        runner.run(_vm("ssh", node, "--worker=all", f"--command={command}"), check)


def install(runner: common.Runner) -> None:
    root = pathlib.Path(SOURCE.value)
    missing = [name for name in SHIPPED if not (root / name).exists()]
    if missing:
        raise VtjaxError(f"--source={SOURCE.value}: not a checkout of vtjax, {', '.join(missing)} is missing")
    remote(runner, 'rm -rf "$HOME/vtjax-source" && mkdir -p "$HOME/vtjax-source"')
    for node in nodes():
        files = [str(root / name) for name in SHIPPED]
        runner.run(_vm("scp", "--recurse", "--worker=all", *files, f"{node}:vtjax-source/"))
    remote(
        runner,
        f'{shlex.quote(PYTHON.value)} -m venv "$HOME/vtjax-venv" && cd "$HOME/vtjax-source" && '
        "\"$HOME/vtjax-venv/bin/pip\" install --quiet '.[tpu,gcs]'",
    )


def run_command(program: list[str]) -> str:
    """What each host runs: the program in the background, after what may be left of an earlier one."""
    rest = shlex.join([*program, "--multihost=on"])
    stop = 'if [ -f "$HOME/vtjax.pid" ]; then kill -9 "$(cat "$HOME/vtjax.pid")" 2>/dev/null || true; sleep 5; fi'
    start = f'nohup "$HOME/vtjax-venv/bin/python" -m {rest} >> "$HOME/vtjax.log" 2>&1 < /dev/null &'
    return f'{stop}; cd "$HOME/vtjax-source"; {start} echo $! > "$HOME/vtjax.pid"'


def run(runner: common.Runner, program: list[str]) -> None:
    remote(runner, run_command(program))


def delete(runner: common.Runner, check: bool = True) -> None:
    runner.run(_queued("delete", NAME.value, "--force", "--quiet"), check)


def resume(runner: common.Runner, program: list[str]) -> None:
    """A new queued resource in place of one that is gone, and the program on it, which goes on by itself."""
    delete(runner, check=False)
    create(runner)
    wait_until_active(runner)
    install(runner)
    run(runner, program)


def keep_going(runner: common.Runner, program: list[str]) -> int:
    """Looks at queued resource and heartbeats until the run has finished; 0 then, 1 where it ended without --resume."""
    work, restarts = common.work_directory(program), 0
    while True:
        now = state(runner)
        if runner.dry_run:
            runner.say(f"read {work}/{watch.FOLDER}; again after {EVERY.value:g} s, until all processes have finished")
            if RESUME.value:
                runner.say("when the queued resource is suspended, has failed or is gone:")
                resume(runner, program)
                runner.say("when it is active but the processes have died:")
                run(runner, program)
            return 0
        going, lines = watch.look(work, watch.SILENT.value) if now == "ACTIVE" else (watch.NOTHING, [])
        runner.say("\n".join([*lines, f"{NAME.value}: {now or 'not there'}, the run: {going}"]))
        if going == watch.FINISHED:
            return 0
        if now in GONE or going == watch.ENDED:
            if not RESUME.value or restarts == RESTARTS.value:
                return 1
            restarts += 1
            runner.say(f"start again, {restarts} of at most {RESTARTS.value}")
            if now in GONE:
                resume(runner, program)
            else:
                run(runner, program)
        runner.sleep(EVERY.value)


def main(action: str, program: list[str], runner: common.Runner) -> int:
    common.needed(name=NAME.value)
    if watch.WORK.value:
        raise VtjaxError("--work_directory is a flag of the program: give it after --")
    if action in ("run", "watch", "resume"):
        common.module_command(program, "python")
        common.work_directory(program)
    elif program:
        raise VtjaxError(f"the {action} action runs no program, but there is one after --: {shlex.join(program)}")
    if action == "watch":
        return keep_going(runner, program)
    if action == "run":
        wait_until_active(runner)
        run(runner, program)
    elif action == "resume":
        resume(runner, program)
    elif action == "install":
        wait_until_active(runner)
        install(runner)
    elif action == "status":
        print(state(runner) or "not there")
    else:
        {"create": create, "delete": delete}[action](runner)
    return 0


if __name__ == "__main__":
    common.start(main, ACTIONS)
