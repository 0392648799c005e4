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

from vtjax.planning.chips import Chip
from vtjax.planning.hlo import Collective


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What one collective sends per chip and step: bytes over ICI and DCN, and the seconds each takes (0 without a
    chip). chips: members of a group."""

    kind: str
    chips: int
    ici_bytes: float
    dcn_bytes: float
    ici_seconds: float
    dcn_seconds: float
    source: str


def transfers(
    found: Sequence[Collective], devices: Sequence[Any], shape: Sequence[int], chip: Chip | None
) -> list[Transfer]:
    """Of each collective.

    devices: of the mesh, flat, in its order. shape: of one slice.
    """
    places = [tuple(getattr(d, "coords", (d.id,))) for d in devices]
    slices = [getattr(d, "slice_index", None) or 0 for d in devices]
    return [_transfer(one, places, slices, shape, chip) for one in found]


def _transfer(one: Collective, places: list, slices: list, shape: Sequence[int], chip: Chip | None) -> Transfer:
    if not one.groups.size:
        return _between_slices(one, len(set(slices)), chip)
    if one.kind == "collective-permute":
        return _permutation(one, slices, chip)
    group = one.groups[0]
    members = len(group)
    parts = len({slices[d] for d in group})  # slices that the group extends over
    inside = members // parts
    # Bytes of the whole: what a gather makes, what a reduction takes.
    whole = one.bytes * (members if one.kind == "all-gather" else 1)
    rounds = 2 if one.kind == "all-reduce" else 1
    ici = rounds * whole * (inside - 1) / inside
    # Between slices each chip answers for its share of the whole.
    dcn = rounds * (whole / inside) * (parts - 1) / parts
    if parts > 1 and one.kind == "all-gather":
        ici = whole * (inside - 1) / inside
    seconds = (0.0, 0.0)
    if chip is not None:
        local = [places[d] for d in group if slices[d] == slices[group[0]]]
        seconds = ici / (chip.ici * _directions(local, shape, chip)), dcn / chip.dcn
    return Transfer(one.kind, members, *(one.times * x for x in (ici, dcn, *seconds)), one.source)


def _between_slices(one: Collective, parts: int, chip: Chip | None) -> Transfer:
    """What the hosts of `parts` slices do for their chips, each for itself."""
    shares = {"all-reduce": 2 * (parts - 1) / parts, "all-gather": parts - 1, "reduce-scatter": (parts - 1) / parts}
    sent = one.bytes * shares.get(one.kind, 1.0)
    seconds = sent / chip.dcn if chip is not None else 0.0
    return Transfer(one.kind, parts, 0.0, one.times * sent, 0.0, one.times * seconds, one.source)


def _permutation(one: Collective, slices: list, chip: Chip | None) -> Transfer:
    """All pairs at once: the slowest counts, which is one that leaves its slice."""
    crosses = any(slices[a] != slices[b] for a, b in one.groups)
    ici, dcn = (0.0, one.bytes) if crosses else (one.bytes, 0.0)
    seconds = (ici / chip.ici, dcn / chip.dcn) if chip is not None else (0.0, 0.0)
    return Transfer(one.kind, len(one.groups), *(one.times * x for x in (ici, dcn, *seconds)), one.source)


def _directions(places: list, shape: Sequence[int], chip: Chip) -> int:
    """Links out of one chip that a group at these places can use at once; at least 1."""
    count = 0
    for axis, length in enumerate(shape):
        extent = len({p[axis] for p in places if axis < len(p)})
        if extent > 1:
            count += 2 if extent == length and length % chip.wraps == 0 else 1
    return max(count, 1)


def by_kind(found: Sequence[Transfer]) -> dict[str, dict[str, float]]:
    """Sums of all transfers of a kind: {kind: {"count", "ici_bytes", "dcn_bytes", "ici_seconds", "dcn_seconds"}}."""
    out: dict[str, dict[str, float]] = {}
    for one in found:
        row = out.setdefault(one.kind, dict.fromkeys(("ici_bytes", "dcn_bytes", "ici_seconds", "dcn_seconds"), 0.0))
        for name in row:
            row[name] += getattr(one, name)
    return dict(sorted(out.items(), key=lambda item: -sum(item[1].values())))


