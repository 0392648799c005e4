"""Several processes on this machine: python -m launch.local --processes=2 -- vtjax.train --config=configs/car.py:smoke

Each line of output is preceded by its process. When one process fails the others end by themselves, and after
--grace_seconds by force; --restarts starts all of them again where it was not the user's error. SIGTERM and Ctrl-C are
passed on, so that all save and stop at the same step.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time

from absl import flags

from launch import common
from vtjax.errors import VtjaxError
from vtjax.hosts.session import LOST

flags.adopt_module_key_flags(common)
PROCESSES = flags.DEFINE_integer("processes", 2, "Number of processes.", lower_bound=1)
DEVICES = flags.DEFINE_integer("cpu_devices", 1, "CPU devices of each process.", lower_bound=1)
GPUS = flags.DEFINE_string("gpus", "", "GPU numbers to share out, such as 0,1,2,3; none: what each process finds.")
PORT = flags.DEFINE_integer("port", 0, "Port of the coordinator; 0 takes a free one.")
RESTARTS = flags.DEFINE_integer("restarts", 0, "How often to start all again after a crash.")
GRACE = flags.DEFINE_float("grace_seconds", 120, "Time for the other processes to end after one has failed.")


def commands(program: list[str], port: int | str) -> list[tuple[dict[str, str], list[str]]]:
    """(environment on top of this one, command) of each process.

    Raises:
      VtjaxError: no program, or GPUs that cannot be shared out evenly.
    """
    base, count = common.module_command(program, sys.executable), PROCESSES.value
    gpus = [g.strip() for g in GPUS.value.split(",") if g.strip()]
    if gpus and len(gpus) % count:
        raise VtjaxError(f"--gpus={GPUS.value}: {len(gpus)} cannot be shared out evenly to {count} processes")
    each, started = len(gpus) // count, []
    for i in range(count):
        environment = {"JAX_NUM_CPU_DEVICES": str(DEVICES.value)}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[i * each : (i + 1) * each])
        joining = [f"--coordinator=localhost:{port}", f"--processes={count}", f"--process={i}"] if count > 1 else []
        started.append((environment, [*base, *joining]))
    return started


def free_port() -> int:
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


class Group:
    """The processes of one attempt."""

    def __init__(self, started: list[tuple[dict[str, str], list[str]]]):
        self.processes, self._threads, self._told = [], [], 0
        for i, (environment, command) in enumerate(started):
            process = subprocess.Popen(
                command, env={**os.environ, "PYTHONUNBUFFERED": "1", **environment}, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            thread = threading.Thread(target=self._copy, args=(i, process), daemon=True)
            thread.start()
            self.processes.append(process)
            self._threads.append(thread)

    @staticmethod
    def _copy(i: int, process: subprocess.Popen) -> None:
        for line in process.stdout or ():
            sys.stdout.write(f"[{i}] {line.decode(errors='replace').rstrip()}\n")
            sys.stdout.flush()

    def stop(self, *_: object) -> None:
        """SIGTERM to all; the second time SIGKILL."""
        self._told += 1
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM if self._told == 1 else signal.SIGKILL)

    @property
    def told(self) -> bool:
        return self._told > 0

    def wait(self, grace: float) -> int:
        """The exit status of all together: 0, else that of the first error that is not the loss of another."""
        failed_at, first = None, 0
        while any(p.poll() is None for p in self.processes):
            bad = [p.returncode for p in self.processes if p.poll() not in (None, 0)]
            if bad and failed_at is None:
                failed_at, first = time.monotonic(), bad[0]
            if failed_at is not None and time.monotonic() - failed_at > grace:
                print(f"the others have not ended within {grace:.0f} s: they are killed", flush=True)
                for process in self.processes:
                    if process.poll() is None:
                        process.kill()
                grace = float("inf")
            time.sleep(0.05)
        for thread in self._threads:
            thread.join(10)
        statuses = [first, *(p.returncode for p in self.processes)]
        first_hand = [s for s in statuses if s not in (0, LOST, -signal.SIGABRT)]
        return next(iter(first_hand), next((s for s in statuses if s), 0))


def main(_: str, program: list[str], runner: common.Runner) -> int:
    if runner.dry_run:
        for environment, command in commands(program, PORT.value or 8476):
            print(" ".join([*(f"{k}={shlex.quote(v)}" for k, v in environment.items()), shlex.join(command), "&"]))
        print("wait")
        return 0
    status = 0
    for attempt in range(RESTARTS.value + 1):
        group = Group(commands(program, PORT.value or free_port()))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, group.stop)
        status = group.wait(GRACE.value)
        if status in (0, 1, 2) or group.told or attempt == RESTARTS.value:
            break
        print(f"ended with status {status}: start {attempt + 2} of {RESTARTS.value + 1}", flush=True)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    common.start(main)
