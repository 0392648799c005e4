"""A job of GPUs under Slurm: submit, watch, cancel; one process a GPU.

    python -m launch.slurm submit --name=run --nodes=4 --gpus_per_node=8 --time=24:00:00 \
        -- vtjax.train --config=configs/car.py --work_directory=SHARED/run

--signal_seconds before its time is over, and when it is preempted, the job's processes get SIGTERM and save. What has
not finished then, or has lost a node, puts itself back into the queue and goes on from the last checkpoint.
"""

from __future__ import annotations

import pathlib
import shlex

from absl import flags

from launch import common

flags.adopt_module_key_flags(common)
NAME = flags.DEFINE_string("name", "", "Name of the job.")
NODES = flags.DEFINE_integer("nodes", 1, "Nodes.", lower_bound=1)
GPUS = flags.DEFINE_integer("gpus_per_node", 8, "GPUs of a node, each with a process.", lower_bound=1)
CPUS = flags.DEFINE_integer("cpus_per_task", 8, "CPUs of a process.", lower_bound=1)
TIME = flags.DEFINE_string("time", "", "Time limit, such as 24:00:00.")
PARTITION = flags.DEFINE_string("partition", "", "Partition.")
ACCOUNT = flags.DEFINE_string("account", "", "Account.")
SBATCH = flags.DEFINE_multi_string("sbatch", [], "Further #SBATCH line without the mark; may be repeated.")
SETUP = flags.DEFINE_multi_string("setup", [], "Shell line before the program, such as 'module load cuda'; repeatable.")
PYTHON = flags.DEFINE_string("python", "python", "Python of the environment with vtjax.")
SIGNAL = flags.DEFINE_integer("signal_seconds", 180, "Time to save before the end.")
OUTPUT = flags.DEFINE_string("output", "", "File for the script; default NAME.sbatch.")
ACTIONS = ("submit", "watch", "cancel")


def script(program: list[str]) -> str:
    """The batch script."""
    work = common.work_directory(program)
    lines = {
        "job-name": NAME.value,
        "nodes": NODES.value,
        "ntasks-per-node": GPUS.value,
        "gpus-per-node": GPUS.value,
        "cpus-per-task": CPUS.value,
        "time": TIME.value,
        "partition": PARTITION.value,
        "account": ACCOUNT.value,
        "signal": f"TERM@{SIGNAL.value}",  # to the processes, not to this script
        "open-mode": "append",
        "output": f"{NAME.value}-%j.log",
    }
    head = [f"#SBATCH --{name}={value}" for name, value in lines.items() if value != ""]
    head += ["#SBATCH --requeue", *(f"#SBATCH {line}" for line in SBATCH.value)]
    command = shlex.join([*common.module_command(program, PYTHON.value), "--multihost=on"])
    look = shlex.join([PYTHON.value, "-m", "launch.watch", "--once", "--silent_seconds=1", f"--work_directory={work}"])
    return "\n".join(
        [
            "#!/bin/bash",
            *head,
            "",
            *SETUP.value,
            f"srun --kill-on-bad-exit=0 {command}",
            "status=$?",
            "# 2 is the user's error, 1 one of the program: neither is cured by starting again.",
            'if [ "$status" -eq 1 ] || [ "$status" -eq 2 ]; then exit "$status"; fi',
            f'if ! {look}; then scontrol requeue "$SLURM_JOB_ID"; fi',
            "",
        ]
    )


def main(action: str, program: list[str], runner: common.Runner) -> int:
    common.needed(name=NAME.value)
    if action == "submit":
        common.module_command(program, PYTHON.value)
        path = pathlib.Path(OUTPUT.value or f"{NAME.value}.sbatch")
        runner.write(path, script(program))
        runner.run(["sbatch", str(path)])
    elif action == "watch":
        runner.run(["squeue", f"--name={NAME.value}", "--me", "--iterate=30"], check=False)
    else:
        runner.run(["scancel", f"--name={NAME.value}", "--me"])
    return 0


if __name__ == "__main__":
    common.start(main, ACTIONS)
