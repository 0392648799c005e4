"""The device mesh: axes ("data", "fsdp", "tensor"), all Auto, so that XLA places what partition rules leave open."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vtjax.config import Mesh as MeshConfig
from vtjax.errors import VtjaxError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # the batch dimension is split over both


def mesh_shape(config: MeshConfig, device_count: int) -> tuple[int, int, int]:
    """Axis sizes with -1 filled in.

    Raises:
      VtjaxError: sizes that do not multiply to the device count, or more than one -1.
    """
    sizes = [config.data, config.fsdp, config.tensor]
    asked = f"config.mesh={dict(zip(AXES, sizes, strict=True))}"
    if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
        raise VtjaxError(f"{asked}: sizes are positive, and one of them may be -1")
    known = math.prod(s for s in sizes if s != -1)
    if -1 in sizes:
        if device_count % known:
            raise VtjaxError(f"{asked}: {known} does not divide {device_count} devices")
        sizes[sizes.index(-1)] = device_count // known
    if math.prod(sizes) != device_count:
        raise VtjaxError(f"{asked} asks for {math.prod(sizes)} devices, there are {device_count}")
    return sizes[0], sizes[1], sizes[2]


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """The mesh over `devices` (default: all of them), physical neighbours along the inner axes.

    Several slices are joined over the data axis, so that only its reductions cross the data-centre network.
    """
    devices = list(jax.devices()) if devices is None else list(devices)
    shape = mesh_shape(config, len(devices))
    if config.slices > 1:
        if shape[0] % config.slices:
            raise VtjaxError(f"config.mesh.slices={config.slices} does not divide the data axis of {shape[0]}")
        inner = (shape[0] // config.slices, *shape[1:])
        outer = (config.slices, 1, 1)
        array = mesh_utils.create_hybrid_device_mesh(inner, outer, devices, allow_split_physical_axes=True)
    elif devices[0].platform == "cpu":
        array = np.asarray(devices).reshape(shape)
    else:
        array = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return jax.sharding.Mesh(array, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def evaluation_mesh(config: MeshConfig) -> jax.sharding.Mesh | None:
    """The mesh of a run where it fits the devices that are here, else one that differs in its data axis; None for one.

    Parameters that were split over more devices than there are now are split over as many as divide.
    """
    count = len(jax.devices())
    if count == 1:
        return None
    tensor = math.gcd(config.tensor if config.tensor > 0 else count, count)
    fsdp = math.gcd(config.fsdp if config.fsdp > 0 else count, count // tensor)
    return make_mesh(MeshConfig(data=count // (tensor * fsdp), fsdp=fsdp, tensor=tensor))


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Leading dimension split over data and fsdp, the rest whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """One copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def host_rows(
    sharding: NamedSharding, batch_size: int, devices: Collection[jax.Device] | None = None
) -> np.ndarray:
    """Rows of the global batch that `devices` (default: this process's) hold, ascending and each once."""
    wanted = sharding.addressable_devices if devices is None else set(devices)
    indices = sharding.devices_indices_map((batch_size,))
    held = [np.arange(batch_size)[index] for device, index in indices.items() if device in wanted]
    return np.unique(np.concatenate(held))


def global_batch(batch: dict, sharding: NamedSharding) -> dict:
    """This host's numpy rows of a batch (those of `host_rows`, in that order) to one global array per field."""
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
