"""AP and cAP against loops written from the definition, both rules for ties, and replicates made by copying."""

import numpy as np
import pytest

from vtjax.errors import VtjaxError
from vtjax.evals.average_precision import average_precision, class_table, random_average_precision, rank_frames


def slow_rank(scores, truth, calibrated=False):
    """The definition, frame by frame: python's sort is stable, so ties stay in the order given."""
    ordered = [t for _, t in sorted(zip(scores, truth), key=lambda pair: -pair[0])]
    positives = sum(ordered)
    weight = (len(ordered) - positives) / positives if calibrated else 1
    found = wrong = total = 0
    for t in ordered:
        found, wrong = found + t, wrong + (not t)
        if t:
            total += 1.0 if weight * found + wrong == 0 else weight * found / (weight * found + wrong)
    return total / positives


def slow_grouped(scores, truth, calibrated=False):
    """Sum over thresholds of (recall step) x precision, all frames of equal score together."""
    positives = sum(truth)
    weight = (len(truth) - positives) / positives if calibrated else 1
    total = before = 0.0
    for threshold in sorted(set(scores), reverse=True):
        found = sum(t for s, t in zip(scores, truth) if s >= threshold)
        wrong = sum(not t for s, t in zip(scores, truth) if s >= threshold)
        precision = 1.0 if weight * found + wrong == 0 else weight * found / (weight * found + wrong)
        total, before = total + (found - before) / positives * precision, found
    return total


SLOW = {"rank": slow_rank, "grouped": slow_grouped}


def test_vectors_of_the_sheet():
    truth, scores = [1, 0, 0, 1, 0], [0.9, 0.8, 0.7, 0.6, 0.5]
    assert average_precision(scores, truth) == pytest.approx(0.75)
    assert average_precision(scores, truth, calibrated=True) == pytest.approx(0.80)
    truth, scores = [1, 0, 1, 0, 0, 1], [0.9, 0.9, 0.5, 0.5, 0.1, 0.1]
    assert average_precision(scores, truth) == pytest.approx(0.7222, abs=5e-5)
    assert average_precision(scores, truth, ties="grouped") == pytest.approx(0.5)


@pytest.mark.parametrize("ties", ["rank", "grouped"])
@pytest.mark.parametrize("calibrated", [False, True])
def test_against_the_definition_with_and_without_ties(ties, calibrated):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        count = int(rng.integers(5, 60))
        scores = rng.integers(0, 8, count) / 8 if seed % 2 else rng.normal(size=count)
        truth = (rng.random(count) < 0.3).astype(int)
        truth[0] = 1
        found = average_precision(scores, truth, calibrated=calibrated, ties=ties)
        assert found == pytest.approx(SLOW[ties](scores.tolist(), truth.tolist(), calibrated), abs=1e-12)


def test_grouped_ties_do_not_depend_on_the_order_and_rank_ties_do():
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(0, 4, 60) / 4, rng.random(60) < 0.3
    turned = slice(None, None, -1)
    for ties, same in (("grouped", True), ("rank", False)):
        forward = average_precision(scores, truth, ties=ties)
        assert (forward == average_precision(scores[turned], truth[turned], ties=ties)) == same


def test_without_positives_and_without_negatives():
    assert np.isnan(average_precision([0.1, 0.2], [0, 0]))
    assert average_precision([0.1, 0.2], [1, 1]) == average_precision([0.1, 0.2], [1, 1], calibrated=True) == 1


def test_wrong_use():
    with pytest.raises(VtjaxError, match="frame 1 is nan"):
        rank_frames([0.1, float("nan")], [0, 1])
    with pytest.raises(VtjaxError, match="shapes"):
        rank_frames([0.1, 0.2], [0])
    with pytest.raises(VtjaxError, match="did you mean 'grouped'"):
        rank_frames([0.1], [1], ties="groupd")
    with pytest.raises(VtjaxError, match="between 1 and all"):
        random_average_precision(0, 5)


@pytest.mark.parametrize("positives, frames", [(1, 1), (1, 6), (3, 7), (7, 7)])
def test_expected_precision_of_random_scores(positives, frames):
    """Against the mean over every placing of the positives."""
    import itertools

    values = []
    for places in itertools.combinations(range(frames), positives):
        values.append(np.mean([(i + 1) / (place + 1) for i, place in enumerate(places)]))
    assert random_average_precision(positives, frames) == pytest.approx(np.mean(values), abs=1e-12)


@pytest.mark.parametrize("coarse", [False, True])
def test_replicates_are_those_of_copied_frames(coarse):
    """A replicate that draws a video k times is the slow figure of the frames repeated k times (grouped)."""
    rng = np.random.default_rng(3)
    count, videos = 90, 5
    video = np.sort(rng.integers(0, videos, count))
    scores = rng.integers(0, 9, (count, 2)) / 9 if coarse else rng.normal(size=(count, 2))
    truth = (rng.random((count, 2)) < [0.4, 0.05]).astype(int)
    truth[video == 0] = 0
    table = class_table(scores, truth, video, ("a", "b"), ties=("grouped", "grouped"), resamples=25, seed=7)
    draw = np.random.default_rng(7)
    for r in range(25):
        times = np.bincount(draw.integers(videos, size=videos), minlength=videos)
        rows = np.repeat(np.arange(count), times[video])
        for c in range(2):
            own = truth[rows, c].tolist()
            if not sum(own):
                assert np.isnan(table.ap_draws[r, c]) and np.isnan(table.cap_draws[r, c])
                continue
            assert table.ap_draws[r, c] == pytest.approx(slow_grouped(scores[rows, c].tolist(), own), abs=1e-9)
            assert table.cap_draws[r, c] == pytest.approx(slow_grouped(scores[rows, c].tolist(), own, True), abs=1e-9)
    assert table.positives.tolist() == truth.sum(axis=0).tolist() and table.frames == count


def test_the_table_refuses_what_does_not_fit():
    with pytest.raises(VtjaxError, match="one group per frame"):
        class_table(np.zeros((3, 2)), np.zeros((3, 2)), np.zeros(2), ("a", "b"))
    assert np.isnan(class_table(np.zeros((3, 1)), np.zeros((3, 1)), np.zeros(3), ("a",), resamples=3).ap_draws).all()
