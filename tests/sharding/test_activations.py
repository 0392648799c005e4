"""Activation constraints: what the compiled program lays where, and that nothing happens without a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vtjax.config import Mesh
from vtjax.errors import VtjaxError
from vtjax.nn.transformer import lookup
from vtjax.sharding.activations import constrain
from vtjax.sharding.mesh import batch_sharding, make_mesh

X = np.arange(8 * 4 * 6, dtype=np.float32).reshape(8, 4, 6)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(Mesh(2, 2, 2))


def laid(mesh, *names, x=X):
    """Where XLA lays x once it is constrained; it comes in split over the batch."""
    placed = jax.device_put(x, batch_sharding(mesh))
    out = jax.jit(lambda x: constrain(x, *names))(placed)
    np.testing.assert_array_equal(out, x)
    return {s.data.shape for s in out.addressable_shards}


def test_names_lay_dimensions_on_their_axes(mesh):
    assert laid(mesh, "batch", None, None) == {(2, 4, 6)}
    assert laid(mesh, "batch", None, "mlp") == laid(mesh, "batch", ..., "mlp") == {(2, 4, 3)}
    assert laid(mesh, "batch", "heads", None) == {(2, 2, 6)}
    assert laid(mesh, "rows", ..., "embed") == {(4, 4, 3)}
    assert laid(mesh, None, None, None) == {(8, 4, 6)}
    assert laid(make_mesh(Mesh(8, 1, 1)), "batch", ..., "mlp") == {(1, 4, 6)}


def test_what_does_not_divide_is_left_to_xla(mesh):
    assert laid(mesh, "batch", None, "heads", x=X[..., :5]) == {(2, 4, 5)}


def test_nothing_happens_without_a_mesh_and_inside_shard_map(mesh):
    jaxpr = jax.make_jaxpr(lambda x: constrain(x, "batch", ...))(X)
    assert not jaxpr.eqns
    one = jax.device_put(X, batch_sharding(make_mesh(Mesh(1, 1, 1), jax.devices()[:1])))
    assert not jax.jit(lambda x: constrain(x, "batch", ...)).trace(one).jaxpr.eqns
    mapped = jax.shard_map(lambda x: constrain(x, "batch", ...), mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    np.testing.assert_array_equal(jax.jit(mapped)(X), X)


def test_wrong_names_are_refused():
    with pytest.raises(VtjaxError, match="did you mean 'batch'"):
        constrain(X, "bach", None, None)
    with pytest.raises(VtjaxError, match=r"shape \(8, 4, 6\)"):
        constrain(X, "batch", None)


def test_a_table_is_looked_up_without_being_gathered(mesh):
    """Values, gradients, and in the compiled text no array of the table's whole size."""
    table = nn.Embed(64, 16)
    params = {"embedding": jax.random.normal(jax.random.key(0), (64, 16))}
    ids = np.random.default_rng(0).integers(0, 64, (8, 3)).astype(np.int32)

    def value(params, ids):
        bound = table.bind({"params": params})
        return jnp.sum(jnp.sin(lookup(bound, ids)) * jnp.arange(3.0)[None, :, None])

    plain = lambda p: jnp.sum(jnp.sin(p["embedding"][ids]) * jnp.arange(3.0)[None, :, None])
    expected = jax.value_and_grad(plain)(params)
    placed = {"embedding": jax.device_put(params["embedding"], NamedSharding(mesh, P("tensor", "fsdp")))}
    compiled = jax.jit(jax.value_and_grad(value)).lower(placed, jax.device_put(ids, batch_sharding(mesh))).compile()
    found = compiled(placed, jax.device_put(ids, batch_sharding(mesh)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)
    assert "f32[64,16]" not in compiled.as_text()
