"""Plans on this machine's own devices: figures against the real state, search, and what happens where nothing fits."""

import dataclasses
import json
import math
import types

import commands
import jax
import jax.numpy as jnp
import pytest

from vtjax import methods
from vtjax.config import Mesh, Train, load_config_file
from vtjax.errors import VtjaxError
from vtjax.planning import memory, report, search, table, topology

EIGHT = topology.parse("cpu:8")
# What libtpu 0.0.42 says of a program that is too large, shortened.
OVERFLOW = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 25.53G of 15.75G hbm. Exceeded hbm capacity by 9.78G.

Total hbm usage >= 25.79G:
    reserved        264.00M
    program          25.53G
    arguments            0B

Output size 0B; shares 0B with arguments.

Program hbm requirement 25.53G:
    HLO temp         25.53G (100.0% utilization: Unpadded (25.50G) Padded (25.50G), 0.1% fragmentation (32.00M))

  Largest program allocations in hbm:

  1. Size: 6.00G
     Operator: op_name="jit(step)/vision/transformer/ffn/up/dot_general"
     Shape: bf16[24,2048,257,4096]{3,2,1,0:T(8,128)(2,1)}
     Unpadded size: 5.90G
     XLA label: fusion.12 = fusion(...)
     Allocation type: HLO temp
     ==========================

  2. Size: 1.50G
     Shape: f32[65536,257,24]{2,1,0}
     XLA label: copy.7 = copy(...)
     Allocation type: HLO temp
     ==========================
"""


def tiny(**settings):
    experiment = load_config_file("configs/llama.py:smoke")
    experiment.method.text.max_tokens = experiment.method.text.chunk = 16
    experiment.mesh, experiment.train.batch_size = Mesh(2, 2, 2), 16
    return search.with_settings(experiment, settings)


@pytest.fixture(autouse=True)
def few_levers(monkeypatch):
    """Two of each lever's values are enough here."""
    levers = {"method.model.remat": ("none", "full"), "train.accumulate": (1, 2)}
    method = dataclasses.replace(methods.get("llama"), levers=levers)
    monkeypatch.setattr(methods, "get", lambda name: method)


@pytest.fixture(scope="module")
def made():
    step = report.compile_step(tiny(), EIGHT)
    return step, report.describe(step)


def test_memory_is_that_of_xla_and_of_the_state_itself(made):
    step, plan = made
    stats, used = step.compiled.memory_analysis(), plan.memory
    assert plan.fits and used.arguments == stats.argument_size_in_bytes and used.temporaries == stats.temp_size_in_bytes
    assert used.total == stats.argument_size_in_bytes + stats.temp_size_in_bytes + (
        stats.output_size_in_bytes - stats.alias_size_in_bytes
    )
    state = step.trainer.init_state()
    on_first = lambda tree: sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))
    assert used.parameters == on_first(state["trainable"]) and used.frozen == 0
    assert used.optimizer == on_first(state["opt_state"])
    assert used.batch == 16 * 16 * (4 + 1 + 1) / 4
    # Step counter and random key are the rest.
    assert 0 <= used.arguments - (used.parameters + used.optimizer + used.batch) <= 64
    whole = {t.name for t in plan.replicated}
    assert "trainable/base/norm/scale" in whole and not [n for n in whole if n.endswith("kernel")]


def toy(layer, rows=8):
    """A task whose loss is the sum of `layer(w, x)` for x of `rows` rows of four numbers."""
    loss = lambda params, batch, rng, train: {"loss": (jnp.sum(layer(params["w"], batch["x"])), jnp.float32(1))}
    return types.SimpleNamespace(
        train=Train(batch_size=rows), loss=loss, example_spec={"x": jax.ShapeDtypeStruct((4,), jnp.float32)},
        init=lambda rng, batch: {"w": jnp.zeros((4, 4))},
    )  # fmt: skip


def twice(w, x):
    return jnp.sin(jnp.sin(x @ w) @ w)


ARRAY = 8 * 4 * 4  # bytes of one array of the toy


def test_activations_are_what_the_backward_pass_reads():
    """Of sin(sin(x w) w): both cosines and the middle value; x is the batch's, w a parameter."""
    assert sum(t.bytes for t in memory.kept(toy(twice))) / ARRAY in (3, 4)
    assert memory.computed_again(toy(twice)) == 0


def test_what_is_computed_again_is_the_largest_part_and_those_inside_it():
    def layers(w, x):
        again = jax.checkpoint(lambda y, _: (twice(w, y), None))
        return jax.lax.scan(again, x, None, length=5)[0]

    kept, again = sum(t.bytes for t in memory.kept(toy(layers))), memory.computed_again(toy(layers))
    assert kept / ARRAY in (5, 6)  # the input of every layer
    assert again / ARRAY in (3, 4)  # of one layer
    assert memory.computed_again(toy(layers, rows=16)) == 2 * again
    nested = lambda w, x: jax.checkpoint(layers)(w, x)
    assert sum(t.bytes for t in memory.kept(toy(nested))) == 0
    assert memory.computed_again(toy(nested)) == pytest.approx(kept + again, abs=ARRAY)


def test_the_table_and_json_say_it_all(made):
    _, plan = made
    text = table.format_plan(plan)
    for words in ("data=2 fsdp=2 tensor=2", "optimizer state", "total, as XLA counts", "model FLOPs", "all-gather"):
        assert words in text
    assert "MFU" not in text  # a processor has no published rate here
    values = json.loads(json.dumps(plan.to_json()))
    assert values["memory"]["total"] == plan.memory.total and values["fits"] and values["mfu"] is None
    assert sum(row["ici_bytes"] for row in values["collectives"].values()) > 0


