"""Bytes on the wires against sums by hand, on a 4 x 4 x 4 torus and on two slices."""

import types

import numpy as np
import pytest

from vtjax.planning.hlo import Collective
from vtjax.planning.network import by_kind, transfers
from vtjax.planning.topology import CHIPS

CHIP, MIB = CHIPS["v5p"], 2.0**20


def devices(slices=1):
    coords = [(x, y, z) for z in range(4) for y in range(4) for x in range(4)]
    return [types.SimpleNamespace(coords=c, slice_index=s, id=i) for s in range(slices) for i, c in enumerate(coords)]


def one(kind, groups, size=MIB, times=3.0, slices=1):
    found = Collective(kind, size, np.array(groups), times, (), "")
    return transfers([found], devices(slices), (4, 4, 4), CHIP)[0]


LINE = [[0, 1, 2, 3]]  # along x, which closes to a ring: two directions


@pytest.mark.parametrize(
    "kind, sent",
    [("all-gather", 3 * MIB), ("reduce-scatter", 0.75 * MIB), ("all-reduce", 1.5 * MIB), ("all-to-all", 0.75 * MIB)],
)
def test_a_ring_of_four(kind, sent):
    found = one(kind, LINE)
    assert (found.ici_bytes, found.dcn_bytes) == (3 * sent, 0)
    assert found.ici_seconds == pytest.approx(3 * sent / 200e9)


def test_wider_groups_use_more_links():
    plane = [list(range(16))]
    assert one("all-reduce", plane).ici_seconds == pytest.approx(3 * 2 * MIB * 15 / 16 / 400e9)
    pair = [[0, 1]]  # half of an axis does not close
    assert one("all-reduce", pair).ici_seconds == pytest.approx(3 * MIB / 100e9)


def test_a_permutation_is_one_link_each():
    assert one("collective-permute", [[0, 1], [1, 0]]).ici_seconds == pytest.approx(3 * MIB / 100e9)
    across = one("collective-permute", [[0, 64], [64, 0]], slices=2)
    assert (across.ici_bytes, across.dcn_bytes) == (0, 3 * MIB)


def test_between_slices_each_chip_sends_its_share():
    """An all-reduce of all 128 chips: reduced inside a slice of 64, each chip then exchanges a 64th, both ways."""
    found = one("all-reduce", [list(range(128))], slices=2)
    assert found.dcn_bytes == pytest.approx(3 * 2 * (MIB / 64) / 2)
    assert found.dcn_seconds == pytest.approx(found.dcn_bytes / CHIP.dcn)
    assert found.ici_bytes == pytest.approx(3 * 2 * MIB * 63 / 64)
    pairs = one("all-reduce", [[i, i + 64] for i in range(64)], slices=2)
    assert (pairs.ici_bytes, pairs.dcn_bytes) == (0, 3 * MIB)


def test_sums_by_kind():
    found = by_kind([one("all-reduce", LINE), one("all-reduce", LINE), one("all-gather", LINE)])
    assert list(found) == ["all-reduce", "all-gather"] or list(found) == ["all-gather", "all-reduce"]
    assert found["all-reduce"]["ici_bytes"] == 2 * 3 * 1.5 * MIB


def test_what_the_hosts_exchange_between_slices():
    found = Collective("all-reduce", MIB, np.zeros((0, 0), int), 3.0, (), "")
    sent = transfers([found], devices(2), (4, 4, 4), CHIP)[0]
    assert (sent.ici_bytes, sent.dcn_bytes) == (0, 3 * MIB) and sent.dcn_seconds == pytest.approx(3 * MIB / CHIP.dcn)
