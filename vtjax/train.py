"""Trains: python -m vtjax.train --config=configs/car.py[:variant] [--config.optim.learning_rate=3e-4 ...]

Resumes from the work directory where it holds an unfinished run of the same configuration. At the end it evaluates,
prints the tables and writes report.html. SIGTERM saves and exits with status 0.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags

from vtjax import mains

mains.define_config()
flags.DEFINE_string("work_directory", "", "Where the run lives; default runs/<config>-<variant>.")
flags.DEFINE_bool("allow_config_change", False, "Go on in a work directory that was started with other settings.")
flags.DEFINE_bool("allow_data_change", False, "Go on from a checkpoint that was trained on other data.")
flags.DEFINE_bool("tensorboard", False, "Also write TensorBoard files (pip install 'vtjax[tensorboard]').")
flags.DEFINE_bool("report", True, "Evaluate on the test split at the end and write report.html.")
flags.DEFINE_enum("multihost", "auto", ["auto", "on", "off"], "Call jax.distributed.initialize().")


def train(_: Sequence[str]) -> int:
    experiment, spec = mains.experiment()
    from absl import logging

    from vtjax import methods
    from vtjax.evals.protocol import format_table, save_results
    from vtjax.parallel.hosts import initialize
    from vtjax.runs import Run
    from vtjax.training.recipe import run_experiment

    logging.set_verbosity(logging.INFO)
    mains.quiet_libraries()
    initialize(flags.FLAGS.multihost)
    work = pathlib.Path(flags.FLAGS.work_directory or mains.default_work(spec))
    outcome = run_experiment(
        experiment,
        work,
        allow_config_change=flags.FLAGS.allow_config_change,
        allow_data_change=flags.FLAGS.allow_data_change,
        tensorboard=flags.FLAGS.tensorboard,
    )
    if not outcome.finished:
        print(f"stopped at step {outcome.step}; the same command goes on from there")
        return 0
    if flags.FLAGS.report and mains.is_main_host():
        run = Run(work)
        results = run.evaluate()
        save_results(work / "results.json", results)
        print(format_table(results))
        path = methods.module(experiment.name, "report").training_report(run, results)
        print(f"\nreport: {path}")
    return 0


def main() -> None:
    mains.run(train)


if __name__ == "__main__":
    main()
