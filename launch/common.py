"""What every launcher shares: the program after "--", commands that are run or only printed, and the shared folder."""

from __future__ import annotations

import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from absl import flags

from vtjax import command_line
from vtjax.errors import VtjaxError, nearest

DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what would be done, as a shell script, and do nothing.")


class Runner:
    """Runs commands and writes files, or prints both as a shell script that does the same."""

    def __init__(self, dry_run: bool):
        self.dry_run = dry_run

    def run(self, command: Sequence[str], check: bool = True) -> int:
        """A command with its output on the terminal; its exit status.

        Raises:
          VtjaxError: it cannot be started, or fails and `check` is set.
        """
        return self._run(command, check, None)[0]

    def ask(self, command: Sequence[str], check: bool = True) -> str | None:
        """What a command prints; None in a dry run, and where it fails and `check` is not set. Raises as `run`."""
        status, said = self._run(command, check, subprocess.PIPE)
        return None if self.dry_run or status else said.strip()

    def _run(self, command: Sequence[str], check: bool, output: int | None) -> tuple[int, str]:
        if self.dry_run:
            print(shlex.join(command))
            return 0, ""
        try:
            done = subprocess.run(list(command), stdout=output, text=True)
        except FileNotFoundError:
            raise VtjaxError(f"{command[0]} is not installed here; --dry_run prints what it is needed for") from None
        if check and done.returncode:
            raise VtjaxError(f"this failed with status {done.returncode}:\n  {shlex.join(command)}")
        return done.returncode, done.stdout or ""

    def write(self, path: pathlib.Path, content: str) -> None:
        """A text file; `content` ends with a new line."""
        if not self.dry_run:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            return
        end = "END"
        while end in content.splitlines():
            end += "_"
        if path.parent != pathlib.Path():
            print(shlex.join(["mkdir", "-p", str(path.parent)]))
        print(f"cat > {shlex.quote(str(path))} <<'{end}'\n{content}{end}")

    def say(self, text: str) -> None:
        """A remark; a comment of the script in a dry run."""
        print(f"# {text}" if self.dry_run else text, flush=True)

    def sleep(self, seconds: float) -> None:
        if not self.dry_run:
            time.sleep(seconds)


def start(main: Callable[[str, list[str], Runner], int | None], actions: Sequence[str] = ()) -> None:
    """Runs main(action, program, runner) for `python -m launch.x [ACTION] [--flag=...] [-- MODULE [ARGUMENTS]]`."""
    arguments = list(sys.argv)
    program = arguments[arguments.index("--") + 1 :] if "--" in arguments else []
    arguments = arguments[: arguments.index("--")] if "--" in arguments else arguments
    action = arguments.pop(1) if actions and len(arguments) > 1 and not arguments[1].startswith("-") else ""
    helping = any(a.lstrip("-").startswith("help") for a in arguments[1:])

    def joined(rest: Sequence[str]) -> int | None:
        if len(rest) > 1:
            raise VtjaxError(f"{rest[1]!r} is not a flag; the program to run comes after --")
        if actions and action not in actions:
            asked = f"{action!r}: no such action; {nearest(action, actions)}" if action else "an action is needed"
            raise VtjaxError(f"{asked} (one of {', '.join(actions)})")
        return main(action, program, Runner(DRY_RUN.value))

    command_line.run(joined if not helping else lambda _: 0, arguments)


def module_command(program: Sequence[str], python: str) -> list[str]:
    """The command of a program "vtjax.train --config=...".

    Raises:
      VtjaxError: there is none, or its first word is not a module.
    """
    if not program:
        raise VtjaxError("what is to run comes after --, for example: -- vtjax.train --config=configs/car.py")
    if not all(part.isidentifier() for part in program[0].split(".")):
        raise VtjaxError(f"{program[0]!r} is not a module; after -- comes for example: vtjax.train --config=...")
    return [python, "-m", *program]


def work_directory(program: Sequence[str]) -> str:
    """The program's --work_directory.

    Raises:
      VtjaxError: it has none, so that hosts would not share one.
    """
    for i, argument in enumerate(program):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "work_directory":
            return value if equals else program[i + 1] if i + 1 < len(program) else ""
    raise VtjaxError("give the program --work_directory, a place that all hosts share, such as gs://BUCKET/RUN")


def needed(**values: str) -> None:
    """Raises VtjaxError naming the flags that have no value."""
    missing = [f"--{name}" for name, value in values.items() if not value]
    if missing:
        raise VtjaxError(f"{', '.join(missing)} {'are' if len(missing) > 1 else 'is'} needed")
