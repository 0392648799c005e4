"""Sinusoidal positions, entry by entry."""

import math

import numpy as np
import pytest

from vtjax.errors import VtjaxError
from vtjax.nn.positions import sinusoidal


def test_every_entry_is_the_formula():
    table = sinusoidal(230, 6)
    assert table.shape == (230, 6) and table.dtype == np.float32
    for p in (0, 1, 7, 229):
        for i in range(3):
            angle = p / 10000 ** (2 * i / 6)
            assert table[p, 2 * i] == pytest.approx(math.sin(angle), abs=1e-7)
            assert table[p, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-7)


def test_odd_width_is_refused():
    with pytest.raises(VtjaxError, match="even width, got 5"):
        sinusoidal(3, 5)
