"""What the processes of a run are doing: python -m launch.watch --work_directory=gs://bucket/run [--once]

Reads the heartbeats in the work directory. Ends with status 0 once all have finished, 1 when the run is not going on
(stopped, failed, died, or silent for --silent_seconds), and with --once 3 while it runs.
"""

from __future__ import annotations

import time
from typing import Any

from absl import flags

from launch import common
from vtjax.files import as_path
from vtjax.hosts.heartbeat import FOLDER, RUNNING, Observer

flags.adopt_module_key_flags(common)
WORK = flags.DEFINE_string("work_directory", "", "Work directory of the run.")
ONCE = flags.DEFINE_bool("once", False, "Look once, over --silent_seconds.")
EVERY = flags.DEFINE_float("every_seconds", 30, "Time between looks.")
SILENT = flags.DEFINE_float("silent_seconds", 60, "A process whose heartbeat does not change for so long is gone.")
FINISHED, ENDED, RUNS, NOTHING = "finished", "ended", "running", "nothing"


def judge(observer: Observer, silent: float) -> tuple[str, list[str]]:
    """(state of the run, one line per process); processes that are still to write a heartbeat do not count."""
    records = observer.records
    newest = max(records.values(), key=lambda r: r.get("started") or 0, default={})
    count = newest.get("processes", 0)  # files of an earlier start with more processes may still be there
    records = {p: r for p, r in sorted(records.items()) if p < count}
    if not records:
        return NOTHING, []
    latest = max((r.get("step") or 0) for r in records.values())
    lines = [_line(p, r, observer, silent, latest) for p, r in records.items()]
    if all(r.get("state") == "finished" for r in records.values()):
        return FINISHED, lines
    alive = all(r.get("state") in (*RUNNING, "finished") for r in records.values())
    gone = any(observer.gone(p, silent) for p in records)
    return (RUNS if alive and not gone else ENDED), lines


def _line(process: int, record: dict[str, Any], observer: Observer, silent: float, latest: int) -> str:
    state = record.get("state", "?")
    if state in RUNNING and observer.gone(process, silent):
        state = f"silent for {observer.age(process):.0f} s"
    step = "-" if record.get("step") is None else f"{record['step']}"
    text = f"process {process:4d}  {record.get('host', '?'):24s} {state:20s} step {step:>8s}"
    if record.get("step") is not None and latest - record["step"] > 1:
        text += f"  {latest - record['step']} behind"
    if record.get("data_wait") is not None:
        text += f"  waits for data {100 * record['data_wait']:.0f} %"
    return text + (f"  {record['message']}" if record.get("message") else "")


def look(work: str, silent: float) -> tuple[str, list[str]]:
    """`judge` of a work directory, after watching it as long as it takes to tell silence from a pause."""
    observer = Observer(as_path(work) / FOLDER)
    observer.look()
    until = time.monotonic() + silent
    while judge(observer, silent)[0] == RUNS and time.monotonic() < until:
        time.sleep(min(1.0, silent / 4))
        observer.look()
    return judge(observer, 0.9 * silent)


def main(_: str, program: list[str], runner: common.Runner) -> int:
    common.needed(work_directory=WORK.value)
    if runner.dry_run:
        runner.say(f"read {WORK.value}/{FOLDER}/process-*.json every {EVERY.value:g} s")
        return 0
    if ONCE.value:
        state, lines = look(WORK.value, SILENT.value)
        print("\n".join([*lines, f"the run: {state}"]))
        return {FINISHED: 0, RUNS: 3}.get(state, 1)
    observer = Observer(as_path(WORK.value) / FOLDER)
    while True:
        observer.look()
        state, lines = judge(observer, SILENT.value)
        print("\n".join([time.strftime("%H:%M:%S"), *lines, f"the run: {state}"]), flush=True)
        if state in (FINISHED, ENDED):
            return 0 if state == FINISHED else 1
        time.sleep(EVERY.value)


if __name__ == "__main__":
    common.start(main)
