"""Batches of one shape over many items: every item once, none of the rows that fill up, on any mesh; means, cosines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.config import Mesh
from vtjax.errors import VtjaxError
from vtjax.evals import embed
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
        assert embed.mesh_of({"a": {"b": params}}) is mesh
    sizes = []

    def stack(rows):
        sizes.append(len(rows))
        return np.stack(rows)

    found = embed.in_batches(function, params, iter(list(items)) if iterable else items, stack, 6)
    rows = np.array([[i, i * i] for i in range(count)], np.float32)
    np.testing.assert_allclose(found["product"], [[r @ WEIGHTS[:, c] for c in range(3)] for r in rows], rtol=1e-6)
    np.testing.assert_array_equal(found["first"], np.arange(count))
    ways = 1 if shape is None else shape[0] * shape[1]
    assert set(sizes) == {-(-6 // ways) * ways}, "one static shape, which the devices divide"
    if not iterable:
        assert (items.read == 1).all()


def test_what_is_on_one_device_has_no_mesh():
    assert embed.mesh_of({"a": WEIGHTS}) is None and embed.mesh_of(jnp.asarray(WEIGHTS)) is None
    one = make_mesh(Mesh(1, 1, 1), jax.devices()[:1])
    assert embed.mesh_of(jax.device_put(WEIGHTS, replicated(one))) is None


def test_equal_items_are_encoded_once_and_have_equal_rows():
    asked = []

    def encode(texts):
        asked.extend(texts)
        return {"length": np.array([len(t) for t in texts]), "first": np.array([[ord(t[0])] for t in texts])}

    rows = embed.embed_distinct(["pour", "a", "pour", "bcd", "a"], encode)
    assert asked == ["pour", "a", "bcd"]
    np.testing.assert_array_equal(rows["length"], [4, 1, 4, 3, 1])
    np.testing.assert_array_equal(rows["first"], [[112], [97], [112], [98], [97]])


@pytest.mark.parametrize("encoded", [np.zeros((3, 2)), np.float32(1)])
def test_a_row_too_many_is_refused(encoded):
    with pytest.raises(VtjaxError, match="encoding 2 items must give a row or one number each, got"):
        embed.embed_distinct(["a", "b", "a"], lambda texts: encoded)


def test_means_of_the_prompts_of_each_class():
    rows = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    means = [sum(rows[i] for i in places) / len(places) for places in ([0], [1, 2, 3], [4, 5])]
    np.testing.assert_allclose(embed.class_means(rows, (1, 3, 2), normalise=False), means, rtol=1e-6)
    units = [m / np.sqrt((m * m).sum()) for m in means]
    np.testing.assert_allclose(embed.class_means(rows, (1, 3, 2)), units, rtol=1e-6)
    assert embed.class_means(rows, (1, 3, 2)).dtype == np.float32
    np.testing.assert_array_equal(embed.class_means(np.zeros((1, 3)), [1]), np.zeros((1, 3)))


def test_cosines():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(3, 5)), rng.normal(size=(2, 5))
    expected = [[x @ y / np.sqrt((x @ x) * (y @ y)) for y in b] for x in a]
    np.testing.assert_allclose(embed.cosines(a, b), expected, rtol=1e-12)
