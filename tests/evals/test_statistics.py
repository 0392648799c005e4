import numpy as np
import pytest
import scipy.stats

from vtjax.errors import VtjaxError
from vtjax.evals import statistics as S


def test_weighted_statistics_are_those_of_the_repeated_values():
    rng = np.random.default_rng(0)
    values, weights = rng.integers(0, 5, 9).astype(float), rng.integers(0, 4, (20, 9)).astype(float)
    table = rng.normal(size=(9, 3))
    for row, mean, median in zip(weights, S.weighted_mean(table, weights), S.weighted_median(values, weights)):
        repeats = row.astype(int)
        assert median == np.median(np.repeat(values, repeats))
        np.testing.assert_allclose(mean, np.repeat(table, repeats, axis=0).mean(axis=0))


def test_bootstrap_agrees_with_a_loop_and_with_theory():
    rng = np.random.default_rng(1)
    values = rng.normal(size=200)
    low, high = S.bootstrap_interval(values, resamples=4000)
    draws = [values[rng.integers(200, size=200)].mean() for _ in range(4000)]
    np.testing.assert_allclose([low, high], np.quantile(draws, [0.025, 0.975]), atol=0.012)
    half = 1.96 * values.std() / np.sqrt(200)
    assert (high - low) / 2 == pytest.approx(half, rel=0.06)


def test_bootstrap_is_seeded_and_independent_of_chunks(monkeypatch):
    values = np.arange(30.0)
    whole = S.bootstrap_interval(values, resamples=100, seed=3)
    np.testing.assert_array_equal(whole, S.bootstrap_interval(values, resamples=100, seed=3))
    assert not np.array_equal(whole, S.bootstrap_interval(values, resamples=100, seed=4))
    monkeypatch.setattr(S, "_CHUNK", 300)
    np.testing.assert_array_equal(whole, S.bootstrap_interval(values, resamples=100, seed=3))


def test_doubled_items_in_clusters_give_the_interval_of_single_ones():
    values = np.random.default_rng(2).normal(size=150)
    single = S.bootstrap_interval(values, seed=5)
    doubled = S.bootstrap_interval(np.repeat(values, 2), groups=np.repeat(np.arange(150), 2), seed=5)
    np.testing.assert_allclose(doubled, single)
    naive = S.bootstrap_interval(np.repeat(values, 2), seed=5)
    assert (naive[1] - naive[0]) / (single[1] - single[0]) == pytest.approx(1 / np.sqrt(2), rel=0.1)


def test_clusters_of_unequal_size():
    """One cluster of 1 item worth 0 and one of 3 worth 1: a replicate is 0, 3/4 or 1 with probability 1/4, 1/2, 1/4."""
    draws = np.concatenate(
        [S.weighted_mean(np.array([0.0, 1, 1, 1]), w) for w in S._replicate_weights(np.array([0, 1, 1, 1]), 8000, 0)]
    )
    found, counts = np.unique(draws, return_counts=True)
    np.testing.assert_array_equal(found, [0, 0.75, 1])
    np.testing.assert_allclose(counts / 8000, [0.25, 0.5, 0.25], atol=0.02)


def test_mirror_groups():
    keys = ["000021", "M000021", "Mary", "M000007", "jump", "Mjump"]
    groups = S.mirror_groups(keys)
    assert groups[0] == groups[1] and groups[4] == groups[5]
    assert len(set(groups)) == 4
    assert S.mirror_groups(["ary", "Mary"])[0] == S.mirror_groups(["ary", "Mary"])[1]


def test_paired_bootstrap():
    rng = np.random.default_rng(3)
    second = rng.normal(size=400)
    first = second + 0.1 + 0.01 * rng.normal(size=400)  # a small gain that the spread between items would hide
    paired = S.paired_bootstrap(first, second)
    assert paired.difference == pytest.approx(0.1, abs=0.01)
    assert paired.low < paired.difference < paired.high and paired.high - paired.low < 0.005
    assert paired.p_value < 0.002
    assert S.paired_bootstrap(second, second).p_value == 1
    sign = S.paired_bootstrap(second, first)
    np.testing.assert_allclose([sign.low, sign.high], [-paired.high, -paired.low], atol=1e-12)


@pytest.mark.parametrize("successes, total", [(0, 12), (12, 12), (5, 12), (2100, 2331)])
def test_wilson_against_scipy(successes, total):
    expected = scipy.stats.binomtest(successes, total).proportion_ci(method="wilson")
    np.testing.assert_allclose(S.wilson_interval(successes, total), (expected.low, expected.high), atol=1e-12)


def test_rate_interval_stays_honest_when_everything_succeeds():
    low, high = S.rate_interval(np.ones(40), groups=np.repeat(np.arange(20), 2))
    assert high == 100
    assert low == pytest.approx(100 * scipy.stats.binomtest(20, 20).proportion_ci(method="wilson").low)


def test_wrong_inputs():
    for call in (
        lambda: S.bootstrap_interval(np.zeros(0)),
        lambda: S.bootstrap_interval(np.zeros(3), groups=np.zeros(2)),
        lambda: S.paired_bootstrap(np.zeros(3), np.zeros(2)),
        lambda: S.wilson_interval(3, 2),
    ):
        with pytest.raises(VtjaxError):
            call()
