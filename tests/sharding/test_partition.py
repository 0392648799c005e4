"""The partition table against a slow reading of its rules, and everything it refuses."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from vtjax.config import Mesh
from vtjax.errors import VtjaxError
from vtjax.sharding import partition as parts
from vtjax.sharding.mesh import make_mesh

RULES = (
    (r"wide/kernel", ("embed", "mlp")),
    (r"kernel", (None, "embed")),
    (r"(bias|scale)", (None,)),
    (r"table", ("vocab", "embed")),
)
SHAPES = {
    "a/wide/kernel": (4, 8),
    "a/wider/kernel": (3, 4),
    "b/layers/wide/kernel": (3, 4, 8),
    "b/bias": (5,),
    "kernel": (7, 2),
    "table": (6, 4),
}


def tree(shapes, dtype=jnp.float32):
    out = {}
    for name, shape in shapes.items():
        *parents, last = name.split("/")
        holder = out
        for part in parents:
            holder = holder.setdefault(part, {})
        holder[last] = jax.ShapeDtypeStruct(shape, dtype)
    return out


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(Mesh(2, 2, 2))


def slow(name, shape):
    """The rule whose pattern is, as a whole, one of the path's endings; its axes stand for the last dimensions."""
    pieces = name.split("/")
    endings = ["/".join(pieces[i:]) for i in range(len(pieces))]
    for pattern, axes in RULES:
        if any(re.fullmatch(pattern, ending) for ending in endings):
            names = {"embed": "fsdp", "mlp": "tensor", "vocab": "tensor", None: None}
            return [None] * (len(shape) - len(axes)) + [names[a] for a in axes]
    raise AssertionError(name)


def test_agrees_with_the_slow_reading(mesh):
    found = parts.partition(tree(SHAPES), RULES, mesh)
    assert found.specs.keys() == SHAPES.keys()
    for name, shape in SHAPES.items():
        spec = list(found.specs[name])
        assert spec + [None] * (len(shape) - len(spec)) == slow(name, shape), name
        assert not spec or spec[-1] is not None, "trailing None is left out"
    assert parts.flatten(found.shardings)["b/layers/wide/kernel"] == jax.NamedSharding(mesh, P(None, "fsdp", "tensor"))


def test_bytes_on_every_device_are_counted(mesh):
    shapes = {"kernel": (6, 4), "b/bias": (5,)}
    found = parts.partition(tree(shapes, jnp.bfloat16), RULES, mesh)
    assert (found.total_bytes, found.replicated_bytes) == (2 * (24 + 5), 2 * 5)
    assert "2 parameter arrays" in found.summary() and "(17 %)" in found.summary()
    alone = parts.partition(tree(shapes), RULES, make_mesh(Mesh(8, 1, 1)))
    assert alone.replicated_bytes == alone.total_bytes  # axes of one device split nothing
    assert set(alone.specs.values()) == {P()}


def test_every_offender_is_listed_at_once(mesh):
    shapes = {"kernel": (4, 3), "unknown/gain": (2,), "x/bias": (), "wide/kernel": (4, 8), "odd": (4,)}
    with pytest.raises(VtjaxError) as error:
        parts.partition(tree(shapes), (*RULES, (r"odd", ("embd",))), mesh)
    lines = str(error.value).splitlines()
    assert len(lines) == 5
    for words in (
        "kernel (4, 3): embed=3 is not divisible by mesh axis fsdp=2",
        "unknown/gain (2,): no partition rule matches",
        "x/bias (): rule (None,) has more axes than the array",
        "odd (4,): no logical axis 'embd'; did you mean 'embed'?",
    ):
        assert any(words in line for line in lines), words


def test_one_logical_axis_over_two_mesh_axes(mesh):
    logical = {"embed": ("data", "fsdp"), "mlp": "tensor", "vocab": None}
    found = parts.partition(tree({"kernel": (4, 8)}), RULES, mesh, logical)
    assert found.specs["kernel"] == P(None, ("data", "fsdp"))
    with pytest.raises(VtjaxError, match="embed=2 is not divisible"):
        parts.partition(tree({"kernel": (4, 2)}), RULES, mesh, {"embed": ("data", "fsdp")})


@pytest.mark.parametrize("tx", [optax.adamw(1e-3), optax.chain(optax.clip(1.0), optax.sgd(0.1, momentum=0.9))])
def test_optimizer_state_lies_where_its_parameters_lie(tx, mesh):
    params = tree(SHAPES)
    found = parts.partition(params, RULES, mesh)
    state = jax.eval_shape(tx.init, params)
    shardings = parts.flatten(parts.like_params(state, params, found.specs, mesh))
    moments = 0
    for path, leaf in parts.flatten(state).items():
        name = next((n for n in SHAPES if path.endswith(f"/{n}")), None)
        expected = P() if name is None else found.specs[max((n for n in SHAPES if path.endswith(f"/{n}")), key=len)]
        assert shardings[path].spec == expected, path
        moments += name is not None
        assert name is not None or leaf.shape == ()
    assert moments == len(SHAPES) * (2 if "adam" in str(type(state[0])).lower() else 1)


def test_split_and_merge_are_inverse():
    params = {"a": {"x": 1, "y": 2}, "b": {"x": 3}, "c": 4}
    trainable, frozen = parts.split(params, r"^a/|/x$")
    assert trainable == {"a": {"x": 1, "y": 2}, "b": {"x": 3}} and frozen == {"c": 4}
    assert parts.merge(trainable, frozen) == params == parts.merge(frozen, trainable)
    assert parts.split(params, ".*") == (params, {})
    trainable, frozen = parts.split(params, "a/x")
    assert (trainable, frozen) == ({"a": {"x": 1}}, {"a": {"y": 2}, "b": {"x": 3}, "c": 4})
    assert parts.merge(trainable, frozen) == params and trainable == {"a": {"x": 1}}
    with pytest.raises(VtjaxError, match=r"train.trainable='nothing' matches none .* 'a/x'"):
        parts.split(params, "nothing")


def test_paths_name_every_kind_of_node():
    names = parts.flatten({"a": [np.zeros(1), {"b": np.zeros(1)}], "c": optax.EmptyState(), "d": optax.ScaleState()})
    assert list(names) == ["a/0", "a/1/b"]
    assert list(parts.flatten((optax.TraceState({"k": np.zeros(1)}),))) == ["0/trace/k"]
