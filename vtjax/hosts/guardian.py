"""A small program beside each process of several: it says so when that process ends without a word.

    python -m vtjax.hosts.guardian FOLDER PROCESS PROCESSES SECONDS    started by vtjax.hosts, which holds its input

A process that is killed cannot say anything, and JAX ends the others (SIGABRT) when the one that coordinates them is
gone, without naming its host. The pipe is closed in either case; this program then writes the state "died" to the
heartbeat, so that the others know at once, and prints who else has gone. A last line on the pipe means all is well.
"""

from __future__ import annotations

import os
import sys
import time

from vtjax.files import as_path
from vtjax.hosts import heartbeat


def last_words(folder: str, process: int, processes: int, seconds: float) -> str:
    """Marks the heartbeat of the process that is gone, and says which of the others are.

    seconds: of silence after which one is gone, too.
    """
    path = heartbeat.file_of(as_path(folder), process)
    record = heartbeat.read(folder).get(process, {})
    if record.get("state") in heartbeat.RUNNING:
        heartbeat.write(path, {**record, "state": "died", "beat": record.get("beat", 0) + 1})
    observer = heartbeat.Observer(folder)
    before = {p for p, r in observer.look().items() if r.get("state") in ("died", "failed")}
    until = time.monotonic() + seconds
    lost: list[int] = []
    while not lost and time.monotonic() < until:
        time.sleep(min(heartbeat.SETTLE, seconds))
        others = {p: r for p, r in observer.look().items() if p != process and p < processes}
        if process == 0:  # JAX ends the others when the first is gone: only who was gone before can be the cause
            others = {p: r for p, r in others.items() if p in before}
        lost = heartbeat.blamed(others, process, [p for p, r in others.items() if r.get("state") == "died"])
        blamed = any(process in r.get("lost", ()) for r in others.values())
        if (process == 0 and not lost) or (lost != [0] and blamed):
            lost = []
            break  # the others ended because of this one, or will
    else:
        lost = lost or [p for p in range(processes) if p != process and observer.gone(p, 0.8 * seconds)]
    lost = observer.first_of(lost, process, min(heartbeat.SETTLE, seconds))
    where = "" if record.get("step") is None else f" at step {record['step']}"
    me = f"process {process} of {processes} (host {record.get('host')})"
    if not lost:
        return f"{me} was killed or crashed{where}"
    named = "; ".join(heartbeat.describe(p, observer.records.get(p)) for p in lost)
    return f"{me} ended{where} because it lost {named}"


def main() -> None:
    folder, process, processes, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    said = sys.stdin.buffer.read()
    if said.strip() == b"bye":
        return
    try:
        print(f"error: {last_words(folder, process, processes, seconds)}", file=sys.stderr, flush=True)
    except BrokenPipeError:
        os._exit(1)


if __name__ == "__main__":
    main()
