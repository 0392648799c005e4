"""Running the library's commands as a user does."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def environment(**changes):
    """This process's environment for a program on one CPU device that finds the library and these helpers."""
    paths = [str(ROOT), str(ROOT / "tests" / "support"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"} | changes


def run(*arguments, cwd=ROOT, timeout=120, **changes):
    """Runs `python *arguments` to its end."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, timeout=timeout, env=environment(**changes),
    )  # fmt: skip


def start(*arguments, cwd=ROOT, **changes):
    """Starts `python *arguments`; its standard output can be read line by line, its errors come with it."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd, env=environment(**changes),
    )  # fmt: skip


def refused(result, *words):
    """Asserts that a command ended with status 2 and one message that has all of `words`, without a traceback."""
    said = result.stdout + result.stderr
    assert result.returncode == 2, said
    assert "Traceback" not in said, said
    for word in words:
        assert word in said, f"{word!r} is not in:\n{said}"
