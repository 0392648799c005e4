"""Slices by name, and their devices as the compiler sees them, without the hardware.

"v5p-128" is what is rented: v4 and v5p count TensorCores, two to a chip, v5e and v6e count chips. "v5p:4x4x4" names the
chips' arrangement. "cpu:8" is eight devices of this machine's own processor: memory and collectives of a step can be
read there without libtpu, times cannot.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re

from vtjax.errors import VtjaxError, nearest

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one TPU chip can do, as its maker publishes it (Google Cloud's system architecture pages, read in 2026).

    Peak figures, of which a program reaches a share; bandwidths are per direction.

    flops: bfloat16 matrix products, operations/s. hbm: bytes; hbm_bandwidth: bytes/s. ici: bytes/s of one link to one
    neighbour; torus: its dimensions. wraps: an axis is closed to a ring where its length is a multiple of this. dcn:
    bytes/s of one chip's share of its host's network card, for slices to talk over. cores: that a name counts per chip.
    """

    flops: float
    hbm: int
    hbm_bandwidth: float
    ici: float
    torus: int
    wraps: int
    dcn: float
    cores: int


CHIPS = {
    "v4": Chip(275e12, 32 * _GIB, 1.228e12, 50e9, 3, 4, 6.25e9, 2),
    "v5e": Chip(197e12, 16 * _GIB, 0.819e12, 50e9, 2, 16, 3.125e9, 1),
    "v5p": Chip(459e12, 95 * _GIB, 2.765e12, 100e9, 3, 4, 6.25e9, 2),
    "v6e": Chip(918e12, 32 * _GIB, 1.638e12, 112e9, 2, 16, 12.5e9, 1),
}
_CUBES = "2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16 16x16x16"
_SQUARES = "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16"
_SHAPES = {"v4": _CUBES, "v5p": f"{_CUBES} 16x16x24", "v5e": _SQUARES, "v6e": _SQUARES}  # smallest first
_ALIASES = {"v5litepod": "v5e", "v5lite": "v5e", "trillium": "v6e"}
# Without these libtpu looks for a TPU's metadata; and plans may be made beside each other.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """`slices` equal slices of chips arranged as `shape`; chip is None for "cpu"."""

    kind: str
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def chip(self) -> Chip | None:
        return CHIPS.get(self.kind)

    @property
    def chips(self) -> int:
        """Of all slices together."""
        return math.prod(self.shape) * self.slices

    @property
    def arrangement(self) -> str:
        """As libtpu names one slice: "v5p:4x4x4"."""
        return f"{self.kind}:{'x'.join(map(str, self.shape))}"

    def __str__(self) -> str:
        also = f" ({self.sold_as})" if self.sold_as else ""
        return f"{self.arrangement}{also}" + (f", {self.slices} slices" if self.slices > 1 else "")

    @property
    def sold_as(self) -> str:
        """The marketing name of one slice, "" where there is none."""
        slice_ = dataclasses.replace(self, slices=1)
        return next((name for name, place in SOLD.items() if place == slice_), "")

    def devices(self) -> list:
        """Descriptions of the devices, for a mesh to compile on.

        Raises:
          VtjaxError: libtpu is missing, or knows no such arrangement.
        """
        import jax

        if self.kind == "cpu":
            return cpu_devices(self.chips)
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            import libtpu  # noqa: F401
        except ImportError:
            raise VtjaxError("planning for TPUs needs libtpu: pip install 'vtjax[plan]'; cpu:8 needs none") from None
        from jax.experimental import topologies

        options: dict = {"num_slices": self.slices}
        if self.kind == "v4":
            options["chip_config_name"] = "megacore"  # one device for both cores, as programs use the chip
        if self.kind in ("v5e", "v6e") and self.shape in ((1, 1), (2, 4)):
            options["chips_per_host_bounds"] = (*self.shape, 1)  # one host; libtpu takes 2 x 2 for granted
        try:
            described = topologies.get_topology_desc(platform="tpu", topology_name=self.arrangement, **options)
        except jax.errors.JaxRuntimeError as error:
            raise VtjaxError(f"--topology={self.arrangement}: libtpu has no such slice: {error}") from error
        return list(described.devices)


def cpu_devices(count: int) -> list:
    """`count` devices of this machine's processor; asked for before JAX starts, there are as many as wanted."""
    import jax

    with contextlib.suppress(RuntimeError):  # JAX has started: as many as there are
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise VtjaxError(f"--topology=cpu:{count}: JAX has started with {len(devices)} devices")
    return devices[:count]


def _shape(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split("x")))


def _sold() -> dict[str, Topology]:
    places = [Topology(kind, _shape(text)) for kind, shapes in _SHAPES.items() for text in shapes.split()]
    return {f"{place.kind}-{place.chips * CHIPS[place.kind].cores}": place for place in places}


SOLD = _sold()  # slices by marketing name


def parse(asked: str, slices: int = 1) -> Topology:
    """A topology by either kind of name.

    Raises:
      VtjaxError: unknown; the nearest name is given.
    """
    if slices < 1:
        raise VtjaxError(f"--slices={slices}: at least 1")
    match = re.fullmatch(r"(\w+?)(?::([\dx]+)|-(\d+))", asked.strip().lower())
    if not match:
        raise VtjaxError(f"--topology={asked!r}: for example v5p-128, v5p:4x4x4, v5e-16 or cpu:8")
    kind = _ALIASES.get(match[1], match[1])
    if kind == "cpu" and (match[2] or "").isdigit() and int(match[2]):
        return Topology("cpu", (int(match[2]),), slices)
    if kind not in CHIPS:
        raise VtjaxError(f"--topology={asked!r}: no chip {match[1]!r}; {nearest(match[1], [*CHIPS, 'cpu'])}")
    if match[3]:
        name = f"{kind}-{match[3]}"
        if name not in SOLD:
            known = ", ".join(name for name in SOLD if name.startswith(f"{kind}-"))
            raise VtjaxError(f"--topology={asked!r}: sold are {known}; {kind}:AxB... names any arrangement")
        return dataclasses.replace(SOLD[name], slices=slices)
    parts = match[2].split("x")
    dimensions = CHIPS[kind].torus
    if len(parts) != dimensions or not all(p.isdigit() and int(p) for p in parts):
        example = "4x4x4" if dimensions == 3 else "4x4"
        raise VtjaxError(f"--topology={asked!r}: {kind} is a torus of {dimensions} dimensions, for example {example}")
    return Topology(kind, tuple(map(int, parts)), slices)


def larger(topology: Topology) -> Topology | None:
    """The next larger slice that is sold, of the same chip; None where this is the largest."""
    if topology.kind == "cpu":
        return Topology("cpu", (2 * topology.shape[0],), topology.slices)
    size = math.prod(topology.shape)
    sizes = (dataclasses.replace(p, slices=topology.slices) for p in SOLD.values() if p.kind == topology.kind)
    return next((place for place in sizes if math.prod(place.shape) > size), None)
