"""Several processes of a program on this machine, joined by gloo; their output is read while they run."""

import contextlib
import json
import pathlib
import socket
import threading
import time

import commands
import jax
import numpy as np

from vtjax.sharding.partition import flatten

TOY = commands.ROOT / "tests" / "support" / "toy.py"


# Compiling is most of the time of a start: all processes of these tests read what an earlier one compiled.
CACHE = {
    "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def free_port():
    with contextlib.closing(socket.socket()) as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


class Several:
    """The toy program (or another command that takes --processes, --process, --port) as `count` processes."""

    def __init__(self, count, *arguments, ranks=None, environments=None, each=None, command=None):
        port = free_port()
        self.lines = {i: [] for i in range(count)}
        self.processes, self._threads = {}, []
        for i in range(count) if ranks is None else ranks:
            own = [TOY, *arguments, f"--processes={count}", f"--process={i}", f"--port={port}", *(each or {}).get(i, ())]
            own = command(i, count, port) if command else own
            process = commands.start(*own, **CACHE, **(environments or {}).get(i, {}))
            thread = threading.Thread(target=self._read, args=(i, process), daemon=True)
            thread.start()
            self.processes[i] = process
            self._threads.append(thread)

    def _read(self, i, process):
        for text in process.stdout:
            self.lines[i].append(text)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        for thread in self._threads:
            thread.join(10)
        for process in self.processes.values():
            process.stdout.close()

    def said(self, i):
        return "".join(self.lines[i])

    def wait_for(self, i, start, times=1, timeout=400):
        """Until process i has printed `times` lines that start with `start`; False where it ended before."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            if sum(text.startswith(start) for text in self.lines[i]) >= times:
                return True
            if self.processes[i].poll() is not None:
                return False
            time.sleep(0.01)
        raise AssertionError(f"process {i} has not said {start!r}:\n{self.said(i)}")

    def end(self, timeout=240):
        """Waits for all; {process: (exit status, what it said)}. A process that is still there then is an error."""
        until = time.monotonic() + timeout
        for i, process in self.processes.items():
            try:
                process.wait(max(until - time.monotonic(), 0.01))
            except Exception:
                raise AssertionError(f"process {i} has not ended in {timeout} s:\n{self.said(i)}") from None
        for thread in self._threads:
            thread.join(30)
        return {i: (process.returncode, self.said(i)) for i, process in self.processes.items()}

    def finish(self, timeout=400):
        """The same, where all are to end well: {process: what it said}."""
        ended = self.end(timeout)
        assert all(status == 0 for status, _ in ended.values()), "\n".join(f"{s}: {said}" for s, said in ended.values())
        return {i: said for i, (_, said) in ended.items()}


def close(a, b, atol=1e-6):
    """Asserts that two parameter trees are equal to `atol`."""
    a, b = flatten(a), flatten(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=atol, err_msg=name)


def read_order(folder):
    """{step: (ids, x) in the order of the global batch}, from what the toy's processes read (--order)."""
    rows = {}
    for path in pathlib.Path(folder).glob("*.jsonl"):
        for text in path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # the line of a kill
                line = json.loads(text)
                for row, own, x in zip(line["rows"], line["ids"], line["x"], strict=True):
                    previous = rows.setdefault(line["step"], {}).setdefault(row, (own, x))
                    assert previous == (own, x), f"step {line['step']} row {row} was read differently before"
    return {step: [found[row] for row in sorted(found)] for step, found in sorted(rows.items())}
