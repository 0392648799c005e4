"""The mesh, the batch's place on it, and which rows a host reads."""

import jax
import numpy as np
import pytest

from vtjax.config import Mesh
from vtjax.errors import VtjaxError
from vtjax.sharding import mesh as meshes


@pytest.mark.parametrize(
    "sizes, devices, shape",
    [((-1, 1, 1), 8, (8, 1, 1)), ((-1, 2, 2), 8, (2, 2, 2)), ((2, -1, 1), 8, (2, 4, 1)), ((1, 1, 1), 1, (1, 1, 1))],
)
def test_the_rest_is_filled_in(sizes, devices, shape):
    assert meshes.mesh_shape(Mesh(*sizes), devices) == shape


@pytest.mark.parametrize(
    "sizes, message",
    [
        ((-1, -1, 1), "one of them may be -1"),
        ((0, 1, 8), "sizes are positive"),
        ((-1, 3, 1), "3 does not divide 8 devices"),
        ((2, 2, 1), "asks for 4 devices, there are 8"),
    ],
)
def test_sizes_that_cannot_be(sizes, message):
    with pytest.raises(VtjaxError, match=message):
        meshes.mesh_shape(Mesh(*sizes), 8)


def test_axes_are_auto_and_devices_in_order():
    mesh = meshes.make_mesh(Mesh(2, 2, 2))
    assert mesh.axis_names == ("data", "fsdp", "tensor") and not mesh.explicit_axes and not mesh.manual_axes
    assert [d.id for d in mesh.devices.ravel()] == [d.id for d in jax.devices()]
    with pytest.raises(VtjaxError, match="slices=3 does not divide the data axis of 8"):
        meshes.make_mesh(Mesh(slices=3))


def test_the_batch_is_split_over_data_and_fsdp():
    sharding = meshes.batch_sharding(meshes.make_mesh(Mesh(2, 2, 2)))
    batch = {"a": np.arange(8.0), "b": np.arange(32).reshape(8, 4)}
    placed = meshes.global_batch(batch, sharding)
    for name, value in batch.items():
        np.testing.assert_array_equal(placed[name], value)
        assert {s.data.shape[0] for s in placed[name].addressable_shards} == {2}


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 1, 8), (2, 1, 4)])
def test_hosts_read_exactly_what_their_devices_hold(shape):
    """Against the shards of a placed array; two hosts, with neighbouring and with alternating devices."""
    sharding = meshes.batch_sharding(meshes.make_mesh(Mesh(*shape)))
    array = jax.device_put(np.arange(16), sharding)
    devices = jax.devices()
    for host in (devices[:4], devices[4:], devices[::2], devices[1::2], devices):
        held = {int(r) for s in array.addressable_shards if s.device in host for r in np.asarray(s.data)}
        assert meshes.host_rows(sharding, 16, host).tolist() == sorted(held)
    assert meshes.host_rows(sharding, 16).tolist() == list(range(16))
