"""Slices by name, and their devices as the compiler sees them, without the hardware.

"v5p-128" is what is rented: v4 and v5p count TensorCores, two to a chip, v5e and v6e count chips. "v5p:4x4x4" names the
chips' arrangement. "cpu:8" is eight devices of this machine's own processor: memory and collectives of a step can be
read there without libtpu, times cannot.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Sequence

from vtjax.errors import VtjaxError, nearest
from vtjax.planning.chips import CHIPS, Chip

_CUBES = (
    "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16",
)  # fmt: skip
_SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SHAPES = {"v4": (*_CUBES,), "v5p": (*_CUBES, "16x16x24"), "v5e": _SQUARES, "v6e": _SQUARES}
_CORES = {"v4": 2, "v5p": 2, "v5e": 1, "v6e": 1}  # that a name counts per chip
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
        sold = sold_as(self.kind, self.shape)
        also = f" ({sold})" if sold else ""
        return f"{self.arrangement}{also}" + (f", {self.slices} slices" if self.slices > 1 else "")

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

    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        pass  # JAX has started: as many as there are
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise VtjaxError(f"--topology=cpu:{count}: JAX has started with {len(devices)} devices")
    return devices[:count]


def sold_as(kind: str, shape: Sequence[int]) -> str:
    """The marketing name of an arrangement, "" where there is none."""
    if "x".join(map(str, shape)) not in _SHAPES.get(kind, ()):
        return ""
    return f"{kind}-{math.prod(shape) * _CORES[kind]}"


def names() -> list[str]:
    """All marketing names."""
    return [sold_as(kind, _parsed(shape)) for kind, shapes in _SHAPES.items() for shape in shapes]


def parse(name: str, slices: int = 1) -> Topology:
    """A topology by either kind of name.

    Raises:
      VtjaxError: unknown; the nearest name is given.
    """
    if slices < 1:
        raise VtjaxError(f"--slices={slices}: at least 1")
    found = re.fullmatch(r"(\w+?)(?::([\dx]+)|-(\d+))", name.strip().lower())
    if not found:
        raise VtjaxError(f"--topology={name!r}: for example v5p-128, v5p:4x4x4, v5e-16 or cpu:8")
    kind = _ALIASES.get(found[1], found[1])
    if kind == "cpu" and (found[2] or "").isdigit() and int(found[2]):
        return Topology("cpu", (int(found[2]),), slices)
    if kind not in CHIPS:
        raise VtjaxError(f"--topology={name!r}: no chip {found[1]!r}; {nearest(found[1], [*CHIPS, 'cpu'])}")
    if found[3]:
        known = {sold_as(kind, _parsed(shape)): shape for shape in _SHAPES[kind]}
        if f"{kind}-{found[3]}" not in known:
            raise VtjaxError(f"--topology={name!r}: sold are {', '.join(known)}; {kind}:AxB... names any arrangement")
        return Topology(kind, _parsed(known[f"{kind}-{found[3]}"]), slices)
    parts = found[2].split("x")
    dimensions = CHIPS[kind].torus
    if len(parts) != dimensions or not all(p.isdigit() and int(p) for p in parts):
        example = "4x4x4" if dimensions == 3 else "4x4"
        raise VtjaxError(f"--topology={name!r}: {kind} is a torus of {dimensions} dimensions, for example {example}")
    return Topology(kind, tuple(map(int, parts)), slices)


def larger(topology: Topology) -> Topology | None:
    """The next larger slice that is sold, of the same chip; None where this is the largest."""
    if topology.kind == "cpu":
        return Topology("cpu", (2 * topology.shape[0],), topology.slices)
    size = math.prod(topology.shape)
    shapes = [_parsed(s) for s in _SHAPES[topology.kind]]
    return next((dataclasses.replace(topology, shape=s) for s in shapes if math.prod(s) > size), None)


def _parsed(shape: str) -> tuple[int, ...]:
    return tuple(map(int, shape.split("x")))
