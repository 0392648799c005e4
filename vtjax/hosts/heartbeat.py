"""A file per process in the work directory: host, step and time, written again and again while the process lives.

Little is imported, so that a watcher starts at once. Clocks of hosts differ, so a process is judged by whether its
file changes, not by the time written in it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from typing import Any

from vtjax.files import as_path, is_remote

FOLDER = "heartbeats"
RUNNING = ("joining", "running")  # states of a process that is to go on


def file_of(folder: Any, process: int) -> Any:
    return folder / f"process-{process:05d}.json"


def write(path: Any, record: dict[str, Any]) -> None:
    """Whole or not at all; a place that cannot be written is no reason to end a run."""
    text = json.dumps(record) + "\n"
    try:
        if not is_remote(path):
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            temporary.write_text(text)
            temporary.replace(path)
        else:
            path.write_text(text)  # an object of a bucket appears whole
    except Exception:
        return


def read(folder: str | os.PathLike) -> dict[int, dict[str, Any]]:
    """{process: its record}; files that are not readable at the moment are left out."""
    records: dict[int, dict[str, Any]] = {}
    try:
        entries = list(as_path(folder).iterdir())
    except Exception:
        return records
    for entry in entries:
        match = re.fullmatch(r"process-(\d+)\.json", entry.name)
        if match:
            try:
                record = json.loads(entry.read_text())
                records[int(match.group(1))] = record if isinstance(record, dict) else {}
            except Exception:
                continue
    return records


def describe(process: int, record: dict[str, Any] | None, host: str = "") -> str:
    """"process 1 (host b), last heard of 12 s ago at step 7", from what is known."""
    record = record or {}
    host = record.get("host") or host
    parts = [f"process {process}" + (f" (host {host})" if host else "")]
    if record.get("time") is not None:
        heard = f"last heard of {max(time.time() - record['time'], 0.0):.0f} s ago"
        if record.get("step") is not None:
            heard += f" at step {record['step']}" + (f" of stage {record['stage']}" if record.get("stage") else "")
        parts.append(heard)
    if record.get("state") == "died":
        parts.append("killed or crashed")
    elif record.get("state") == "failed":
        parts.append(f"ended with: {record.get('message', 'an error')}")
    return ", ".join(parts)


def _forget(folder: Any, processes: int) -> None:
    """Removes the files of an earlier start with more processes."""
    for process in read(folder):
        if process >= processes:
            try:
                file_of(folder, process).unlink()
            except Exception:
                continue


class Heartbeat:
    """Writes this process's file every `seconds` from a thread of its own, until `end`."""

    def __init__(self, folder: str | os.PathLike, process: int, processes: int, seconds: float):
        self.folder, self.process, self.seconds = as_path(folder), process, seconds
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path = file_of(self.folder, process)
        self._record: dict[str, Any] = {
            "process": process, "processes": processes, "host": socket.gethostname(), "pid": os.getpid(),
            "state": "joining", "step": None, "beat": 0, "interval": seconds, "started": round(time.time(), 3),
        }  # fmt: skip
        if process == 0:
            _forget(self.folder, processes)
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def note(self, **values: Any) -> None:
        """Changes what the next beat says."""
        self._record.update(values)

    def _write(self) -> None:
        with self._lock:
            self._record["beat"] += 1
            self._record["time"] = round(time.time(), 3)
            write(self._path, dict(self._record))

    def _run(self) -> None:
        while not self._ended.wait(self.seconds):
            self._write()

    def beat(self, **values: Any) -> None:
        """Notes and writes at once."""
        self.note(**values)
        self._write()

    def end(self, state: str, **values: Any) -> None:
        """The last word: "finished", "stopped" or "failed"."""
        self._ended.set()
        self.beat(state=state, **values)


SETTLE = 0.5  # seconds until what happens to several processes at once is in all of their files


def blamed(records: dict[int, dict[str, Any]], me: int, gone: list[int]) -> list[int]:
    """Of the processes that are `gone` for `me`, those that went first.

    When process 0 goes, JAX ends all others at once; who ended by an error of its own is to blame before who ended
    because it had lost another.
    """
    if 0 in gone and me != 0:
        return [0]
    failed = [p for p, r in records.items() if p != me and r.get("state") == "failed" and not r.get("lost")]
    return gone or failed


class Observer:
    """Looks at a folder of heartbeats now and then, and says how long ago each file was seen to change."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = folder
        self.records: dict[int, dict[str, Any]] = {}
        self._changes: dict[int, tuple[Any, float]] = {}  # process: (what identifies a beat, when it was first seen)

    def look(self) -> dict[int, dict[str, Any]]:
        now = time.monotonic()
        self.records = read(self.folder)
        for process, record in self.records.items():
            beat = (record.get("started"), record.get("beat"), record.get("state"))
            if process not in self._changes or self._changes[process][0] != beat:
                self._changes[process] = (beat, now)
        return self.records

    def age(self, process: int) -> float | None:
        """Seconds since a change was seen, None where there is no file."""
        return None if process not in self._changes else time.monotonic() - self._changes[process][1]

    def first_of(self, gone: list[int], me: int, seconds: float) -> list[int]:
        """[0] where process 0 has died, else `gone`: its file may come later than those of the ones it took with it."""
        if me == 0 or gone == [0]:
            return gone
        time.sleep(seconds)
        return [0] if self.look().get(0, {}).get("state") == "died" else gone

    def gone(self, process: int, seconds: float) -> bool:
        """Whether a process that is to go on has died, or has been silent for `seconds`."""
        record = self.records.get(process)
        if record is None:
            return False
        if record.get("state") == "died":
            return True
        return record.get("state") in RUNNING and (self.age(process) or 0.0) > seconds
