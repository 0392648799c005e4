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


@pytest.fixture
def make():
    """Timelines of four classes, one of them true for a while; changes replace fields."""
    from vtjax.report.timeline import Timeline

    def build(steps=40, names=("background", "cut", "pour <a>", "stir"), seed=0, **changes):
        rng = np.random.default_rng(seed)
        truth = np.zeros((steps, len(names)), int)
        truth[:, 0] = 1
        truth[10:20, 1], truth[10:20, 0] = 1, 0
        fields = dict(
            times=(np.arange(steps) + 0.5) / 4, names=names, scores=rng.random((steps, len(names))), truth=truth,
            groups=np.repeat([0, 1], -(-steps // 2))[:steps], meanings=["cut"] * steps, mask=rng.random(steps),
            pictures=[(0.125, np.full((54, 72, 3), 200, np.uint8)), (6.125, np.zeros((216, 288, 3), np.uint8))],
            held_out=("stir",),
        )  # fmt: skip
        return Timeline(**{**fields, **changes})

    return build
