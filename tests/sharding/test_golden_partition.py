"""Where every parameter of a published configuration lies on a mesh, kept in tests/golden, one file for each of both.

A change to a model or its partition table shows as a difference of these files. They were made by this module and read
through by hand: attention and feed-forward matrices split over both model axes, projections and tables over one or
both, only vectors, the learned tokens and heads whole. To accept a change, remove the file, run this test (it writes
the new one and fails) and read the difference before committing it.
"""

import functools
import json
import pathlib
import tempfile

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType

from vtjax import methods
from vtjax.config import Mesh, load_config_file
from vtjax.sharding.mesh import AXES, make_mesh
from vtjax.sharding.partition import flatten, partition

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
DISTILBERT = {
    "model_type": "distilbert", "vocab_size": 30522, "dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072,
    "max_position_embeddings": 512, "pad_token_id": 0,
}  # fmt: skip


def abstract(spec, **settings):
    """Abstract parameters and partition table of a configuration, method fields set as in text__width=16."""
    experiment = load_config_file(f"{ROOT}/configs/{spec}")
    experiment.compute_dtype = "bfloat16"
    for path, value in settings.items():
        section, name = path.split("__")
        setattr(getattr(experiment.method, section), name, value)
    task = methods.get(experiment.name).abstract(experiment)
    batch = {n: jax.ShapeDtypeStruct((8, *s.shape), s.dtype) for n, s in task.example_spec.items()}
    return jax.eval_shape(task.init, jax.random.key(0), batch), task.rules


def bert():
    """CAR's published settings with DistilBERT learning inside the graph, all stacks scanned."""
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps(DISTILBERT))
        return abstract("car.py:paper", text__path=folder, text__trainable=True, model__scan=True)


CASES = {
    "car-demo-2x2x2": functools.partial(abstract, "car.py:demo"),
    "car-paper-2x2x2": functools.partial(abstract, "car.py:paper"),
    "car-bert-2x2x2": bert,
    "clip-demo-2x2x2": functools.partial(abstract, "clip.py:demo"),
    "clip-l14-16x16x1": functools.partial(abstract, "clip.py:l14"),
    "clip-l14-2x2x2": functools.partial(abstract, "clip.py:l14"),
    "llama-7b-1x16x4": functools.partial(abstract, "llama.py:7b"),
    "llama-7b-2x2x2": functools.partial(abstract, "llama.py:7b"),
    "llama-13b-1x16x8": functools.partial(abstract, "llama.py:13b"),
    "ovoad-code-2x2x2": functools.partial(abstract, "ovoad.py:code"),
    "ovoad-paper-2x2x2": functools.partial(abstract, "ovoad.py:paper"),
}


def mesh_of(name):
    shape = tuple(map(int, name.rsplit("-", 1)[1].split("x")))
    return AbstractMesh(shape, AXES, axis_types=(AxisType.Auto,) * 3)


@pytest.mark.parametrize("name", CASES)
def test_partition_is_the_golden_one(name):
    params, rules = CASES[name]()
    found = partition(params, rules, mesh_of(name))
    rows = {n: {"shape": list(p.shape), "spec": list(found.specs[n])} for n, p in flatten(params).items()}
    lines = ",\n".join(f" {json.dumps(n)}: {json.dumps(row)}" for n, row in sorted(rows.items()))
    path = GOLDEN / f"{name}.json"
    if not path.exists():
        path.write_text(f"{{\n{lines}\n}}\n")
        pytest.fail(f"{path} was missing and has been written: read it, then commit it")
    assert rows == json.loads(path.read_text())


@pytest.mark.parametrize("name", CASES)
def test_golden_files_say_what_they_should(name):
    """The expectation in words, by the shape of things rather than by the table's patterns."""
    axes = {axis for axis, size in zip(AXES, mesh_of(name).axis_sizes, strict=True) if size > 1}
    wide = sorted({"fsdp", "tensor"} & axes)
    for path, row in json.loads((GOLDEN / f"{name}.json").read_text()).items():
        spec, *parents, last = row["spec"], *path.split("/")
        used = sorted(filter(None, spec))
        attention = {"attention", "self_attention", "cross_attention", "ffn"} & set(parents)
        if last == "kernel" and attention:
            assert used == wide, path
        elif "mix" in parents:  # over the group axis, a few groups wide
            assert not used, path
        elif last in ("a", "b"):  # LoRA: the rank is whole, so only inputs or outputs are split
            assert len(used) == 1, path
        elif last == "kernel" or (last == "embedding" and "relative_attention_bias" not in parents):
            assert "fsdp" in used or "fsdp" not in axes, path
        else:
            tables = last == "embedding" or last.startswith(("position", "group_token"))
            assert set(used) <= {"tensor"} or tables, path


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize("variant", ["smoke", "demo", "paper"])
def test_the_table_covers_the_model_on_every_mesh(variant, shape):
    params, rules = abstract(f"car.py:{variant}")
    devices = jax.devices()[: shape[0] * shape[1] * shape[2]]
    found = partition(params, rules, make_mesh(Mesh(*shape), devices))
    assert found.specs.keys() == flatten(params).keys()
    assert found.replicated_bytes < 0.05 * found.total_bytes or shape != (2, 2, 2)
