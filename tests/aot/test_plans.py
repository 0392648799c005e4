"""The train steps of issue 5 compiled for pods, without the hardware: that they fit, and what their text holds.

The small ones run always; those of a pod take a minute each on an idle machine and are marked slow.
"""

import json
import math
import re
import time

import commands
import numpy as np
import pytest

from vtjax.config import Mesh, load_config_file
from vtjax.planning import hlo, report, table, topology
from vtjax.sharding.mesh import make_mesh

LIMIT = 64 * 2**20  # bytes of one array that lies whole on every chip
SMALL = ["--config.method.text.max_tokens=128", "--config.method.text.chunk=128", "--config.train.batch_size=16"]


def experiment_of(spec, mesh=None, **fields):
    experiment = load_config_file(f"{commands.ROOT}/configs/{spec}")
    experiment.mesh = mesh or experiment.mesh
    for path, value in fields.items():
        *parents, last = path.split("__")
        holder = experiment
        for name in parents:
            holder = getattr(holder, name)
        setattr(holder, last, value)
    return experiment


def whole_on_every_chip(step):
    """Arrays above 64 MiB that every chip holds alike: arguments, and what all chips gather together."""
    text, chips = step.compiled.as_text(), step.trainer.mesh.size
    found = [t for t in report.describe(step).replicated if t.bytes > LIMIT]
    for one in hlo.collectives(hlo.Program(text), chips):
        if one.kind == "all-gather" and one.groups.shape[1] == chips:
            found += [s for s in one.shapes if s.bytes > LIMIT]
    return found


def check(step, began):
    """What the issue asks of every plan; returns the plan. began: CPU seconds of this process when it started; two
    minutes of a machine of two cores that has nothing else to do are at most 240 of them."""
    plan, stats = report.describe(step), step.compiled.memory_analysis()
    print(table.format_plan(plan))
    kept = stats.output_size_in_bytes - stats.alias_size_in_bytes
    assert plan.memory.total == stats.argument_size_in_bytes + stats.temp_size_in_bytes + kept
    state = plan.memory.parameters + plan.memory.frozen + plan.memory.optimizer
    batch = plan.memory.batch
    # Tiles are padded: of a state split 128 ways by 5 %, of pixels by a third, as rows of 224 fill two of 128 lanes.
    assert 0.98 * (state + batch) <= stats.argument_size_in_bytes <= 1.1 * state + 1.5 * batch
    assert plan.fits and plan.memory.total < plan.available
    assert not whole_on_every_chip(step)
    assert plan.collectives and plan.times.step > 0 and 0 < plan.mfu < 1
    assert time.process_time() - began < 240
    return plan


def test_a_small_slice_by_the_command():
    """One chip's worth of everything: a mesh of all three axes on eight chips."""
    config = f"--config={commands.ROOT}/configs/llama.py:smoke"
    mesh = [f"--config.mesh.{axis}=2" for axis in ("data", "fsdp", "tensor")]
    done = commands.run("-m", "vtjax.plan", config, *SMALL, *mesh, "--topology=v5e-8", "--json", timeout=600)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["topology"]["chips"] == 8 and plan["mesh"] == {"data": 2, "fsdp": 2, "tensor": 2}
    assert plan["times"]["bound"] in ("matrix products", "HBM", "ICI") and plan["times"]["dcn"] == 0
    assert plan["memory"]["total"] < plan["available"] and plan["fewest_chips"] == 1


@pytest.mark.parametrize("name", "v4-8 v4-16 v5p-8 v5p-256 v5e-1 v5e-4 v5e-8 v5e-128 v6e-8 v6e-256".split())
def test_names_lead_to_as_many_devices_as_chips(name):
    place = topology.parse(name)
    devices = place.devices()
    assert len(devices) == place.chips
    assert {len(d.coords) for d in devices} == {3}
    assert math.prod(len({d.coords[i] for d in devices}) for i in range(3)) == place.chips


@pytest.mark.parametrize("name, slices, mesh", [("v5p:4x4x4", 2, (2, 16, 4)), ("v5e:4x4", 4, (8, 4, 2))])
def test_slices_are_joined_along_data_alone(name, slices, mesh):
    devices = topology.parse(name, slices).devices()
    of = np.vectorize(lambda d: d.slice_index)(make_mesh(Mesh(*mesh, slices=slices), devices).devices)
    assert of.shape == mesh
    assert (of == np.repeat(np.arange(slices), mesh[0] // slices)[:, None, None]).all()


@pytest.mark.slow
def test_clip_l14_at_65536_on_256_chips():
    """No similarity matrix is formed anywhere: the text has no array with the batch on two of its dimensions."""
    began, batch = time.process_time(), 65_536
    experiment = experiment_of("clip.py:l14", Mesh(16, 16, 1), train__batch_size=batch, method__model__parts=16,
                               method__model__remat="full")  # fmt: skip
    step = report.compile_step(experiment, topology.parse("v5e:16x16"))
    plan = check(step, began)
    rows = batch // 256
    for shape in hlo.shapes_of(step.compiled.as_text()):
        assert shape.dims.count(batch) < 2
        assert not (batch in shape.dims and rows in shape.dims), shape
    assert plan.collectives["collective-permute"]["ici_bytes"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant, name, mesh, slices",
    [
        ("7b", "v5p:4x4x4", (1, 16, 4), 1),
        ("7b", "v5e:8x8", (1, 16, 4), 1),
        ("13b", "v5p:4x4x8", (1, 16, 8), 1),
        ("7b", "v5p:4x4x4", (2, 16, 4), 2),
    ],
)
def test_llama_with_lora(variant, name, mesh, slices):
    began = time.process_time()
    accumulate = 4 if name.startswith("v5e") else 1
    experiment = experiment_of(f"llama.py:{variant}", Mesh(*mesh), train__accumulate=accumulate)
    step = report.compile_step(experiment, topology.parse(name, slices))
    plan = check(step, began)
    sent = sum(row["dcn_bytes"] for row in plan.collectives.values())
    assert (sent > 0) == (slices > 1)
    if slices > 1:  # only the adapter's gradients cross
        assert sent < 3 * plan.memory.parameters


@pytest.mark.slow
def test_an_impossible_plan_names_what_is_too_large_and_one_that_fits():
    config = f"--config={commands.ROOT}/configs/llama.py:7b"
    changes = ["--config.mesh.fsdp=1", "--config.mesh.tensor=1", "--config.train.batch_size=64"]
    changes.append("--config.method.model.remat=none")
    done = commands.run("-m", "vtjax.plan", config, *changes, "--topology=v5e:8x8", timeout=1200)
    assert done.returncode == 1, done.stderr
    assert "DOES NOT FIT" in done.stdout and re.search(r"GiB  \w+\[[\d,]+\]", done.stdout)
    assert re.search(r"this fits: --topology=v5e:8x8 --config\.\S+", done.stdout), done.stdout


def test_there_is_no_square_in_the_text_by_which_the_tests_would_be_blind():
    """The reader of shapes sees a similarity matrix where there is one."""
    shapes = hlo.shapes_of("%d = f32[65536,65536]{1,0:T(8,128)} dot(bf16[65536,768] %x, bf16[65536,768] %y)")
    assert [s.dims.count(65_536) for s in shapes] == [2, 1, 1] and shapes[0].bytes == 4 * 65_536**2
    assert np.isclose(shapes[0].bytes / 2**30, 16)
