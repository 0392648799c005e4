"""What one of several processes knows of itself and the others: its session, its limits, who they are."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from vtjax.errors import VtjaxError
from vtjax.hosts import cluster, guardian, heartbeat

LOST = 75  # exit status (EX_TEMPFAIL) of a process that ends because another is gone: the same command goes on
ADVICE = "once all processes run again, the same command goes on from the last checkpoint"


class LostProcess(VtjaxError):
    """Another process is missing, gone or has failed. lost: their indices."""

    def __init__(self, message: str, lost: tuple[int, ...] = ()):
        super().__init__(message)
        self.lost = lost


@dataclasses.dataclass(frozen=True)
class Limits:
    """Seconds. startup: for all processes to join. save: for all to reach a save, and for a save. finish: for the rest
    to wait while one writes the report. heartbeat: between beats. lost: of silence after which a process is gone."""

    startup: float = 300.0
    save: float = 600.0
    finish: float = 7200.0
    heartbeat: float = 10.0
    lost: float = 100.0


class Session:
    """What `join` started in this process."""

    def __init__(self, folder: Any, place: cluster.Cluster | None, limits: Limits):
        self.folder, self.place, self.limits = folder, place, limits
        self.index = place.index if place is not None and place.index is not None else 0
        self.count = place.count if place is not None and place.count is not None else 1
        self.names: list[str] = []  # host of each process, once they have joined
        self.beat: heartbeat.Heartbeat | None = None
        self.guard: subprocess.Popen | None = None
        self.ending = threading.Lock()
        self.end_state = "finished"
        self.at_end: list[Callable[[], None]] = []  # called however this process ends, unless it is killed
        self.joined = False
        self.over = threading.Event()

    def start_heartbeat(self) -> None:
        if self.folder is not None and self.beat is None:
            self.beat = heartbeat.Heartbeat(self.folder, self.index, self.count, self.limits.heartbeat)

    def start_guardian(self) -> None:
        if self.beat is None:
            return
        silence = min(3 * self.limits.heartbeat, self.limits.lost)
        arguments = [guardian.__file__, str(self.folder), str(self.index), str(self.count), str(silence)]
        self.guard = subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE, start_new_session=True)

    def dismiss(self) -> None:
        for action in self.at_end:
            action()
        if self.guard is not None:
            try:
                self.guard.communicate(b"bye", timeout=5)
            except (OSError, ValueError, subprocess.TimeoutExpired):
                self.guard.kill()
            self.guard = None

    def host(self, process: int) -> str:
        if process < len(self.names):
            return self.names[process]
        return self.place.name_of(process) if self.place is not None else ""


current: Session | None = None  # what hosts.join started
limits = Limits()


def state() -> Any:
    """JAX's own record of this process among several."""
    from jax._src import distributed

    return distributed.global_state


def client() -> Any:
    """The client of JAX's coordination service, None where there is one process."""
    return state().client


def count_of() -> int:
    """The number of processes, without starting a backend."""
    return state().num_processes if client() is not None else 1


def index_of() -> int:
    """This process's place among them."""
    return state().process_id if client() is not None else 0


def several() -> bool:
    """Whether there is more than one process."""
    return count_of() > 1


def observe(seconds: float) -> heartbeat.Observer:
    """The heartbeats of all processes, looked at twice, `seconds` apart."""
    observer = heartbeat.Observer(current.folder if current is not None and current.folder is not None else "")
    if observer.folder != "":
        observer.look()
        time.sleep(seconds)
        observer.look()
    return observer


def describe(process: int, observer: heartbeat.Observer) -> str:
    """A process with its host, and what its heartbeat last said."""
    host = current.host(process) if current is not None else ""
    record = observer.records.get(process)
    text = heartbeat.describe(process, record, host)
    return text if record is not None or observer.folder == "" else f"{text}, no heartbeat in {observer.folder}"


def places(processes: list[int]) -> str:
    """"processes 0 (host a), 1 (host b)"."""
    shown = [f"{i} ({current.host(i)})" if current and current.host(i) else str(i) for i in processes[:4]]
    more = f" and {len(processes) - 4} more" if len(processes) > 4 else ""
    return f"process{'es' if len(processes) > 1 else ''} {', '.join(shown)}{more}"
