"""Batches of one shape over many items: every item once, none of the rows that fill up, on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.config import Mesh
from vtjax.evals import batches
from vtjax.sharding.mesh import make_mesh, replicated

WEIGHTS = np.arange(6, dtype=np.float32).reshape(2, 3)


class Items(list):
    """Counts how often each item is read."""

    def __init__(self, count):
        super().__init__(np.array([i, i * i], np.float32) for i in range(count))
        self.read = np.zeros(count, int)

    def __getitem__(self, index):
        self.read[index] += 1
        return super().__getitem__(index)


@jax.jit
def function(params, batch):
    return {"product": batch @ params, "first": batch[:, 0]}


@pytest.mark.parametrize("count", [1, 8, 21])
@pytest.mark.parametrize("shape", [None, (8, 1, 1), (2, 2, 2), (1, 1, 8)])
@pytest.mark.parametrize("iterable", [False, True])
def test_every_item_once(count, shape, iterable):
    items, params = Items(count), jnp.asarray(WEIGHTS)
    if shape is not None:
        mesh = make_mesh(Mesh(*shape))
        params = jax.device_put(params, replicated(mesh))
        assert batches.mesh_of({"a": {"b": params}}) is mesh
    sizes = []

    def stack(rows):
        sizes.append(len(rows))
        return np.stack(rows)

    found = batches.in_batches(function, params, iter(list(items)) if iterable else items, stack, 6)
    rows = np.array([[i, i * i] for i in range(count)], np.float32)
    np.testing.assert_allclose(found["product"], [[r @ WEIGHTS[:, c] for c in range(3)] for r in rows], rtol=1e-6)
    np.testing.assert_array_equal(found["first"], np.arange(count))
    ways = 1 if shape is None else shape[0] * shape[1]
    assert set(sizes) == {-(-6 // ways) * ways}, "one static shape, which the devices divide"
    if not iterable:
        assert (items.read == 1).all()


def test_what_is_on_one_device_has_no_mesh():
    assert batches.mesh_of({"a": WEIGHTS}) is None and batches.mesh_of(jnp.asarray(WEIGHTS)) is None
    one = make_mesh(Mesh(1, 1, 1), jax.devices()[:1])
    assert batches.mesh_of(jax.device_put(WEIGHTS, replicated(one))) is None
