"""A parser of pages, and a walking figure to draw."""

import numpy as np
import pytest
from page_reader import PageReader


@pytest.fixture
def read_page():
    return PageReader


@pytest.fixture
def walker():
    """float [T, 22, 3]: a standing figure that moves forward (+Z) at 1 m/s, swinging its left wrist forward."""

    def build(frames=41, speed=1.0):
        from vtjax.data.motion.skeleton import REST_DIRECTIONS, TARGET_BONE_LENGTHS, joints_from

        bones = REST_DIRECTIONS * TARGET_BONE_LENGTHS[:, None]
        pose = joints_from(np.zeros(3, np.float32), bones)
        joints = np.repeat((pose - [0, pose[:, 1].min(), 0])[None], frames, axis=0)
        seconds = np.arange(frames) / 20
        joints[:, :, 2] += (speed * seconds)[:, None]
        joints[:, 20, 2] += 0.3 * np.sin(3 * seconds)
        return joints

    return build
