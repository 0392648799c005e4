"""Figures of classification against loops over items."""

import numpy as np
import pytest

from vtjax.errors import VtjaxError
from vtjax.evals import classification as K


def table(count=80, classes=7, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.minimum(rng.geometric(0.4, count) - 1, classes - 2)  # few items in most classes, none in the last
    scores = rng.normal(size=(count, classes)) + 1.2 * np.eye(classes)[labels]
    return scores, labels


def test_top_rates():
    scores, labels = table()
    result = K.top_rates(scores, labels, "zero-shot/x", top=(1, 3, 9), notes=("more",))
    for k in (1, 3, 9):
        hits = [label in sorted(range(7), key=lambda c: -row[c])[:k] for row, label in zip(scores, labels)]
        assert result.metrics[f"top-{k}"] == pytest.approx(100 * np.mean(hits))
        assert result.chance[f"top-{k}"] == pytest.approx(100 * min(k, 7) / 7)
    assert result.items == 80 and result.notes == ("7 to choose from", "more")


def test_ties_share_their_mean_rank():
    result = K.top_rates(np.zeros((2, 4)), np.array([0, 3]), "x", top=(1, 2))
    assert result.metrics == {"top-1": 0, "top-2": 100}


def test_mean_class_accuracy_and_confusion():
    scores, labels = table()
    best = [int(np.argmax(row)) for row in scores]
    per_class = [
        np.mean([best[i] == c for i in range(80) if labels[i] == c]) for c in range(7) if (labels == c).any()
    ]
    result = K.mean_class_accuracy(scores, labels, "zero-shot/x")
    assert result.metrics["mean class"] == pytest.approx(100 * np.mean(per_class))
    assert result.metrics["top-1"] == pytest.approx(100 * np.mean(np.equal(best, labels)))
    assert result.metrics["mean class"] != pytest.approx(result.metrics["top-1"])
    assert result.interval["mean class"][0] < result.metrics["mean class"] < result.interval["mean class"][1]
    counts = [int((labels == c).sum()) for c in range(7)]
    shown = [c for c in counts if c]
    absent = f"{counts.count(0)} classes without an item are not averaged"
    assert result.notes == (f"{len(shown)} classes of {min(shown)} to {max(shown)} items", absent)
    confusion = K.confusion_counts(scores, labels)
    expected = [[sum(labels[i] == a and best[i] == b for i in range(80)) for b in range(7)] for a in range(7)]
    assert confusion.tolist() == expected and confusion.sum(axis=1).tolist() == counts


def test_chance_is_what_random_scores_give():
    rng = np.random.default_rng(1)
    _, labels = table(4000)
    result = K.mean_class_accuracy(rng.normal(size=(4000, 7)), labels, "x")
    assert abs(result.metrics["mean class"] - result.chance["mean class"]) < 4


def test_ties_count_half_and_are_noted():
    result = K.two_way(np.array([1.0, 0.5, 0.5 + 1e-8, 0.1]), np.array([0.0, 0.5, 0.5, 0.2]), "order/x")
    assert result.metrics["accuracy"] == 50 and result.notes == ("2 ties count half",)


def test_scores_of_groups_are_their_best_classes():
    scores, _ = table()
    best, names = K.group_scores(scores, ["pour", "cut", "pour", "cut", "stir", "pour", "cut"])
    assert names == ["pour", "cut", "stir"]
    expected = [[max(r[0], r[2], r[5]), max(r[1], r[3], r[6]), r[4]] for r in scores]
    np.testing.assert_array_equal(best, expected)


def test_labels_that_are_no_class():
    scores, labels = table()
    for wrong in (labels[:3], labels + 6, labels - 1):
        with pytest.raises(VtjaxError, match=r"7 (classes|items)|80 (items|queries)"):
            K.confusion_counts(scores, wrong)
