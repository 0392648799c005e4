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
    me, count = session.index_of(), session.count_of()
    gone: list[int] = []
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


def startup_failed(this: Session) -> None:
    """Ends this process when the others have not joined in time, and names those that show no sign of life."""
    seconds, here, records = this.limits.startup, [this.index], {}
    if this.folder is not None:
        before = heartbeat.read(this.folder)
        time.sleep(2.2 * this.limits.heartbeat)
        records = heartbeat.read(this.folder)
        beats = [{p: r.get("beat") for p, r in look.items()} for look in (before, records)]
        here = [p for p in range(this.count) if p == this.index or beats[0].get(p) != beats[1].get(p)]
    away = [p for p in range(this.count) if p not in here]
    names = ", ".join(heartbeat.describe(p, None, this.host(p)) for p in away)
    arrived = ", ".join(heartbeat.describe(p, None, records.get(p, {}).get("host", "")) for p in here)
    at = f"coordinator {this.place.coordinator}" if this.place and this.place.coordinator else "coordinator"
    message = (
        f"{names} did not arrive within {seconds:.0f} s of the start; arrived: {arrived}. "
        f"Is the program running there, can it reach the {at}, and does it share {this.folder}?"
        if away else f"all processes have started, but did not reach the {at} within {seconds:.0f} s"
    )  # fmt: skip
    _end(this, message, LOST, tuple(away))


def watch(this: Session) -> None:
    """Ends this process soon after another has failed; process 0 also looks for those that died or fell silent."""
    observer, looked = heartbeat.Observer(this.folder), 0.0
    while not this.over.wait(_POLL):
        try:
            failures = session.client().key_value_dir_get("vtjax failed")
        except Exception:
            continue
        others = [json.loads(v) for k, v in failures if int(k.rsplit("/", 1)[1]) != this.index]
        if others:
            time.sleep(2.0)  # this one may be about to say the same, or more
            first = next((o for o in others if not o["lost"]), others[0])
            text = first["message"] if first["lost"] else f"{session.places([first['process']])}: {first['message']}"
            _end(this, text, first["status"], (first["process"],))
        if this.index == 0 and this.folder is not None and time.monotonic() - looked > this.limits.heartbeat:
            observer.look()
            looked = time.monotonic()
            gone = [p for p in range(1, this.count) if observer.gone(p, this.limits.lost)]
            if gone:
                named = "; ".join(heartbeat.describe(p, observer.records[p]) for p in gone)
                _end(this, f"lost {named}; {ADVICE}", LOST, tuple(gone))


def _end(this: Session, message: str, status: int, lost: tuple[int, ...] = ()) -> NoReturn:
    """Prints, tells the others, and ends this process at once; only the first caller does."""
    if not this.ending.acquire(blocking=False):
        time.sleep(3600)
    print(f"error: {message}", file=sys.stderr, flush=True)
    _tell_and_leave(this, message, status, lost)


def _tell_and_leave(this: Session, message: str, status: int, lost: tuple[int, ...]) -> NoReturn:
    this.over.set()
    killer = threading.Timer(30.0, os._exit, (status,))  # whatever hangs below
    killer.daemon = True
    killer.start()
    this.end("failed", message, lost)
    record = {"process": this.index, "message": message, "status": status, "lost": list(lost)}
    client = session.client()
    if this.joined:  # before that the client ends the process itself
        try:
            client.key_value_set(f"vtjax failed/{this.index}", json.dumps(record))
            # Without process 0 the others are ended by JAX and could not say why: it waits until they have.
            until = time.monotonic() + 8 * _POLL
            while this.index == 0 and time.monotonic() < until:
                ended = {int(k.rsplit("/", 1)[1]) for k, _ in client.key_value_dir_get("vtjax failed")}
                if len(ended | set(lost)) >= this.count:
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
    this = session.current
    if this is None:
        return
    if not session.several():
        this.end("failed", message)
        return
    if not this.ending.acquire(blocking=False):
        time.sleep(3600)
    _tell_and_leave(this, message, status, lost)


def stopped() -> None:
    """Notes that a signal stopped the run before its end, for the last heartbeat."""
    if session.current is not None:
        session.current.end_state = "stopped"
