import itertools

import numpy as np
import pytest

from vtjax.errors import VtjaxError
from vtjax.evals import retrieval as R

MOTIONS = ("t2m", "m2t")


def slow_rank(row, value):
    """Sheet 4.2 to the letter: sort the distances, find where the true value stands, average the places."""
    ordered = sorted(-v for v in row)
    places = [place for place, distance in enumerate(ordered) if distance == -value]
    return sum(places) / len(places)


def slow_metrics(ranks):
    ordered, n = sorted(ranks), len(ranks)
    median = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return {**{f"R@{k}": 100 * sum(r < k for r in ranks) / n for k in (1, 2, 3, 5, 10)}, "MedR": median + 1}


def tied_similarity(n=40, m=None, seed=0):
    """Coarse values, so that rows are full of ties."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 12, (n, m or n)) + 4 * np.eye(n, m or n)) / 16


def keys_of(n):
    return [f"{i:06d}" for i in range(n)]


def test_ranks_with_ties(monkeypatch):
    monkeypatch.setattr(R, "_ROWS", 7)  # blocks do not divide the rows
    similarity = tied_similarity()
    expected = [slow_rank(row, row[i]) for i, row in enumerate(similarity)]
    np.testing.assert_array_equal(R.ranks(similarity), expected)
    assert any(rank % 1 for rank in expected)  # the ties do give fractional ranks
    targets = np.random.default_rng(1).permutation(40)
    expected = [slow_rank(row, row[j]) for row, j in zip(similarity, targets)]
    np.testing.assert_array_equal(R.ranks(similarity, targets), expected)


def test_known_ranks():
    assert R.ranks(np.array([[0.5, 0.5, 0.5], [0.9, 0.1, 0.4], [0.1, 0.2, 0.3]])).tolist() == [1.0, 2.0, 0.0]


@pytest.mark.parametrize("direction", ["t2m", "m2t"])
def test_all(direction):
    similarity = tied_similarity()
    result = R.evaluate_all(similarity, keys_of(40), directions=MOTIONS)[MOTIONS.index(direction)]
    table = similarity if direction == "t2m" else similarity.T
    expected = slow_metrics([slow_rank(row, row[i]) for i, row in enumerate(table)])
    assert result.protocol == f"retrieval/all/{direction}" and result.items == 40
    assert result.metrics == {name: round(value, 2) for name, value in expected.items()}
    for name, value in expected.items():
        low, high = result.interval[name]
        assert low <= value <= high and low < high


def test_rounding_is_a_switch():
    similarity = tied_similarity(29)
    exact, rounded = (
        R.evaluate_all(similarity, rounded=switch, directions=MOTIONS)[0].metrics for switch in (False, True)
    )
    assert exact["R@1"] != rounded["R@1"] == round(exact["R@1"], 2)


@pytest.mark.parametrize("direction", ["t2m", "m2t"])
def test_threshold(direction):
    rng = np.random.default_rng(2)
    similarity = tied_similarity(30, seed=3)
    meanings = rng.normal(size=(12, 8))
    sentence = meanings[rng.integers(0, 12, 30)] + 0.08 * rng.normal(size=(30, 8))
    sentence /= np.linalg.norm(sentence, axis=1, keepdims=True)
    result = R.evaluate_threshold(similarity, sentence, directions=MOTIONS)[MOTIONS.index(direction)]
    table = similarity if direction == "t2m" else similarity.T
    expected, answers = [], []
    for i, row in enumerate(table):
        right = [j for j in range(30) if j == i or sentence[i] @ sentence[j] > 0.9]
        answers.append(len(right))
        expected.append(slow_rank(row, max(row[j] for j in right)))
    assert 1 < np.mean(answers) < 10
    assert result.metrics == pytest.approx({k: round(v, 2) for k, v in slow_metrics(expected).items()})
    assert result.chance["R@1"] == pytest.approx(100 * np.mean(answers) / 30)


def test_dissimilar_subset():
    similarity, keys = tied_similarity(), keys_of(40)
    subset = ["000031", "000002", "000017", "000005", "900000"]
    rows = [31, 2, 17, 5]
    expected = slow_metrics([slow_rank([similarity[j, i] for j in rows], similarity[i, i]) for i in rows])
    result = R.evaluate_dissimilar(similarity, keys, subset, directions=MOTIONS)[1]
    assert result.metrics == {name: round(value, 2) for name, value in expected.items()}
    assert result.items == 4 and result.chance["R@2"] == 50 and result.notes == ("1 of 5 listed keys have no item",)


@pytest.mark.parametrize(
    "count, first, blocks",
    [(4384, [2724, 3920, 1646, 775, 4283, 639, 1262, 2699], 137), (786, [449, 85, 613, 310, 299], 24)],
)
def test_small_batches_are_those_of_the_published_protocol(count, first, blocks):
    keys = keys_of(count)
    backwards = keys[::-1]  # the division depends on the sorted ids, not on the order they come in
    found = R.small_batches(backwards)
    assert found.shape == (blocks, 32)
    assert [backwards[row] for row in found.ravel()[: len(first)]] == [keys[row] for row in first]
    assert len(set(found.ravel().tolist())) == blocks * 32


def test_small_batches_average_each_block():
    similarity, keys = tied_similarity(70, seed=4), keys_of(70)
    result = R.evaluate_small_batches(similarity, keys, directions=MOTIONS)[0]
    order = np.arange(70)
    np.random.RandomState(0).shuffle(order)
    per_block = []
    for block in (order[:32], order[32:64]):
        per_block.append(slow_metrics([slow_rank([similarity[i, j] for j in block], similarity[i, i]) for i in block]))
    assert result.metrics == {k: round((per_block[0][k] + per_block[1][k]) / 2, 2) for k in per_block[0]}
    assert result.items == 64 and "2 batches of 32; 6 items" in result.notes[0]
    assert result.chance["R@1"] == 100 / 32 and result.chance["MedR"] == 16.5


def test_distractors():
    similarity, shuffled = tied_similarity(20, seed=5), tied_similarity(20, seed=6)[:8]
    result = R.evaluate_distractors(similarity, shuffled, direction="m2t")
    table = np.concatenate([similarity, shuffled]).T  # 20 motions x 28 texts
    expected = slow_metrics([slow_rank(row, row[i]) for i, row in enumerate(table)])
    assert result.metrics == {name: round(value, 2) for name, value in expected.items()}
    assert result.chance["R@1"] == pytest.approx(100 / 28)


def test_chance_is_the_mean_over_every_order_of_the_gallery():
    gallery = 6
    for answers in (1, 2, 4):
        best = [min(order.index(i) for i in range(answers)) for order in itertools.permutations(range(gallery))]
        chance = R.chance_metrics(gallery, answers)
        for k in (1, 2, 3, 5):
            assert chance[f"R@{k}"] == pytest.approx(100 * np.mean(np.array(best) < k))
        assert chance["MedR"] == 1 + np.median(best)
        assert chance["R@10"] == 100
    mixed = R.chance_metrics(gallery, np.array([1, 4]))
    pooled = [min(o.index(i) for i in range(a)) for a in (1, 4) for o in itertools.permutations(range(gallery))]
    assert mixed["R@2"] == pytest.approx(100 * np.mean(np.array(pooled) < 2))
    assert mixed["MedR"] == 1 + np.median(pooled)
    assert R.chance_metrics(4384)["MedR"] == 2192.5


def test_mirrored_clips_are_one_cluster():
    """A gallery where every clip has its mirror image with the very same rank: twice the items, no more certainty."""
    rng = np.random.default_rng(7)
    half = rng.random((60, 60)) + 0.5 * np.eye(60)
    both = np.kron(np.eye(2), half)
    keys = keys_of(60)
    mirrored = keys + ["M" + key for key in keys]
    result = R.evaluate_all(both, mirrored, directions=MOTIONS)[0]
    assert "60 clusters" in result.notes[0]
    single, naive = R.evaluate_all(half, keys, directions=MOTIONS)[0], R.evaluate_all(both, directions=MOTIONS)[0]
    np.testing.assert_allclose(result.interval["R@1"], single.interval["R@1"], atol=1e-9)
    width = {name: high - low for name, (low, high) in naive.interval.items()}
    assert width["R@1"] < 0.85 * (single.interval["R@1"][1] - single.interval["R@1"][0])


def test_evaluate_retrieval_runs_what_the_inputs_allow():
    similarity, keys = tied_similarity(), keys_of(40)
    names = [r.protocol for r in R.evaluate_retrieval(similarity, keys, directions=MOTIONS)]
    assert names == [f"retrieval/{p}/{d}" for p in ("all", "batches of 32") for d in ("t2m", "m2t")]
    sentence = np.eye(40)
    names = [
        r.protocol
        for r in R.evaluate_retrieval(
            similarity, keys, directions=MOTIONS, sentence=sentence, dissimilar=keys[:9], shuffled=similarity[:3],
            batch=50,
        )
    ]
    assert len(names) == 7 and names[-1] == "retrieval/all with distractors/m2t"


def test_wrong_inputs():
    good, keys = tied_similarity(8), keys_of(8)
    nan = good.copy()
    nan[3, 5] = np.nan
    for match, call in [
        ("row 3, column 5", lambda: R.evaluate_all(nan, directions=MOTIONS)),
        ("texts x items", lambda: R.evaluate_all(good[:5], directions=MOTIONS)),
        ("distinct key", lambda: R.evaluate_all(good, ["a"] * 8, directions=MOTIONS)),
        ("at least 32 items, got 8", lambda: R.evaluate_small_batches(good, keys, directions=MOTIONS)),
        ("length 1", lambda: R.evaluate_threshold(good, 2 * np.eye(8), directions=MOTIONS)),
        ("none of the 1 keys", lambda: R.evaluate_dissimilar(good, keys, ["x"], directions=MOTIONS)),
        ("8 items", lambda: R.evaluate_distractors(good, good[:, :5], direction="m2t")),
        ("answer's position", lambda: R.ranks(good, np.full(8, 9))),
        ("one or more", lambda: R.ranks(good, np.zeros((8, 8), bool))),
    ]:
        with pytest.raises(VtjaxError, match=match):
            call()
