"""Trains: python -m vtjax.train --config=configs/car.py[:variant] [--config.optim.learning_rate=3e-4 ...]

Resumes from the work directory (a folder or gs://bucket/path) where it holds an unfinished run of the same
configuration. At the end it evaluates, prints the tables and writes report.html. SIGTERM saves and exits with status 0.
As several processes, one a host, it joins them by --coordinator or by what the cluster says (python -m launch.local).
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from vtjax import command_line

command_line.define_config()
flags.DEFINE_string("work_directory", "", "Where the run lives; default runs/<config>-<variant>.")
flags.DEFINE_bool("allow_config_change", False, "Go on in a work directory that was started with other settings.")
flags.DEFINE_bool("allow_data_change", False, "Go on from a checkpoint that was trained on other data.")
flags.DEFINE_bool("tensorboard", False, "Also write TensorBoard files (pip install 'vtjax[tensorboard]').")
flags.DEFINE_bool("report", True, "Evaluate on the test split at the end and write report.html.")
command_line.define_hosts()


def train(_: Sequence[str]) -> int:
    experiment, spec = command_line.experiment()
    from absl import logging

    from vtjax import remote
    from vtjax.evals.protocol import format_table, save_results
    from vtjax.files import as_path
    from vtjax.runs import Run, run_experiment
    from vtjax.sharding.mesh import evaluation_mesh

    logging.set_verbosity(logging.INFO)
    command_line.quiet_libraries()
    work = as_path(flags.FLAGS.work_directory or command_line.default_work(spec))
    command_line.join(work)
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
    if flags.FLAGS.report:
        mesh = evaluation_mesh(experiment.mesh)
        run = Run(work, mesh=mesh)
        results = run.evaluate()
        if command_line.is_main_host():
            save_results(run.work / "results.json", results)
            print(format_table(results))
            reported = run if mesh is None else Run(work)  # one process alone draws the page
            path = reported.method.page(reported, results).save(reported.work / "report.html")
            remote.send(run.work)
            print(f"\nreport: {remote.origin(path)}")
    return 0


def main() -> None:
    command_line.run(train)


if __name__ == "__main__":
    main()
