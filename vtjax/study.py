"""Runs a study, a grid of settings and seeds, and writes its table.

    python -m vtjax.study --config=configs/car.py --study=order

A config file names its studies in STUDIES = {name: Study}. Each run is an ordinary work directory under --output;
finished ones are not run again, so a study can be stopped and gone on with. Writes table.md and table.json.
"""

from __future__ import annotations

import importlib.util
import json
import pathlib
from collections.abc import Sequence

from absl import flags

from vtjax import command_line
from vtjax.errors import VtjaxError, nearest

flags.DEFINE_string("config", None, "A file under configs/ with STUDIES, and :variant.", required=True)
flags.DEFINE_string("study", None, "Which of its studies.", required=True)
flags.DEFINE_string("output", "", "Folder of the runs and the table; default runs/study-<config>-<study>.")
flags.DEFINE_list("rows", [], "Only rows whose name contains one of these.")


def study_main(_: Sequence[str]) -> int:
    from absl import logging

    from vtjax.files import write_atomically
    from vtjax.studies import format_markdown, run_row

    logging.set_verbosity(logging.INFO)
    command_line.quiet_libraries()
    options = flags.FLAGS
    path = pathlib.Path(options.config)
    if not path.is_file():
        raise VtjaxError(f"--config={path}: no such file")
    spec = importlib.util.spec_from_file_location("vtjax_study_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    studies = getattr(module, "STUDIES", {})
    if options.study not in studies:
        raise VtjaxError(f"--study={options.study}: {path} has no such study; {nearest(options.study, studies)}")
    study = studies[options.study]
    output = pathlib.Path(options.output or f"runs/study-{path.stem}-{options.study}")
    output.mkdir(parents=True, exist_ok=True)
    rows = [r for r in study.rows if not options.rows or any(part in r.name for part in options.rows)]
    values: dict[str, list[dict[str, float]]] = {}
    for row in rows:
        for seed in row.seeds:
            values.setdefault(row.name, []).append(run_row(module, study, row, seed, output))
            write_atomically(output / "table.json", json.dumps(values, indent=1) + "\n")
            write_atomically(output / "table.md", format_markdown(study, values))
    print(f"{study.about}\n\n{format_markdown(study, values)}\nwritten: {output / 'table.md'}")
    return 0


def main() -> None:
    command_line.run(study_main)


if __name__ == "__main__":
    main()
