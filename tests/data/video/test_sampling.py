"""Sampling rules against slow loops written from the sheets, and known numbers."""

import math

import numpy as np
import pytest

from vtjax.data.video import sampling
from vtjax.data.video.sampling import Sampler
from vtjax.errors import VtjaxError


class Fixed:
    """A video of constant rate."""

    def __init__(self, count, fps, start=0.0):
        self.times = start + np.arange(count) / fps
        self.start, self.end, self.fps = start, start + count / fps, fps

    def __len__(self):
        return len(self.times)

    def index_near(self, times):
        return np.array([int(np.argmin(np.abs(self.times - t))) for t in times])


@pytest.mark.parametrize("count", [1, 7, 99, 100, 101, 1234])
def test_uniform_rounds_toward_zero(count):
    slow = [int(i * (count - 1) / 99 + 1e-9) for i in range(100)]
    got = sampling.uniform(count, 100)
    assert got.dtype == np.int64 and got.tolist() == slow
    assert got[0] == 0 and got[-1] == count - 1


def test_uniform_is_numpys_int32_of_linspace():
    for count in range(1, 400, 7):
        assert sampling.uniform(count, 100).tolist() == np.linspace(0, count - 1, 100, dtype=np.int32).tolist()


@pytest.mark.parametrize("count, frames", [(300, 8), (8, 8), (9, 8), (5, 8), (1, 4), (250, 16), (3, 16)])
def test_segments_in_testing_are_the_floored_centres(count, frames):
    slow = [math.floor(i * count / frames + count / (2 * frames)) % count for i in range(frames)]
    assert sampling.segments(count, frames).tolist() == slow


def test_segments_in_training_draw_within_floored_segments():
    count, frames = 83, 8
    drawn = np.stack([sampling.segments(count, frames, np.random.default_rng(seed)) for seed in range(400)])
    size = count // frames
    for segment in range(frames):
        assert set(drawn[:, segment]) == set(range(segment * size, (segment + 1) * size))
    assert drawn.max() == frames * size - 1 < count - 1  # what is left over is never drawn


def test_segments_of_a_short_video_in_training_round():
    slow = [round(i * 5 / 8) % 5 for i in range(8)]  # half to even, as numpy
    assert sampling.segments(5, 8, np.random.default_rng(0)).tolist() == slow
    assert sampling.segments(4, 8, np.random.default_rng(0)).tolist() == [0, 0, 1, 2, 2, 2, 3, 0]


def test_dense_window():
    assert sampling.dense_window(20, 4, 2).tolist() == [6, 8, 10, 12]
    assert sampling.dense_window(3, 5).tolist() == [0, 1, 2, 2, 2]
    assert sampling.inside(3, 5).tolist() == [True, True, True, False, False]
    assert sampling.inside(5, 4, 2).tolist() == [True, True, True, False]
    starts = {int(sampling.dense_window(20, 4, 2, np.random.default_rng(s))[0]) for s in range(300)}
    assert starts == set(range(14))


@pytest.mark.parametrize("fps", [24, 25, 29.97, 30, 60])
def test_fixed_rate_of_ov_oad(fps):
    count = 317
    slow, i = [], 0
    while round((i + 0.5) * 0.25 * fps) < count:  # ovoad.md 1
        slow.append(round((i + 0.5) * 0.25 * fps))
        i += 1
    times, picks = sampling.rate_grid(Fixed(count, fps), 4)
    if fps == 60:  # every second time lies halfway between two frames: the earlier one by time, the even one by index
        assert len(picks) == len(slow) and np.abs(picks - slow).max() == 1
    else:
        assert picks.tolist() == slow
    assert np.allclose(times, (np.arange(len(slow)) + 0.5) / 4)


def test_the_fourth_frame_of_six():
    # LSTR's 24 fps in chunks of 6: the feature is of the 4th frame
    assert sampling.rate_grid(Fixed(60, 24), 4)[1].tolist() == [3, 9, 15, 21, 27, 33, 39, 45, 51, 57]


def test_rate_grid_of_an_excerpt_and_of_one_frame():
    times, picks = sampling.rate_grid(Fixed(20, 10, start=5.0), 4)
    assert times[0] == pytest.approx(5.125) and len(times) == 8 and picks[0] == 1
    times, picks = sampling.rate_grid(Fixed(1, 25), 4)
    assert picks.tolist() == [0]


def test_fixed_rate_times():
    assert sampling.fixed_rate_times(2.0, 2, 0.0).tolist() == [0, 0.5, 1.0, 1.5]
    assert sampling.fixed_rate_times(2.0, 2).tolist() == [0.25, 0.75, 1.25, 1.75]
    assert sampling.fixed_rate_times(0.1, 2).tolist() == [0.25]
    assert len(sampling.fixed_rate_times(0.1 * 3, 10, 0.0)) == 3  # 0.30000000000000004 is three steps


def test_sampler_rules():
    video = Fixed(100, 10)
    assert Sampler("uniform", 5)(video)[0].tolist() == [0, 24, 49, 74, 99]
    assert Sampler("segments", 4)(video)[0].tolist() == [12, 37, 62, 87]
    assert Sampler("dense", 3, stride=10)(video)[0].tolist() == [39, 49, 59]
    picks, mask = Sampler("rate", 4, rate=2)(video)
    assert np.all(np.diff(picks) == 5) and mask.all()
    picks, mask = Sampler("rate", 32, rate=4)(video)
    assert mask.sum() == 40 - 8 and mask.all()
    picks, mask = Sampler("rate", 50, rate=4)(video)
    assert mask.tolist() == [True] * 40 + [False] * 10 and set(picks[40:]) == {picks[39]}
    a, b = (Sampler("segments", 8)(video, np.random.default_rng(3))[0] for _ in range(2))
    assert a.tolist() == b.tolist()


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: sampling.uniform(0, 4), "at least one of each"),
        (lambda: sampling.dense_window(5, 2, 0), "stride 0"),
        (lambda: sampling.fixed_rate_times(0.0, 4), "positive numbers"),
        (lambda: Sampler("segment"), "did you mean 'segments'"),
        (lambda: Sampler(frames=0), "must be positive"),
    ],
)
def test_wrong_settings(call, words):
    with pytest.raises(VtjaxError, match=words):
        call()
