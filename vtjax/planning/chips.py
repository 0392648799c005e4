"""What one TPU chip can do, as its maker publishes it (Google Cloud's system architecture pages, read in 2026).

Peak figures; a program reaches a share of them. Bandwidths are per direction.
"""

from __future__ import annotations

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """flops: bfloat16 matrix products, operations/s. hbm: bytes; hbm_bandwidth: bytes/s.

    ici: bytes/s of one link to one neighbour; torus: its dimensions. wraps: an axis is closed to a ring where its
    length is a multiple of this. dcn: bytes/s of one chip's share of its host's network card, for slices to talk over.
    """

    name: str
    flops: float
    hbm: int
    hbm_bandwidth: float
    ici: float
    torus: int
    wraps: int
    dcn: float


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 32 * GIB, 1.228e12, 50e9, 3, 4, 6.25e9),
        Chip("v5e", 197e12, 16 * GIB, 0.819e12, 50e9, 2, 16, 3.125e9),
        Chip("v5p", 459e12, 95 * GIB, 2.765e12, 100e9, 3, 4, 6.25e9),
        Chip("v6e", 918e12, 32 * GIB, 1.638e12, 112e9, 2, 16, 12.5e9),
    )
}
