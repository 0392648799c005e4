"""Names of slices: as sold, as arranged, and wrong ones."""

import math

import pytest

from vtjax.errors import VtjaxError
from vtjax.planning import topology


@pytest.mark.parametrize(
    "name, arrangement, chips",
    [
        ("v4-8", "v4:2x2x1", 4),  # TensorCores, two to a chip
        ("v4-4096", "v4:8x16x16", 2048),
        ("v5p-8", "v5p:2x2x1", 4),
        ("v5p-128", "v5p:4x4x4", 64),
        ("v5p-12288", "v5p:16x16x24", 6144),
        ("v5e-16", "v5e:4x4", 16),  # chips
        ("v5litepod-256", "v5e:16x16", 256),
        ("v6e-8", "v6e:2x4", 8),
        ("V6E-256", "v6e:16x16", 256),
        ("v5p:4x4x8", "v5p:4x4x8", 128),
        ("v5e:4x8", "v5e:4x8", 32),
        ("cpu:8", "cpu:8", 8),
    ],
)
def test_names(name, arrangement, chips):
    found = topology.parse(name)
    assert (found.arrangement, found.chips) == (arrangement, chips)
    assert topology.parse(name, 2).chips == 2 * chips


def test_every_marketing_name_leads_to_its_chips_and_back():
    assert len(topology.SOLD) == 39
    for name in topology.SOLD:
        found = topology.parse(name)
        count = int(name.split("-")[1])
        assert found.chips == (count // 2 if found.kind in ("v4", "v5p") else count)
        assert found.sold_as == name
    assert "(v5p-128), 2 slices" in str(topology.parse("v5p:4x4x4", 2))
    assert str(topology.parse("v5p:4x4x12")) == "v5p:4x4x12"


@pytest.mark.parametrize(
    "name, message",
    [
        ("v5p-100", r"sold are v5p-8, .*v5p:AxB"),
        ("v7z-8", "no chip 'v7z'"),
        ("v5p:4x4", "torus of 3 dimensions, for example 4x4x4"),
        ("v5e:4x4x4", "torus of 2 dimensions"),
        ("v5p", "for example v5p-128"),
        ("cpu:0", "no chip 'cpu'"),
    ],
)
def test_wrong_names(name, message):
    with pytest.raises(VtjaxError, match=message):
        topology.parse(name)
    with pytest.raises(VtjaxError, match="at least 1"):
        topology.parse("v5e-16", 0)


def test_the_next_larger_slice():
    place, sizes = topology.parse("v5e-16"), []
    while place is not None:
        sizes.append(place.chips)
        place = topology.larger(place)
    assert sizes == [16, 32, 64, 128, 256]
    assert topology.larger(topology.parse("v5p:4x4x12")).shape == (4, 8, 8)
    assert math.prod(topology.larger(topology.parse("cpu:4")).shape) == 8
