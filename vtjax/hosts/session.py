"""What this process knows of itself and of the others, where there are any: its session, limits, who they are."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
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
        self.index, self.count = (place.index, place.count) if place is not None else (0, 1)
        self.names: list[str] = []  # host of each process, once they have joined
        self.beat: heartbeat.Heartbeat | None = None
        self.guard: subprocess.Popen | None = None
        self.ending = threading.Lock()
        self.end_state = "finished"
        self.at_end: list[Callable[[], None]] = []  # called however this process ends, unless it is killed
        self.joined = False
        self.over = threading.Event()
        if folder is not None:
            self.beat = heartbeat.Heartbeat(folder, self.index, self.count, limits.heartbeat)

    def start_guardian(self) -> None:
        """Starts the program that speaks for this process where it is killed."""
        if self.folder is None:
            return
        silence = min(3 * self.limits.heartbeat, self.limits.lost)
        arguments = map(str, (self.folder, self.index, self.count, silence))
        self.guard = subprocess.Popen(
            [sys.executable, "-P", "-m", guardian.__name__, *arguments], stdin=subprocess.PIPE, start_new_session=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip

    def end(self, state: str, message: str = "", lost: Sequence[int] = ()) -> None:
        """Writes the last heartbeat, calls `at_end`, and tells the guardian that all is well."""
        if self.beat is not None:
            failure = {"message": message.splitlines()[0][:500], "lost": list(lost)} if message else {}
            self.beat.end(state, **failure)
        for action in self.at_end:
            action()
        if self.guard is not None:
            try:
                self.guard.communicate(b"bye", timeout=5)
            except (OSError, ValueError, subprocess.TimeoutExpired):
                self.guard.kill()
            self.guard = None

    def host(self, process: int) -> str:
        """The name of a process's host, "" where it is not known."""
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


def observe() -> heartbeat.Observer | None:
    """The heartbeats of all processes; None where this one writes none."""
    if current is None or current.folder is None:
        return None
    observer = heartbeat.Observer(current.folder)
    observer.look()
    return observer


def describe(process: int, observer: heartbeat.Observer | None) -> str:
    """A process with its host, and what its heartbeat last said."""
    record = observer.records.get(process) if observer is not None else None
    text = heartbeat.describe(process, record, current.host(process) if current is not None else "")
    return text if record is not None or observer is None else f"{text}, no heartbeat in {observer.folder}"


def places(processes: list[int]) -> str:
    """"processes 0 (host a), 1 (host b)"."""
    shown = [f"{i} ({current.host(i)})" if current and current.host(i) else str(i) for i in processes[:4]]
    more = f" and {len(processes) - 4} more" if len(processes) > 4 else ""
    return f"process{'es' if len(processes) > 1 else ''} {', '.join(shown)}{more}"
