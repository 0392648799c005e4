"""Evaluates a trained run: python -m vtjax.evaluate --work_directory=runs/car-demo [--split=test] [--which=last]

Prints every protocol with its chance level, item count and 95 % interval, and writes results-<split>.json.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags

from vtjax import mains

flags.DEFINE_string("work_directory", None, "Work directory of vtjax.train.", required=True)
flags.DEFINE_string("which", "last", 'Checkpoint: "last", a step, or a metric of config.train.best.')
flags.DEFINE_string("split", "", "Split of the run's data; default its test split.")
flags.DEFINE_string("output", "", "JSON file; default results-<split>-<which>.json in the work directory.")


def evaluate(_: Sequence[str]) -> int:
    from vtjax.evals.protocol import format_table, save_results
    from vtjax.runs import Run

    mains.quiet_libraries()
    options = flags.FLAGS
    run = Run(options.work_directory, options.which)
    results = run.evaluate(split=options.split)
    name = f"results-{options.split or 'test'}-{options.which.replace('/', '_')}.json"
    path = pathlib.Path(options.output or run.work / name)
    save_results(path, results)
    print(f"{format_table(results)}\n\nwritten: {path}")
    return 0


def main() -> None:
    mains.run(evaluate)


if __name__ == "__main__":
    main()
