"""Several processes: joined at the start, agreeing on what matters, named when one is missing, ended together.

All talk goes through the key-value store of JAX's coordination service, which works while devices wait for each other;
what is said of a process that no longer answers comes from its heartbeat in the work directory.
"""

from __future__ import annotations

import collections
import dataclasses
import fcntl
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax
from absl import logging

from vtjax.errors import VtjaxError
from vtjax.files import as_path
from vtjax.parallel import cluster, guardian, heartbeat, maintenance, versions

LOST = 75  # exit status (EX_TEMPFAIL) of a process that ends because another is gone: the same command goes on
_POLL = 1.0  # seconds between looks for the failure of another process


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


class _Session:
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


_session: _Session | None = None
_limits = Limits()
_counts: collections.Counter = collections.Counter()  # of barriers by name: all processes pass them in the same order


def join(
    mode: str,
    folder: str | os.PathLike | None = None,
    *,
    limits: Limits = Limits(),
    coordinator: str = "",
    processes: int = -1,
    process: int = -1,
) -> None:
    """Joins the other processes, where there are any, and starts this one's heartbeat in `folder`.

    mode: "auto" joins those of the flags or of the environment, "on" insists that there are some, "off" does not look.

    Raises:
      VtjaxError: contradicting flags, no cluster with "on", or processes that run different versions.
    """
    global _session, _limits
    told = cluster.from_flags(coordinator, processes, process)
    if mode == "off" and told is not None:
        raise VtjaxError("--multihost=off, but --coordinator, --processes and --process name several")
    place = None if mode == "off" else told or cluster.find()
    if mode == "on" and place is None:
        raise VtjaxError(
            "--multihost=on, but the environment names no other process: give --coordinator=HOST:PORT, --processes=N and "
            "--process=I, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        )
    _limits, _session = limits, _Session(None if folder is None else as_path(folder), place, limits)
    maintenance.watch(_session.over)
    if place is None or place.count == 1:
        _session.start_heartbeat()
        return
    if place.index is not None:
        _session.start_heartbeat()
        _session.start_guardian()
    timer = threading.Timer(limits.startup, _startup_failed, (_session,))
    timer.daemon = True
    timer.start()
    address, count, index = place.coordinator or None, place.count, place.index
    if place.kind in ("Slurm", "Open MPI", "Cloud TPU", "GKE"):
        address = count = index = None  # JAX finds them itself, and which devices are whose
    shutdown = {"shutdown_timeout_seconds": max(int(limits.lost), 1)}
    jax.distributed.initialize(
        address, count, index, initialization_timeout=int(limits.startup) + 60,
        heartbeat_timeout_seconds=max(int(limits.lost), 1), **shutdown,
    )  # fmt: skip
    timer.cancel()
    _session.joined = True
    _session.index, _session.count = _state().process_id, _state().num_processes
    _session.start_heartbeat()
    if _session.guard is None:
        _session.start_guardian()
    threading.Thread(target=_watch, args=(_session,), name="watch", daemon=True).start()
    _session.names = gather("join", socket.gethostname(), limits.startup)
    logging.info("process %d of %d (%s), hosts: %s", index_of(), count_of(), place.kind, ", ".join(_session.names))
    same("library", versions.identity())


def _state() -> Any:
    from jax._src import distributed

    return distributed.global_state


def _client() -> Any:
    return _state().client


def count_of() -> int:
    """The number of processes, without starting a backend."""
    return _state().num_processes if _client() is not None else 1


def index_of() -> int:
    """This process's place among them."""
    return _state().process_id if _client() is not None else 0


def several() -> bool:
    """Whether there is more than one process."""
    return count_of() > 1


def note(**values: Any) -> None:
    """What the next heartbeat says of this process: stage, step, data_wait."""
    if _session is not None and _session.beat is not None:
        _session.beat.note(**values)


def save_seconds() -> float:
    """The time limit of a save."""
    return _limits.save


def barrier(name: str, seconds: float | None = None) -> None:
    """Returns once every process is here; all must pass the same barriers in the same order.

    Raises:
      LostProcess: some did not arrive within `seconds` (default: the limit of a save); each is named.
    """
    gather(name, "", seconds)


def gather(name: str, text: str, seconds: float | None = None) -> list[str]:
    """A text of each process, by process, at every process; [text] where there is one process. Raises as `barrier`."""
    if not several():
        return [text]
    seconds = _limits.save if seconds is None else seconds
    client, count = _client(), count_of()
    _counts[name] += 1
    key = f"vtjax/{name}/{_counts[name]}"
    try:
        client.key_value_set(f"{key}/{index_of()}", f"={text}")
        client.wait_at_barrier(key, max(int(1000 * seconds), 1))
    except Exception as error:
        raise _missing(name, key, seconds, error) from error
    told = {int(k.rsplit("/", 1)[1]): v[1:] for k, v in client.key_value_dir_get(key)}
    if index_of() == 0 and _counts[name] > 2:
        client.key_value_delete(f"vtjax/{name}/{_counts[name] - 2}")  # all have read it: they have passed the one after
    return [told[i] for i in range(count)]


def _missing(name: str, key: str, seconds: float, error: Exception) -> LostProcess:
    try:
        here = {int(k.rsplit("/", 1)[1]) for k, _ in _client().key_value_dir_get(key)}
    except Exception:
        here = set()
    away = [i for i in range(count_of()) if i not in here]
    if not away or "DEADLINE" not in str(error):
        return lost_to(error, f"waiting for the others ({name})")
    observer = _observe(0.0)
    named = "; ".join(_describe(i, observer) for i in away)
    verb = "have" if len(away) > 1 else "has"
    return LostProcess(f"{named} {verb} not arrived within {seconds:.0f} s ({name}); {_advice()}", tuple(away))


def _advice() -> str:
    return "once all processes run again, the same command goes on from the last checkpoint"


def _observe(seconds: float) -> heartbeat.Observer:
    observer = heartbeat.Observer(_session.folder if _session is not None and _session.folder is not None else "")
    if observer.folder != "":
        observer.look()
        time.sleep(seconds)
        observer.look()
    return observer


def _describe(process: int, observer: heartbeat.Observer) -> str:
    host = _session.host(process) if _session is not None else ""
    record = observer.records.get(process)
    text = heartbeat.describe(process, record, host)
    return text if record is not None or observer.folder == "" else f"{text}, no heartbeat in {observer.folder}"


def from_main(name: str, text: str, seconds: float | None = None) -> str:
    """What process 0 says, at every process. Raises as `barrier`."""
    return gather(name, text if index_of() == 0 else "", seconds)[0]


def same(name: str, values: Mapping[str, Any], seconds: float | None = None) -> None:
    """Refuses to go on where {field: plain value} is not the same on all processes.

    Raises:
      VtjaxError: the same on every process, with every differing field, its values and its hosts.
    """
    told = [json.loads(text) for text in gather(f"same {name}", json.dumps(dict(values), sort_keys=True), seconds)]
    lines = []
    for field in sorted(set().union(*told)):
        groups: dict[str, list[int]] = {}
        for process, record in enumerate(told):
            groups.setdefault(json.dumps(record.get(field)), []).append(process)
        if len(groups) > 1:
            parts = [f"{value} on {_places(who)}" for value, who in groups.items()]
            lines.append(f"{field}: " + ", ".join(parts))
    if lines:
        raise VtjaxError(f"the processes differ in their {name}:\n  " + "\n  ".join(lines) + "\nStart all of them alike.")


def _places(processes: list[int]) -> str:
    shown = [f"{i} ({_session.host(i)})" if _session and _session.host(i) else str(i) for i in processes[:4]]
    more = f" and {len(processes) - 4} more" if len(processes) > 4 else ""
    return f"process{'es' if len(processes) > 1 else ''} {', '.join(shown)}{more}"


def all_well(name: str, problem: str, seconds: float | None = None) -> str:
    """"" where no process reports a problem, else the first one with its process; the same on all of them."""
    for process, text in enumerate(gather(name, problem, seconds)):
        if text:
            return text if not several() else f"{_places([process])}: {text}"
    return ""


def one_after_another(name: str, work: Callable[[], Any]) -> Any:
    """work() on process 0 first, then on the others, so that they find what it wrote. Raises as `barrier`.

    Where hosts have disks of their own, the first process of each host comes before its others.
    """
    if not several():
        return work()
    result = work() if index_of() == 0 else None
    barrier(f"{name}, first", _limits.finish)
    if index_of():
        with open(pathlib.Path(tempfile.gettempdir()) / f"vtjax-{os.getuid()}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            result = work()
    barrier(f"{name}, others", _limits.finish)
    return result


def lost_to(error: BaseException, doing: str = "") -> LostProcess:
    """Says which process is gone when `error` tells that a connection broke; waits until their heartbeats show it."""
    if isinstance(error, LostProcess):
        return error
    interval = _limits.heartbeat
    observer, until = _observe(0.0), time.monotonic() + max(2.5 * interval, 3 * heartbeat.SETTLE)
    me, count, gone = index_of(), count_of(), []
    while observer.folder != "" and not gone and time.monotonic() < until:
        time.sleep(heartbeat.SETTLE)
        records = {p: r for p, r in observer.look().items() if p < count}
        gone = [p for p in records if p != me and observer.gone(p, 2.2 * interval)]
        gone = heartbeat.blamed(records, me, gone)
    if me and gone and gone != [0]:  # the file of the first may come later than those of the ones it took with it
        time.sleep(heartbeat.SETTLE)
        gone = [0] if observer.look().get(0, {}).get("state") == "died" else gone
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    named = "; ".join(_describe(p, observer) for p in gone) or "another process, which cannot be told"
    return LostProcess(f"lost {named}{f' while {doing}' if doing else ''} ({reason}); {_advice()}", tuple(gone))


def broke(error: BaseException) -> bool:
    """Whether an exception is what a broken connection between processes looks like."""
    signs = ("gloo", "unavailable", "deadline_exceeded", "coordination", "connection reset", "socket closed", "barrier")
    return several() and any(sign in f"{type(error).__name__}: {error}".lower() for sign in signs)


def _startup_failed(session: _Session) -> None:
    """Ends this process when the others have not joined in time, and names those that show no sign of life."""
    observer = heartbeat.Observer(session.folder) if session.folder is not None else None
    expected = range(session.count) if session.place and session.place.count else ()
    seconds, here = session.limits.startup, [session.index]
    if observer is not None:
        observer.look()
        before = {p: r.get("beat") for p, r in observer.records.items()}
        time.sleep(2.2 * session.limits.heartbeat)
        records = observer.look()
        here = [p for p in expected if p == session.index or (p in records and records[p].get("beat") != before.get(p))]
    away = [p for p in expected if p not in here]
    names = ", ".join(f"process {p}" + (f" (host {session.host(p)})" if session.host(p) else "") for p in away)
    hosts = [(observer.records.get(p, {}) if observer else {}).get("host") for p in here]
    arrived = ", ".join(f"process {p}" + (f" (host {h})" if h else "") for p, h in zip(here, hosts, strict=True))
    at = f"coordinator {session.place.coordinator}" if session.place and session.place.coordinator else "coordinator"
    message = (
        f"{names or 'some processes'} did not arrive within {seconds:.0f} s of the start; arrived: {arrived}. "
        f"Is the program running there, can it reach the {at}, and does it share {session.folder}?"
        if away else f"all processes have started, but did not reach the {at} within {seconds:.0f} s"
    )  # fmt: skip
    _end(session, message, LOST, tuple(away))


def _watch(session: _Session) -> None:
    """Ends this process soon after another has failed; process 0 also looks for those that died or fell silent."""
    observer, looked = heartbeat.Observer(session.folder), 0.0
    while not session.over.wait(_POLL):
        try:
            failures = _client().key_value_dir_get("vtjax failed")
        except Exception:
            continue
        others = [json.loads(v) for k, v in failures if int(k.rsplit("/", 1)[1]) != session.index]
        if others:
            time.sleep(2.0)  # this one may be about to say the same, or more
            first = next((o for o in others if not o["lost"]), others[0])
            text = first["message"]
            _end(session, text if first["lost"] else f"{_places([first['process']])}: {text}", first["status"], (first["process"],))
        if session.index == 0 and session.folder is not None and time.monotonic() - looked > session.limits.heartbeat:
            observer.look()
            looked = time.monotonic()
            gone = [p for p in range(1, session.count) if observer.gone(p, session.limits.lost)]
            if gone:
                named = "; ".join(heartbeat.describe(p, observer.records[p]) for p in gone)
                _end(session, f"lost {named}; {_advice()}", LOST, tuple(gone))


def _end(session: _Session, message: str, status: int, lost: tuple[int, ...] = ()) -> NoReturn:
    """Prints, tells the others, and ends this process at once; only the first caller does."""
    if not session.ending.acquire(blocking=False):
        time.sleep(3600)
    print(f"error: {message}", file=sys.stderr, flush=True)
    _tell_and_leave(session, message, status, lost)


def _tell_and_leave(session: _Session, message: str, status: int, lost: tuple[int, ...]) -> NoReturn:
    session.over.set()
    killer = threading.Timer(30.0, os._exit, (status,))  # whatever hangs below
    killer.daemon = True
    killer.start()
    if session.beat is not None:
        session.beat.end("failed", message=message.splitlines()[0][:500], lost=list(lost))
    session.dismiss()
    record = {"process": session.index, "message": message, "status": status, "lost": list(lost)}
    client = _client()
    if session.joined:  # before that the client ends the process itself
        try:
            client.key_value_set(f"vtjax failed/{session.index}", json.dumps(record))
            # Without process 0 the others are ended by JAX and could not say why: it waits until they have.
            until = time.monotonic() + 8 * _POLL
            while session.index == 0 and time.monotonic() < until:
                ended = {int(k.rsplit("/", 1)[1]) for k, _ in client.key_value_dir_get("vtjax failed")}
                if len(ended | set(lost)) >= session.count:
                    time.sleep(_POLL)
                    break
                time.sleep(0.2)
        except Exception:
            pass
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def fail(message: str, status: int, lost: tuple[int, ...] = ()) -> None:
    """Ends this process and the others where there are several; returns where there is only this one.

    message: what the others are told and print; this process has printed it already.
    """
    session = _session
    if session is None:
        return
    if not several():
        if session.beat is not None:
            session.beat.end("failed", message=message.splitlines()[0][:500], lost=[])
        session.dismiss()
        return
    if not session.ending.acquire(blocking=False):
        time.sleep(3600)
    _tell_and_leave(session, message, status, lost)


def stopped() -> None:
    """Notes that a signal stopped the run before its end, for the last heartbeat."""
    if _session is not None:
        _session.end_state = "stopped"


def leave() -> None:
    """The good end of this process: waits for the others, then parts from them."""
    session = _session
    if session is None:
        return
    if several():
        barrier("leave", session.limits.finish)
    session.over.set()
    if session.beat is not None:
        session.beat.end(session.end_state)
    session.dismiss()
    if several():
        jax.distributed.shutdown()
