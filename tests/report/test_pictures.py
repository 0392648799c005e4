"""Pictures of a report."""

import io

import numpy as np
from PIL import Image

from vtjax.report.pictures import matrix_png, strip_png


def test_strips_show_every_frame():
    frames = np.zeros((3, 10, 20, 3), np.uint8)
    picture = Image.open(io.BytesIO(strip_png(frames, height=30)))
    assert picture.size == (3 * 60 + 2 * 3, 30)


def test_matrices_are_drawn_with_their_groups():
    table = np.random.default_rng(0).random((4, 6))
    groups = (("x", "x", "y", "y"), ("x", "x", "y", "y", "z", "z"))
    png = matrix_png(table, "abcd", "abcdef", groups=groups, marked=lambda name: name == "b")
    assert png.startswith(b"\x89PNG")
