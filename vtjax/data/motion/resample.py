"""Joints at any frame rate to 20 frames per second."""

from __future__ import annotations

import numpy as np

from vtjax.data.motion.clip import FPS
from vtjax.errors import VtjaxError


def frame_count(frames: int, fps: float, target: float = FPS) -> int:
    """Frames at `target` within the time spanned by `frames` at `fps`; both start at time 0."""
    return int(np.floor((frames - 1) / fps * target + 1e-6)) + 1 if frames else 0


def resample(joints: np.ndarray, fps: float, target: float = FPS) -> np.ndarray:
    """joints [T, J, 3] at `fps` -> float32 [T', J, 3] at `target`, linear in time between neighbouring frames.

    Positions are interpolated, so bones shrink a little between two far apart poses; features put them back to the
    reference length. Raises VtjaxError on a frame rate that is not positive.
    """
    if not (np.isfinite(fps) and fps > 0 and target > 0):
        raise VtjaxError(f"frame rates must be positive, got {fps} resampled to {target}")
    joints = np.asarray(joints)
    if fps == target or len(joints) < 2:
        return joints.astype(np.float32)
    position = np.arange(frame_count(len(joints), fps, target)) * (fps / target)
    left = np.minimum(position.astype(np.int64), len(joints) - 2)
    weight = np.clip(position - left, 0.0, 1.0)[:, None, None]
    source = joints.astype(np.float64)
    return ((1 - weight) * source[left] + weight * source[left + 1]).astype(np.float32)
