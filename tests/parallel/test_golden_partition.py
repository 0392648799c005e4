"""Where every parameter of a published configuration lies on a 2 x 2 x 2 mesh, kept in tests/golden.

A change to a model or its partition table shows as a difference of these files. They were made by this module and read
through by hand: attention and feed-forward matrices split over both model axes, projections over one, only vectors and
the learned tokens whole. To accept a change, remove the file, run this test (it writes the new one and fails) and read
the difference before committing it.
"""

import functools
import json
import pathlib

import jax
import pytest

from vtjax.config import Mesh, load_config_file
from vtjax.methods.car import model, task
from vtjax.parallel.mesh import make_mesh
from vtjax.parallel.partition import flatten, partition

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"


def car(variant):
    """Abstract parameters and partition table of a CAR configuration."""
    config = load_config_file(f"{ROOT}/configs/car.py:{variant}").method
    batch = {k: jax.ShapeDtypeStruct((8, *s.shape), s.dtype) for k, s in task.example_spec(config).items()}
    params = jax.eval_shape(functools.partial(task.init, config), jax.random.key(0), batch)
    return params, model.rules(config.text)


CASES = {"car-demo": functools.partial(car, "demo"), "car-paper": functools.partial(car, "paper")}


@pytest.mark.parametrize("name", CASES)
def test_partition_is_the_golden_one(name):
    params, rules = CASES[name]()
    found = partition(params, rules, make_mesh(Mesh(2, 2, 2)))
    rows = {n: {"shape": list(p.shape), "spec": list(found.specs[n])} for n, p in flatten(params).items()}
    lines = ",\n".join(f" {json.dumps(n)}: {json.dumps(row)}" for n, row in sorted(rows.items()))
    path = GOLDEN / f"{name}-2x2x2.json"
    if not path.exists():
        path.write_text(f"{{\n{lines}\n}}\n")
        pytest.fail(f"{path} was missing and has been written: read it, then commit it")
    assert rows == json.loads(path.read_text())


@pytest.mark.parametrize("name", CASES)
def test_golden_files_say_what_they_should(name):
    """The expectation in words, by the shape of things rather than by the table's patterns."""
    for path, row in json.loads((GOLDEN / f"{name}-2x2x2.json").read_text()).items():
        spec, *parents, last = row["spec"], *path.split("/")
        if last == "kernel" and {"attention", "self_attention", "cross_attention", "ffn"} & set(parents):
            assert sorted(filter(None, spec)) == ["fsdp", "tensor"], path
        elif last in ("kernel", "embedding"):
            assert list(filter(None, spec)) == ["fsdp"], path
        else:
            assert spec in ([], ["tensor"]), path


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize("variant", ["smoke", "demo", "paper"])
def test_the_table_covers_the_model_on_every_mesh(variant, shape):
    params, rules = car(variant)
    devices = jax.devices()[: shape[0] * shape[1] * shape[2]]
    found = partition(params, rules, make_mesh(Mesh(*shape), devices))
    assert found.specs.keys() == flatten(params).keys()
    assert found.replicated_bytes < 0.05 * found.total_bytes or shape != (2, 2, 2)
