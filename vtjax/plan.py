"""Does it fit, and what bounds it? python -m vtjax.plan --config=configs/clip.py:l14 --topology=v5e-256 [--search]

Compiles the train step of vtjax.train for a TPU slice that is not here (needs libtpu: pip install 'vtjax[plan]') and
prints memory, work, traffic and the least time of a step. Exits with 1 where it does not fit, and names what would.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from absl import flags

from vtjax import command_line

command_line.define_config()
flags.DEFINE_string("topology", "", "v4-N, v5e-N, v5p-N, v6e-N as sold; v5p:4x4x4; or cpu:N, without times.")
flags.DEFINE_integer("slices", 0, "Slices, joined over the data axis; 0 is config.mesh.slices.", lower_bound=0)
flags.DEFINE_bool("search", False, "Try other meshes, batches, settings that change memory and speed; rank them.")
flags.DEFINE_list("batches", [], "With --search: global batch sizes to try, for example 1024,2048.")
flags.DEFINE_integer("compiles", 8, "With --search: candidates to compile at most.", lower_bound=1)
flags.DEFINE_bool("propose", True, "Where it does not fit, look for settings, then a slice, that do.")
flags.DEFINE_bool("json", False, "Print JSON in place of tables.")


def plan(_: Sequence[str]) -> int:
    experiment, spec = command_line.experiment()
    os.environ["JAX_PLATFORMS"] = "cpu"  # a plan touches no accelerator that is here
    from vtjax.errors import VtjaxError
    from vtjax.planning import report, search, table, topology

    options = flags.FLAGS
    if not options.topology:
        raise VtjaxError("--topology is needed, for example --topology=v5p-128, v5p:4x4x4 or cpu:8")
    place = topology.parse(options.topology, options.slices or experiment.mesh.slices)
    if place.kind == "cpu" and place.slices > 1:
        raise VtjaxError(f"--slices={place.slices}: cpu devices form no slices")
    say = (lambda text: None) if options.json else lambda text: print(text, flush=True)
    say(f"{spec} on {place}\n")
    if options.search:
        try:
            batches = [int(b) for b in options.batches]
        except ValueError:
            raise VtjaxError(f"--batches={','.join(options.batches)}: whole numbers with commas between") from None
        ranking = search.search(
            experiment, place, batches=batches, compiles=options.compiles,
            on_plan=lambda made: say(f"tried {table.headline(made)}: {'fits' if made.fits else 'does not fit'}"),
        )  # fmt: skip
        if options.json:
            rows = [p.to_json() | {"settings": s} for p, s in zip(ranking.plans, ranking.settings, strict=True)]
            print(json.dumps({"plans": rows, "refused": ranking.refused, "skipped": ranking.skipped}))
        else:
            print(f"\n{table.format_ranking(ranking.plans, ranking.refused)}")
            print(f"{ranking.skipped} more candidates were estimated and not compiled")
            if ranking.plans and ranking.plans[0].fits:
                print(f"the first: {table.format_settings(search.differing(experiment, ranking.settings[0]))}")
        return 0 if ranking.plans and ranking.plans[0].fits else 1
    made = report.make_plan(experiment, place)
    say(table.format_plan(made))
    proposal = None
    if not made.fits and options.propose:
        say("\nlooking for one that fits ...")
        proposal = search.propose(experiment, place)
        if proposal is None:
            say("none was found on this slice nor on the next larger ones")
        else:
            other, settings = proposal
            flagged = table.format_settings(search.differing(experiment, settings))
            say(f"this fits: --topology={other.topology.arrangement} {flagged}\n\n{table.format_plan(other)}")
    if options.json:
        values = proposal and proposal[0].to_json() | {"settings": proposal[1]}
        print(json.dumps(made.to_json() | ({} if made.fits else {"proposal": values})))
    return 0 if made.fits else 1


def main() -> None:
    command_line.run(plan)


if __name__ == "__main__":
    main()
