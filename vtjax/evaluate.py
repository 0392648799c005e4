"""Evaluates a trained run: python -m vtjax.evaluate --work_directory=runs/car-demo [--split=test] [--which=last]

Prints every protocol with its chance level, item count and 95 % interval, and writes results-<split>.json. Several
processes, started as for vtjax.train, share the work.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from vtjax import command_line

flags.DEFINE_string("work_directory", None, "Work directory of vtjax.train.", required=True)
flags.DEFINE_string("which", "last", 'Checkpoint: "last", a step, or a metric of config.train.best.')
flags.DEFINE_string("split", "", "Split of the run's data; default its test split.")
flags.DEFINE_string("output", "", "JSON file; default results-<split>-<which>.json in the work directory.")
command_line.define_hosts()


def evaluate(_: Sequence[str]) -> int:
    from vtjax import remote
    from vtjax.evals.protocol import format_table, save_results
    from vtjax.files import as_path
    from vtjax.hosts import processes
    from vtjax.runs import Run
    from vtjax.sharding.mesh import evaluation_mesh

    command_line.quiet_libraries()
    options = flags.FLAGS
    work = as_path(options.work_directory)
    command_line.join(work if work.is_dir() else None, "evaluate")
    run = Run(work, options.which)
    if processes.several():
        processes.same("configuration", {"split": options.split, "which": options.which})
        prepare = run.method.recipe(run.experiment, run.work)[run.method.last_stage]
        processes.one_after_another("data", prepare)  # what is generated at first use is then there
    run = Run(work, options.which, mesh=evaluation_mesh(run.experiment.mesh))
    results = run.evaluate(split=options.split)
    if not command_line.is_main_host():
        return 0
    name = f"results-{options.split or 'test'}-{options.which.replace('/', '_')}.json"
    path = as_path(options.output or run.work / name)
    save_results(path, results)
    remote.send(run.work)
    print(f"{format_table(results)}\n\nwritten: {remote.origin(path)}")
    return 0


def main() -> None:
    command_line.run(evaluate)


if __name__ == "__main__":
    main()
