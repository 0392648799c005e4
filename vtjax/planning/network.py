"""Which wires a collective uses, and for how long: inside a slice its torus (ICI), between slices the network (DCN).

A device of n that gather together sends (n - 1) / n of the result whatever the algorithm, an all-reduce twice that. In
a slice the group's share of the torus counts: each axis along which it extends has two directions where the axis closes
to a ring, else one. Between slices each chip has its share of its host's network card, and groups of several chips per
slice first reduce inside it. Latency and contention are left out, so times are lower bounds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from vtjax.planning.hlo import Collective
from vtjax.planning.topology import Chip


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What one collective sends per chip and step: bytes over ICI and DCN, and their seconds (0 without a chip)."""

    kind: str
    ici_bytes: float
    dcn_bytes: float
    ici_seconds: float
    dcn_seconds: float


def transfers(
    collectives: Sequence[Collective], devices: Sequence[Any], shape: Sequence[int], chip: Chip | None
) -> list[Transfer]:
    """The transfer of each collective.

    Args:
      devices: of the mesh, flat, in its order.
      shape: of one slice.
      chip: None leaves the seconds at 0.
    """
    places = [tuple(getattr(d, "coords", (d.id,))) for d in devices]
    slices = [getattr(d, "slice_index", None) or 0 for d in devices]
    return [_transfer(one, places, slices, shape, chip) for one in collectives]


def _transfer(one: Collective, places: list, slices: list, shape: Sequence[int], chip: Chip | None) -> Transfer:
    links = 1
    if not one.groups.size:  # the hosts of all slices do it for their chips, each for itself
        parts = len(set(slices))
        shares = {"all-reduce": 2 * (parts - 1) / parts, "all-gather": parts - 1, "reduce-scatter": (parts - 1) / parts}
        ici, dcn = 0.0, one.bytes * shares.get(one.kind, 1.0)
    elif one.kind == "collective-permute":  # all pairs at once: the slowest counts, which is one that leaves its slice
        crosses = any(slices[a] != slices[b] for a, b in one.groups)
        ici, dcn = (0.0, one.bytes) if crosses else (one.bytes, 0.0)
    else:
        group = one.groups[0]
        parts = len({slices[d] for d in group})  # slices that the group extends over
        inside = len(group) // parts
        # Bytes of the whole: what a gather makes, what a reduction takes. Between slices each chip sends its share.
        whole = one.bytes * (len(group) if one.kind == "all-gather" else 1)
        rounds = 2 if one.kind == "all-reduce" else 1
        ici = rounds * whole * (inside - 1) / inside
        dcn = rounds * (whole / inside) * (parts - 1) / parts
        links = _links([places[d] for d in group if slices[d] == slices[group[0]]], shape, chip)
    seconds = (ici / (chip.ici * links), dcn / chip.dcn) if chip is not None else (0.0, 0.0)
    return Transfer(one.kind, *(one.times * x for x in (ici, dcn, *seconds)))


def _links(places: list, shape: Sequence[int], chip: Chip | None) -> int:
    """Links out of one chip that a group at these places can use at once; at least 1."""
    count = 0
    for axis, length in enumerate(shape):
        extent = len({p[axis] for p in places if axis < len(p)})
        if chip is not None and extent > 1:
            count += 2 if extent == length and length % chip.wraps == 0 else 1
    return max(count, 1)


def by_kind(sent: Sequence[Transfer]) -> dict[str, dict[str, float]]:
    """Sums of all transfers of a kind: {kind: {"ici_bytes", "dcn_bytes", "ici_seconds", "dcn_seconds"}}."""
    sums: dict[str, dict[str, float]] = {}
    for one in sent:
        row = sums.setdefault(one.kind, dict.fromkeys(("ici_bytes", "dcn_bytes", "ici_seconds", "dcn_seconds"), 0.0))
        for name in row:
            row[name] += getattr(one, name)
    return dict(sorted(sums.items(), key=lambda item: -sum(item[1].values())))
