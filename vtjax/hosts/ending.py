"""How one of several processes ends when something fails: the lost one named, the others told, in bounded time."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import NoReturn

from vtjax.hosts import heartbeat, session
from vtjax.hosts.session import ADVICE, LOST, LostProcess, Session

_POLL = 1.0  # seconds between looks for the failure of another process


def lost_to(error: BaseException, doing: str = "") -> LostProcess:
    """Says which process is gone when `error` tells that a connection broke; waits until their heartbeats show it."""
    if isinstance(error, LostProcess):
        return error
    interval = session.limits.heartbeat
    observer, until = session.observe(), time.monotonic() + max(2.5 * interval, 3 * heartbeat.SETTLE)
    me, count, gone = session.index_of(), session.count_of(), []
    while observer is not None and not gone and time.monotonic() < until:
        time.sleep(heartbeat.SETTLE)
        records = {p: r for p, r in observer.look().items() if p < count}
        gone = [p for p in records if p != me and observer.gone(p, 2.2 * interval)]
        gone = heartbeat.blamed(records, me, gone)
    if observer is not None and gone:
        gone = observer.first_of(gone, me, heartbeat.SETTLE)
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    named = "; ".join(session.describe(p, observer) for p in gone) or "another process, which cannot be told"
    return LostProcess(f"lost {named}{f' while {doing}' if doing else ''} ({reason}); {ADVICE}", tuple(gone))


def broke(error: BaseException) -> bool:
    """Whether an exception is what a broken connection between processes looks like."""
    signs = ("gloo", "unavailable", "deadline_exceeded", "coordination", "connection reset", "socket closed", "barrier")
    return session.several() and any(sign in f"{type(error).__name__}: {error}".lower() for sign in signs)


def startup_failed(own: Session) -> None:
    """Ends this process when the others have not joined in time, and names those that show no sign of life."""
    seconds, here, records = own.limits.startup, [own.index], {}
    if own.folder is not None:
        before = heartbeat.read(own.folder)
        time.sleep(2.2 * own.limits.heartbeat)
        records = heartbeat.read(own.folder)
        beats = [{p: r.get("beat") for p, r in found.items()} for found in (before, records)]
        here = [p for p in range(own.count) if p == own.index or beats[0].get(p) != beats[1].get(p)]
    away = [p for p in range(own.count) if p not in here]
    names = ", ".join(f"process {p}" + (f" (host {own.host(p)})" if own.host(p) else "") for p in away)
    hosts = {p: records.get(p, {}).get("host") for p in here}
    arrived = ", ".join(f"process {p}" + (f" (host {host})" if host else "") for p, host in hosts.items())
    at = f"coordinator {own.place.coordinator}" if own.place and own.place.coordinator else "coordinator"
    message = (
        f"{names} did not arrive within {seconds:.0f} s of the start; arrived: {arrived}. "
        f"Is the program running there, can it reach the {at}, and does it share {own.folder}?"
        if away else f"all processes have started, but did not reach the {at} within {seconds:.0f} s"
    )  # fmt: skip
    _end(own, message, LOST, tuple(away))


def watch(own: Session) -> None:
    """Ends this process soon after another has failed; process 0 also looks for those that died or fell silent."""
    observer, looked = heartbeat.Observer(own.folder), 0.0
    while not own.over.wait(_POLL):
        try:
            failures = session.client().key_value_dir_get("vtjax failed")
        except Exception:
            continue
        others = [json.loads(v) for k, v in failures if int(k.rsplit("/", 1)[1]) != own.index]
        if others:
            time.sleep(2.0)  # this one may be about to say the same, or more
            first = next((o for o in others if not o["lost"]), others[0])
            text = first["message"] if first["lost"] else f"{session.places([first['process']])}: {first['message']}"
            _end(own, text, first["status"], (first["process"],))
        if own.index == 0 and own.folder is not None and time.monotonic() - looked > own.limits.heartbeat:
            observer.look()
            looked = time.monotonic()
            gone = [p for p in range(1, own.count) if observer.gone(p, own.limits.lost)]
            if gone:
                named = "; ".join(heartbeat.describe(p, observer.records[p]) for p in gone)
                _end(own, f"lost {named}; {ADVICE}", LOST, tuple(gone))


def _end(own: Session, message: str, status: int, lost: tuple[int, ...] = ()) -> NoReturn:
    """Prints, tells the others, and ends this process at once; only the first caller does."""
    if not own.ending.acquire(blocking=False):
        time.sleep(3600)
    print(f"error: {message}", file=sys.stderr, flush=True)
    _tell_and_leave(own, message, status, lost)


def _tell_and_leave(own: Session, message: str, status: int, lost: tuple[int, ...]) -> NoReturn:
    own.over.set()
    killer = threading.Timer(30.0, os._exit, (status,))  # whatever hangs below
    killer.daemon = True
    killer.start()
    own.end("failed", message, lost)
    record = {"process": own.index, "message": message, "status": status, "lost": list(lost)}
    client = session.client()
    if own.joined:  # before that the client ends the process itself
        try:
            client.key_value_set(f"vtjax failed/{own.index}", json.dumps(record))
            # Without process 0 the others are ended by JAX and could not say why: it waits until they have.
            until = time.monotonic() + 8 * _POLL
            while own.index == 0 and time.monotonic() < until:
                ended = {int(k.rsplit("/", 1)[1]) for k, _ in client.key_value_dir_get("vtjax failed")}
                if len(ended | set(lost)) >= own.count:
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
    own = session.current
    if own is None:
        return
    if not session.several():
        own.end("failed", message)
        return
    if not own.ending.acquire(blocking=False):
        time.sleep(3600)
    _tell_and_leave(own, message, status, lost)


def stopped() -> None:
    """Notes that a signal stopped the run before its end, for the last heartbeat."""
    if session.current is not None:
        session.current.end_state = "stopped"
