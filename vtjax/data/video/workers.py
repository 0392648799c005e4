"""Processes that make shards. A video that crashes its decoder, hangs or eats the memory takes only its process along:
the shard is made again without it, with the reason in its place."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, cast

from vtjax.errors import VtjaxError

_STARTS = 3  # a process that dies before its first video is started so many times
_START_SECONDS = 300.0  # that a process may take to its first video, loading a tower included


class Task(Protocol):
    """What a process does: picklable; sends the events of shards.write_shard."""

    def __call__(self, shard: int, excluded: Mapping[int, tuple[str, str]], send: Callable[[tuple], None]) -> None: ...


def run_shards(
    task: Task,
    shards: Iterable[int],
    *,
    processes: int,
    timeout: float = 600.0,
    memory: float = 0.0,
    progress: Callable[[tuple], None] = lambda event: None,
) -> None:
    """Makes all shards. processes: 0 works in this process, without any protection. timeout: seconds without a sign
    of life. memory: GiB that a process may take beyond its start, 0 for no limit. progress: gets every event, and
    ("again", ready) with the number of videos that a broken shard takes back.

    Raises:
      VtjaxError: an error that no video is to blame for.
    """
    todo = list(shards)
    if not processes:
        for shard in todo:
            task(shard, {}, progress)
        return
    todo.reverse()
    excluded: dict[int, dict[int, tuple[str, str]]] = {}
    workers: list[_Worker] = []
    deaths = 0
    try:
        while todo or any(w.shard is not None for w in workers):
            while todo and len([w for w in workers if w.shard is not None]) < processes:
                idle = next((w for w in workers if w.shard is None), None)
                if idle is None:
                    idle = _Worker.start(task, memory)
                    workers.append(idle)
                shard = todo.pop()
                idle.give(shard, excluded.get(shard, {}))
            busy: dict[Any, _Worker] = {w.pipe: w for w in workers if w.shard is not None}
            for pipe in cast(list[Any], multiprocessing.connection.wait(list(busy), timeout=0.5)):
                worker = busy[pipe]
                try:
                    event = pipe.recv()
                except (EOFError, OSError):
                    reason = "decoding it ended the process", worker.ending()
                    deaths = _broken(worker, workers, todo, excluded, reason, deaths, progress)
                    continue
                worker.hear(event)
                progress(event)
            for worker in list(workers):
                limit = timeout if worker.started else max(timeout, _START_SECONDS)
                if worker.shard is not None and time.monotonic() - worker.heard > limit:
                    reason = "takes too long", f"nothing for {limit:g} s"
                    deaths = _broken(worker, workers, todo, excluded, reason, deaths, progress)
    finally:
        for worker in workers:
            worker.stop()


def _broken(worker, workers, todo, excluded, reason, deaths: int, progress) -> int:
    """Takes the worker's shard back without the video it was at. Returns the deaths that no video explains."""
    workers.remove(worker)
    worker.stop()
    todo.append(worker.shard)
    progress(("again", worker.ready))
    if worker.video is not None:
        excluded.setdefault(worker.shard, {})[worker.video] = reason
        return deaths
    if deaths + 1 >= _STARTS:
        raise VtjaxError(f"processes end before their first video: {reason[1]}")
    return deaths + 1


@dataclasses.dataclass(eq=False)
class _Worker:
    process: Any
    pipe: Any
    shard: int | None = None
    video: int | None = None  # position of the one it is at
    ready: int = 0
    heard: float = 0.0
    started: bool = False

    @classmethod
    def start(cls, task: Task, memory: float) -> _Worker:
        context = multiprocessing.get_context("spawn")  # forks of a process with threads hang
        pipe, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(task, theirs, memory), daemon=True)
        process.start()
        theirs.close()
        return cls(process, pipe)

    def give(self, shard: int, excluded: Mapping[int, tuple[str, str]]) -> None:
        self.shard, self.video, self.ready, self.heard = shard, None, 0, time.monotonic()
        with contextlib.suppress(OSError):  # a dead process shows when its pipe is read
            self.pipe.send((shard, dict(excluded)))

    def hear(self, event: tuple) -> None:
        self.heard, self.started = time.monotonic(), True
        if event[0] == "video":
            self.video = event[1]
        elif event[0] == "ready":
            self.video, self.ready = None, self.ready + 1
        elif event[0] == "done":
            self.shard = None
        elif event[0] == "error":
            raise VtjaxError(event[1])
        elif event[0] == "bug":
            raise RuntimeError(event[1])

    def ending(self) -> str:
        self.process.join(timeout=5)
        code = self.process.exitcode
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit status {code}"

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self.pipe.close()
        if self.process.is_alive():
            self.process.kill()
        self.process.join()


def _serve(task: Task, pipe, memory: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    if memory:
        _limit_memory(memory)
    while True:
        try:
            shard, excluded = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            task(shard, excluded, pipe.send)
            pipe.send(("done", shard))
        except BrokenPipeError:
            return
        except VtjaxError as error:
            pipe.send(("error", str(error)))
        except Exception:
            pipe.send(("bug", traceback.format_exc()))


def _limit_memory(gib: float) -> None:
    """Address space, which is what a decoder asks for before it is touched; nothing where the system cannot tell."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + int(gib * 2**30), resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, OSError, ValueError):
        return
