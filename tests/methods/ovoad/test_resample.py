"""The grid of steps from sources of any rate, against the rule for whole files."""

import numpy as np
import pytest
from videos import fixed_rate_indices

from vtjax.data.video.sampling import rate_grid
from vtjax.data.video.timed import nearest_in
from vtjax.errors import VtjaxError
from vtjax.methods.ovoad.resample import Resampler


class Whole:
    """A file's frame times, as the samplers take them."""

    def __init__(self, times, end):
        self.times, self.start, self.end = np.asarray(times, float), 0.0, float(end)

    def __len__(self):
        return len(self.times)

    def index_near(self, wanted):
        return nearest_in(self.times, wanted)


def played(times, end=None, fps=None, rate=4.0, start=0.0):
    """(step times, indices taken, number of frames that had come when each step was ready)."""
    resampler, found = Resampler(rate, fps, start), []
    for i, time in enumerate(times):
        found += [(t.time, t.item, i + 1) for t in resampler.push(i, None if fps else time)]
    found += [(t.time, t.item, len(times)) for t in resampler.finish(end)]
    return tuple(np.array(column) for column in zip(*found))


@pytest.mark.parametrize("fps", [1.5, 3.0, 4.0, 5.0, 23.976, 25.0, 29.97, 59.94])
def test_every_rate_as_the_whole_file(fps):
    times = np.arange(97) / fps
    whole = Whole(times, 97 / fps)
    grid, picks = rate_grid(whole, 4.0)
    found, taken, _ = played(times, grid[-1] + 0.125)
    np.testing.assert_allclose(found, grid)
    np.testing.assert_array_equal(taken, picks)
    if fps not in (1.5, 3.0, 4.0, 5.0):  # where no two frames are equally near, it is the sheet's rounding
        np.testing.assert_array_equal(taken, fixed_rate_indices(97, fps, 4.0)[: len(taken)])


def test_irregular_times_as_the_whole_file():
    for seed in range(8):
        rng = np.random.default_rng(seed)
        times = np.cumsum(rng.choice([0.01, 0.04, 0.3, 0.9], 60))
        times -= times[0]
        whole = Whole(times, times[-1] + 0.04)
        grid, picks = rate_grid(whole, 4.0)
        found, taken, _ = played(times, grid[-1] + 0.125)
        np.testing.assert_allclose(found, grid)
        np.testing.assert_array_equal(taken, picks)


def test_a_step_is_ready_with_the_first_frame_at_or_after_its_time():
    times = np.arange(50) / 25
    found, taken, came = played(times)
    assert ((times[came[:-1] - 1] >= found[:-1] - 1e-9) & (times[came[:-1] - 2] < found[:-1])).all()
    assert (np.abs(times[taken] - found) <= 0.02 + 1e-9).all()


def test_a_source_at_the_models_rate_is_taken_as_it_comes():
    found, taken, came = played(range(9), fps=4.0)
    np.testing.assert_array_equal(taken, range(9))
    np.testing.assert_array_equal(came, range(1, 10))
    np.testing.assert_allclose(found, (np.arange(9) + 0.5) / 4)


def test_fps_stands_for_times():
    by_fps = played(range(40), fps=10.0)
    by_time = played(np.arange(40) / 10)
    for a, b in zip(by_fps, by_time):
        np.testing.assert_allclose(a, b)


def test_a_live_source_counts_from_its_first_frame():
    times = 1000.0 + np.arange(30) / 10
    found, taken, _ = played(times, start=None)
    shifted, same, _ = played(times - 1000.0, start=0.0)
    np.testing.assert_allclose(found - 1000.0, shifted)
    np.testing.assert_array_equal(taken, same)


def test_a_long_gap_begins_the_stream_anew():
    resampler = Resampler(4.0)
    ticks = [t for i in range(20) for t in resampler.push(i, i / 10)]
    after = resampler.push(99, 60.0) + resampler.push(100, 60.2)
    assert [t.fresh for t in ticks + after].count(True) == 2
    (fresh,) = [t for t in after if t.fresh]
    assert fresh.time == pytest.approx(60.125) and fresh.item == 100
    assert all(t.item == 19 and t.time < 2.0 for t in after if t.time < 60)


def test_one_frame_gives_one_step():
    resampler = Resampler(4.0, start=0.0)
    assert resampler.push("a", 0.0) == []
    (tick,) = resampler.finish()
    assert tick.item == "a" and tick.fresh
    assert Resampler(4.0).finish() == []


def test_wrong_use():
    with pytest.raises(VtjaxError, match="frame rate is unknown"):
        Resampler(4.0).push(0)
    for bad in (0, -1, float("nan"), float("inf")):
        with pytest.raises(VtjaxError, match="fps="):
            Resampler(4.0, bad)
    resampler = Resampler(4.0)
    resampler.push(0, 2.0)
    with pytest.raises(VtjaxError, match=r"frame 1 is at 1\.500 s, after one at 2\.000 s: times must not go back"):
        resampler.push(1, 1.5)
    with pytest.raises(VtjaxError, match="its time is nan"):
        resampler.push(2, float("nan"))
    assert resampler.push(3, 2.0) == []  # the same time twice is a repeat
