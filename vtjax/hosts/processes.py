"""Several processes: joined at the start, agreeing on what matters, named when one is missing, ended together.

All talk goes through the key-value store of JAX's coordination service, which works while devices wait for each other;
what is said of a process that no longer answers comes from its heartbeat in the work directory.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import pathlib
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
from absl import logging

import vtjax
from vtjax.errors import VtjaxError
from vtjax.files import as_path
from vtjax.hosts import cluster, ending, google, session
from vtjax.hosts.ending import broke, fail, lost_to, stopped
from vtjax.hosts.session import ADVICE, LOST, Limits, LostProcess, Session, count_of, index_of, several

__all__ = [
    "LOST", "Limits", "LostProcess", "all_well", "barrier", "broke", "count_of", "fail", "from_main", "gather",
    "index_of", "join", "leave", "lost_to", "note", "one_after_another", "same", "save_seconds", "several", "stopped",
]  # fmt: skip

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "libtpu")
_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable")
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

    Args:
      mode: "auto" joins those of the flags or the environment, "on" insists that there are some, "off" does not look.
      folder: for the heartbeats of all processes; None writes none.
      coordinator, processes, process: of the flags; "" and -1 where they are not given.

    Raises:
      VtjaxError: contradicting flags, no cluster with "on", or processes that run different versions.
    """
    flagged = cluster.from_flags(coordinator, processes, process)
    if mode == "off" and flagged is not None:
        raise VtjaxError("--multihost=off, but --coordinator, --processes and --process name several")
    place = None if mode == "off" else flagged or cluster.find()
    if mode == "on" and place is None:
        raise VtjaxError(
            "--multihost=on, but the environment names no other process: give --coordinator=HOST:PORT, --processes=N "
            "and --process=I, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        )
    this = Session(None if folder is None else as_path(folder), place, limits)
    session.limits, session.current = limits, this
    google.watch(this.over)
    if place is None or place.count == 1:
        return
    this.start_guardian()
    timer = threading.Timer(limits.startup, ending.startup_failed, (this,))
    timer.daemon = True
    timer.start()
    lost = max(int(limits.lost), 1)
    named = dict(coordinator_address=place.coordinator, num_processes=place.count, process_id=place.index)
    where: dict[str, Any] = {} if place.known_to_jax else named
    jax.distributed.initialize(
        **where, initialization_timeout=int(limits.startup) + 60,
        heartbeat_timeout_seconds=lost, shutdown_timeout_seconds=lost,
    )  # fmt: skip
    timer.cancel()
    this.joined = True
    threading.Thread(target=ending.watch, args=(this,), name="watch", daemon=True).start()
    this.names = gather("join", socket.gethostname(), limits.startup)
    logging.info("process %d of %d (%s), hosts: %s", index_of(), count_of(), place.kind, ", ".join(this.names))
    same("library", identity())
    jax.devices()  # meets the other processes: later, one that asks alone while they wait for it would wait for them


def source_digest() -> str:
    """Twelve hexadecimal digits of the library's Python files: two checkouts that differ have other ones."""
    root = pathlib.Path(vtjax.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def identity() -> dict[str, str]:
    """{what must be alike on all processes for one program to run on them: its version or value here}."""
    values = {"python": ".".join(map(str, sys.version_info[:2])), "vtjax": vtjax.__version__}
    values["vtjax source"] = source_digest()
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            values[name] = importlib.metadata.version(name)
    values |= {name: str(getattr(jax.config, name, None)) for name in _SETTINGS}
    return values | {name: os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_PLATFORMS")}


def note(**values: Any) -> None:
    """What the next heartbeat says of this process: stage, step, data_wait."""
    if session.current is not None and session.current.beat is not None:
        session.current.beat.note(**values)


def save_seconds() -> float:
    """The time limit of a save."""
    return session.limits.save


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
    seconds = session.limits.save if seconds is None else seconds
    client, count = session.client(), count_of()
    _counts[name] += 1
    key = f"vtjax/{name}/{_counts[name]}"
    try:
        client.key_value_set(f"{key}/{index_of()}", f"={text}")
        client.wait_at_barrier(key, max(int(1000 * seconds), 1))
    except Exception as error:
        raise _missing(name, key, seconds, error) from error
    texts = {int(k.rsplit("/", 1)[1]): v[1:] for k, v in client.key_value_dir_get(key)}
    if index_of() == 0 and _counts[name] > 2:
        client.key_value_delete(f"vtjax/{name}/{_counts[name] - 2}")  # all have read it: they have passed the one after
    return [texts[i] for i in range(count)]


def _missing(name: str, key: str, seconds: float, error: Exception) -> LostProcess:
    try:
        here = {int(k.rsplit("/", 1)[1]) for k, _ in session.client().key_value_dir_get(key)}
    except Exception:
        here = set()
    away = [i for i in range(count_of()) if i not in here]
    if not away or "DEADLINE" not in str(error):
        return lost_to(error, f"waiting for the others ({name})")
    observer = session.observe()
    named = "; ".join(session.describe(i, observer) for i in away)
    verb = "have" if len(away) > 1 else "has"
    return LostProcess(f"{named} {verb} not arrived within {seconds:.0f} s ({name}); {ADVICE}", tuple(away))


def from_main(name: str, text: str, seconds: float | None = None) -> str:
    """What process 0 says, at every process. Raises as `barrier`."""
    return gather(name, text if index_of() == 0 else "", seconds)[0]


def same(name: str, values: Mapping[str, Any], seconds: float | None = None) -> None:
    """Refuses to go on where {field: plain value} is not the same on all processes.

    Raises:
      VtjaxError: the same on every process, with every differing field, its values and its hosts.
    """
    records = [json.loads(text) for text in gather(f"same {name}", json.dumps(dict(values), sort_keys=True), seconds)]
    lines = []
    for field in sorted(set().union(*records)):
        groups: dict[str, list[int]] = {}
        for process, record in enumerate(records):
            groups.setdefault(json.dumps(record.get(field)), []).append(process)
        if len(groups) > 1:
            parts = [f"{value} on {session.places(who)}" for value, who in groups.items()]
            lines.append(f"{field}: " + ", ".join(parts))
    if lines:
        shown = "\n  ".join(lines)
        raise VtjaxError(f"the processes differ in their {name}:\n  {shown}\nStart all of them alike.")


def all_well(name: str, problem: str, seconds: float | None = None) -> str:
    """"" where no process reports a problem, else the first one with its process; the same on all of them."""
    for process, text in enumerate(gather(name, problem, seconds)):
        if text:
            return text if not several() else f"{session.places([process])}: {text}"
    return ""


def one_after_another(name: str, work: Callable[[], Any]) -> Any:
    """work() on process 0 first, then on the others, so that they find what it wrote. Raises as `barrier`.

    Where hosts have disks of their own, the first process of each host comes before its others.
    """
    if not several():
        return work()
    result = work() if index_of() == 0 else None
    barrier(f"{name}, first", session.limits.finish)
    if index_of():
        with open(pathlib.Path(tempfile.gettempdir()) / f"vtjax-{os.getuid()}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            result = work()
    barrier(f"{name}, others", session.limits.finish)
    return result


def leave() -> None:
    """The good end of this process: waits for the others, then parts from them."""
    this = session.current
    if this is None:
        return
    if session.several():
        barrier("leave", this.limits.finish)
    this.over.set()
    this.end(this.end_state)
    if session.several():
        jax.distributed.shutdown()
