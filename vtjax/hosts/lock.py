"""One training at a time in a work directory: a lock file there names its holder, and is void once that one is dead.

On the holder's machine the kernel says whether the holder lives. From any other machine (a shared file system, a
bucket) it is judged as heartbeats are, by change and not by clocks: the holder writes its record anew every few
seconds, and a record that has not changed for a while is taken over.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from absl import logging

from vtjax.errors import VtjaxError
from vtjax.files import as_path, is_remote, write_atomically
from vtjax.hosts import ending, heartbeat, processes, session

NAME = "lock.json"  # in the work directory
REFRESH = 5.0  # seconds between records of a holder
SILENCE = 60.0  # seconds without a new record after which a holder on another machine counts as gone
SETTLE = 0.5  # seconds after which the last of several writers stands; four times that in a bucket


class WorkInUse(VtjaxError):
    """Another training runs in the work directory."""


@contextlib.contextmanager
def held(work: os.PathLike | str) -> Iterator[None]:
    """Holds the lock of a work directory, which is made where it is missing; of several processes, process 0 does.

    The lock is released at the end, on an error and on SIGTERM; what SIGKILL leaves is taken over by the next holder.

    Args:
      work: a folder, or its address in a bucket.

    Raises:
      WorkInUse: another training runs there; it is named, on every process.
      VtjaxError: nothing can be written there.
    """
    path, lock, problem = as_path(work) / NAME, None, ""
    if processes.index_of() == 0:
        try:
            lock = _Lock(path)
        except WorkInUse as error:
            problem = str(error)
    if lock is not None and session.current is not None:  # which may end this process at once
        session.current.at_end.append(lock.release)
    try:
        problem = processes.all_well("lock of the work directory", problem, session.limits.save + SILENCE)
        if problem:
            raise WorkInUse(problem)
        with _released_on_sigterm(lock):
            yield
    finally:
        if lock is not None:
            lock.release()


class _Lock:
    """A lock taken by this process, with the thread that refreshes its record."""

    def __init__(self, path: Any):
        self._path, self._over, self._writing = path, threading.Event(), threading.Lock()
        self._record: dict[str, Any] = {
            "token": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid(), "machine": _machine(),
            "process_started": _process_start(os.getpid()), "count": 0,
            "since": datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
        }  # fmt: skip
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._take()
        except OSError as error:
            raise VtjaxError(f"{path}: cannot be written: {error.strerror or error}") from error
        threading.Thread(target=self._refresh, name="lock", daemon=True).start()

    def _take(self) -> None:
        """Writes this process's record, or raises WorkInUse; waits where only that shows whether a holder lives."""
        first, since = None, 0.0  # the record of another when first read, and when that was
        while True:
            other = _read(self._path)
            if other is None:
                if self._write_first():
                    return
                continue
            alive = _alive(other)
            if first is None or other.get("token") != first.get("token"):
                first, since = other, time.monotonic()
                if alive is None:
                    text = "%s is held by %s: waiting up to %.0f s to see whether that one still runs"
                    logging.warning(text, self._path, _name(other), SILENCE)
            if alive or other != first:
                raise WorkInUse(
                    f"{self._path.parent} is in use by another training: {_name(other)}. Wait for its end or stop it, "
                    "or choose another --work_directory."
                )
            if alive is None and time.monotonic() - since < SILENCE:
                time.sleep(REFRESH / 5)
                continue
            logging.warning("%s: taken over from %s, which no longer runs", self._path, _name(other))
            if self._write_over():
                return

    def _write_first(self) -> bool:
        """Makes the lock file where there is none; whether this process did."""
        if is_remote(self._path):
            return self._write_over()
        try:
            with self._path.open("x") as file:
                file.write(json.dumps(self._record) + "\n")
        except FileExistsError:
            return False
        return True

    def _write_over(self) -> bool:
        """Writes this process's record over what is there; False where another process did so after it."""
        write_atomically(self._path, json.dumps(self._record) + "\n")
        time.sleep(SETTLE * (4 if is_remote(self._path) else 1))
        return (_read(self._path) or {}).get("token") == self._record["token"]

    def _refresh(self) -> None:
        while not self._over.wait(REFRESH):
            with self._writing:
                if self._over.is_set():
                    return
                try:
                    other = _read(self._path)
                except Exception:  # of a network, for the moment
                    continue
                if other is not None and other.get("token", "") not in ("", self._record["token"]):
                    break
                self._record["count"] += 1
                heartbeat.write(self._path, self._record)
        else:
            return
        message = (
            f"{self._path} was taken over by {_name(other)}, as this process had not refreshed it for {SILENCE:.0f} s; "
            "it ends, so that two trainings do not write to one work directory"
        )
        print(f"error: {message}", file=sys.stderr, flush=True)
        ending.fail(message, 2)
        os._exit(2)

    def release(self) -> None:
        """Removes the lock file where it is still this process's."""
        self._over.set()
        if not self._writing.acquire(timeout=REFRESH):
            return
        try:
            if (_read(self._path) or {}).get("token") == self._record["token"]:
                self._path.unlink()
        except Exception as error:  # the run has ended; the next one takes the lock over
            logging.warning("%s could not be removed: %s", self._path, error)
        finally:
            self._writing.release()


@contextlib.contextmanager
def _released_on_sigterm(lock: _Lock | None) -> Iterator[None]:
    """Releases the lock before SIGTERM ends the process. Of several processes JAX takes that signal: the loop stops."""
    usable = threading.current_thread() is threading.main_thread() and not processes.several()
    if lock is None or not usable or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, _: Any) -> None:
        lock.release()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _read(path: Any) -> dict[str, Any] | None:
    """The record of a lock file; None where there is no such file, {} where it is half-written."""
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _name(record: dict[str, Any]) -> str:
    host, pid, since = (record.get(field, "unknown") for field in ("host", "pid", "since"))
    return f"process {pid} on host {host}, started {since}"


def _machine() -> str:
    """Names the running kernel and, of containers, the name space in which a process id means something."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _process_start(pid: int) -> str:
    """When a process of this machine started, as the kernel tells; "" where there is none, or only its remains.

    With the process id this is unique: an id is given to another process sooner or later.
    """
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except OSError:
        if pathlib.Path("/proc/self/stat").exists():
            return ""
    shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip()


def _alive(record: dict[str, Any]) -> bool | None:
    """Whether the holder lives; None where this cannot be told from this machine."""
    if record.get("machine") != _machine():
        return None
    start = _process_start(record["pid"])
    if not start:
        try:
            os.kill(record["pid"], 0)
        except PermissionError:  # another user's, hidden from this one
            return None
        except ProcessLookupError:
            return False
    return start == record["process_started"]
