"""Fixed positional encodings."""

from __future__ import annotations

import numpy as np

from vtjax.errors import VtjaxError


def sinusoidal(length: int, width: int) -> np.ndarray:
    """Interleaved sines and cosines (Vaswani et al., 2017, section 3.5), float32 [length, width].

    table[p, 2i] = sin(p / 10000^(2i/width)), table[p, 2i+1] = cos(the same). Computed in float64: in float32 the
    angle alone would be off by 1e-5 from position 200 on.

    Raises:
      VtjaxError: odd width.
    """
    if width % 2:
        raise VtjaxError(f"sinusoidal positions need an even width, got {width}")
    angles = np.arange(length)[:, None] * 10000.0 ** (-np.arange(0, width, 2) / width)[None, :]
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, width).astype(np.float32)