def test_a_roofline_by_hand():
    times = report.Times(products=2.0, hbm=3.0, ici=0.5, dcn=0.0)
    assert (times.step, times.serial, times.bound) == (3.0, 5.5, "HBM")
    place = topology.parse("v5e-16")
    used = memory.Memory(1e9, 0, 2e9, 1e8, 4e9, 3.1e9, 5e9, 0)
    plan = report.Plan(
        place, {"data": 16, "fsdp": 1, "tensor": 1}, 480, 1, "full", 10, True, used, used.total, 15.75e9, [], [],
        0.5 * 3.0 * 16 * 197e12, 1e15, 0, 1e9, {}, times,
    )  # fmt: skip
    assert plan.examples_per_second == 160 and plan.mfu == pytest.approx(0.5)
    assert plan.fewest_chips == math.ceil((1e9 + 2e9 + 1e8 + 4e9) * 16 / 15.75e9)
    text = table.format_plan(plan)
    assert "bound by HBM: 3.00 s" in text and "160 examples/s, MFU 50 %" in text and "at least 8" in text


def test_what_xla_says_of_too_large_a_program():
    told = memory.parse_overflow(OVERFLOW)
    assert (told.needed, told.available) == (25.53 * 2**30, 15.75 * 2**30)
    shapes = [(t.bytes / 2**30, t.shape) for t in told.largest]
    assert shapes == [(6.0, "bf16[24,2048,257,4096]"), (1.5, "f32[65536,257,24]")]
    assert told.largest[0].name.endswith("ffn/up/dot_general") and told.largest[1].name == "copy.7"


def test_every_mesh_is_tried_with_the_slices_along_data():
    found = list(search.meshes(topology.parse("v5e-16", 2)))
    assert all(m.data * m.fsdp * m.tensor == 32 and m.data % 2 == 0 for m in found)
    assert len({(m.data, m.fsdp, m.tensor) for m in found}) == len(found) == 5 + 4 + 3 + 2 + 1


def test_estimates_order_candidates_and_say_what_cannot_be():
    found, refused = search.candidates(tiny(), EIGHT)
    assert any("kv_heads" in r or "divisible" in r or "does not split" in r for r in refused)
    fields = ("method.model.remat", "mesh.fsdp", "mesh.tensor", "train.accumulate")
    by = {tuple(c.settings[f] for f in fields): c for c in found}
    assert by["none", 8, 1, 1].estimate < by["none", 1, 1, 1].estimate  # the state is split
    assert by["full", 1, 1, 1].estimate < by["none", 1, 1, 1].estimate  # fewer activations
    assert by["none", 1, 1, 2].estimate < by["none", 1, 1, 1].estimate
    one = by["full", 2, 2, 1]
    assert one.experiment.mesh == Mesh(2, 2, 2) and one.experiment.method.model.remat == "full"
    assert search.differing(tiny(), one.settings) == {"method.model.remat": "full"}


@pytest.fixture
def cramped(monkeypatch):
    """A machine whose compiler takes rematerialised steps only."""
    compile_step, compile_uncached, remat = report.compile_step, report.compile_uncached, []

    def watched(experiment, place, devices=None):
        remat.append(experiment.method.model.remat)
        return compile_step(experiment, place, devices)

    def refusing(lowered):
        if remat[-1] != "full":
            raise jax.errors.JaxRuntimeError(OVERFLOW)
        return compile_uncached(lowered)

    monkeypatch.setattr(report, "compile_step", watched)
    monkeypatch.setattr(report, "compile_uncached", refusing)


def test_where_it_does_not_fit_one_that_does_is_proposed(cramped):
    plan = report.make_plan(tiny(), EIGHT)
    assert not plan.fits and plan.needed == 25.53 * 2**30
    text = table.format_plan(plan)
    assert "DOES NOT FIT" in text and "bf16[24,2048,257,4096]" in text and "ffn/up/dot_general" in text
    found, settings = search.propose(tiny(), EIGHT, compiles=6)
    assert found.fits and settings["method.model.remat"] == "full" and found.batch_size == 16
    ranking = table.format_ranking([found, plan])
    assert "does not fit" in ranking.splitlines()[2] and ranking.splitlines()[1].startswith("  1")


def test_the_command(tmp_path):
    config = f"--config={commands.ROOT}/configs/llama.py:smoke"
    small = ["--config.method.text.max_tokens=16", "--config.method.text.chunk=16"]
    options = ["--topology=cpu:4", "--config.mesh.fsdp=2", "--json"]
    done = commands.run("-m", "vtjax.plan", config, *small, *options, timeout=600)
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1} and values["fits"]
    for arguments, words in (
        ([config], ["--topology is needed"]),
        ([config, "--topology=cpu:4", "--slices=2"], ["cpu devices form no slices"]),
    ):
        commands.refused(commands.run("-m", "vtjax.plan", *arguments), *words)


def test_settings_become_flags():
    assert table.format_settings({"mesh.fsdp": 16, "method.model.remat": "full"}) == (
        "--config.mesh.fsdp=16 --config.method.model.remat=full"
    )
    with pytest.raises(VtjaxError, match="2 does not divide"):
        report.planned(search.with_settings(tiny(), {"mesh": Mesh(-1, 2, 1)}), topology.parse("cpu:3"))
