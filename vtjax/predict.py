"""Uses a trained run: python -m vtjax.predict --work_directory=runs/car-demo --text="a person walks, then sits down"

Each method has its own flags, the arguments of its `predict`: --help with --work_directory lists those of the run.
Prints the answer, and writes it as JSON, CSV and an HTML page.
"""

from __future__ import annotations

import functools
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from vtjax import arguments, command_line, methods
from vtjax.config import read_fields
from vtjax.errors import VtjaxError
from vtjax.files import as_path

flags.DEFINE_string("work_directory", None, "Work directory of vtjax.train.", required=True)
flags.DEFINE_string("which", "last", 'Checkpoint: "last", a step, or a metric of config.train.best.')
flags.DEFINE_string("output", "", "Path of the .json, .csv and .html; default prediction in the work directory.")


def _method() -> str:
    """The method whose flags to define: that of the work directory on the command line, or the first one."""
    for i, argument in enumerate(sys.argv):
        name, _, value = argument.lstrip("-").partition("=")
        if name == "work_directory":
            folder = value or (sys.argv[i + 1] if i + 1 < len(sys.argv) else "")
            return read_fields(as_path(folder) / "config.json")["name"]
    return methods.names()[0]


def predict(_: Sequence[str]) -> int:
    from vtjax.runs import Run

    command_line.quiet_libraries()
    run = Run(flags.FLAGS.work_directory, flags.FLAGS.which)
    method = run.method
    given = arguments.from_flags(method.predict, flags.FLAGS)
    watched = {"each": method.watch(functools.partial(print, flush=True))} if method.watch and flags.FLAGS.live else {}
    answer = method.answer(run, given, run.predict(**given, **watched))
    for line in answer.lines:
        print(line)
    written = answer.write(pathlib.Path(flags.FLAGS.output or run.work / "prediction"))
    print(f"\nwritten: {', '.join(map(str, written))}")
    return 0


def main() -> None:
    try:
        method = methods.get(_method())
        arguments.define_flags(method.predict)
        if method.watch:
            flags.DEFINE_bool("live", True, "Print a line every second as scores come.")
    except VtjaxError as error:
        command_line.stop(f"error: {error}")
    command_line.run(predict)


if __name__ == "__main__":
    main()
