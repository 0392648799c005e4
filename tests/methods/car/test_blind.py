import itertools
import math

import numpy as np
import pytest
import scipy.optimize

from vtjax.errors import VtjaxError
from vtjax.methods.car import blind
from vtjax.methods.car import order_test as car
from vtjax.methods.car.orders import OrderItem, choose_orders, wrong_orders

ACTIONS = ["walks forward", "sits down", "waves", "jumps", "kicks", "turns left"]


def world(count, seed, hint=""):
    """Every order equally likely; with a hint, its word marks the last event."""
    rng = np.random.default_rng(seed)
    items = []
    for i in range(count):
        chosen = [ACTIONS[j] for j in rng.permutation(6)[: rng.integers(2, 4)]]
        chosen[-1] += hint
        items.append(OrderItem(f"{seed}-{i}", tuple(f"A person {a}." for a in chosen), i))
    return items


def score(scorer, items):
    return car.score_blind(items, scorer.scores, choose_orders(items), scorer.name).result()


def test_ngram_probability_by_hand():
    prior = blind.NGramPrior.fit(["a b", "a c"], n=2, k=0.5)
    assert prior.vocabulary == 6  # a b c <s> </s> and the unknown word
    # tokens predicted: a, b, </s>, a, c, </s>
    unigram = {"a": 2.5 / 9, "b": 1.5 / 9, "</s>": 2.5 / 9}
    bigram = {("<s>", "a"): 2.5 / 5, ("a", "b"): 1.5 / 5, ("b", "</s>"): 1.5 / 4}
    expected = sum(math.log((unigram[pair[1]] + p) / 2) for pair, p in bigram.items())
    assert prior.score(["a", "b"]) == pytest.approx(expected)


def test_ngram_probabilities_of_the_next_word_sum_to_one():
    prior = blind.NGramPrior.fit(["a b a c", "b c"], n=3, k=0.1)
    words = ["a", "b", "c", "</s>", "<s>", "?"]
    for context in (["a"], ["a", "b"], ["zzz"]):
        total = 0.0
        for word in words:
            probability = 0.0
            for length in (1, 2, 3):
                gram = tuple((["<s>", "<s>", *context] + [word])[-length:])
                seen = prior.contexts[length - 1][gram[:-1]]
                probability += (prior.counts[length - 1][gram] + 0.1) / (seen + 0.1 * prior.vocabulary) / 3
            total += probability
        assert total == pytest.approx(1)


def test_order_features_change_sign_with_the_direction():
    events = ["he walks", "he sits", "he waves"]
    forward, backward = blind.order_features(events), blind.order_features(events[::-1])
    assert forward.keys() == backward.keys()
    assert all(forward[key] == -backward[key] for key in forward)
    assert forward["before", "sits", "walks"] == -1 and forward["before", "sits", "waves"] == 1
    assert ("next", "walks", "waves") not in forward and forward["place", "he"] == 0


def test_pairwise_weights_are_at_the_optimum():
    """Wherever the fitted weights move, the loss written out as a loop does not fall."""
    items = world(12, 0, " again")
    items = [OrderItem(i.key, i.events[:2], i.row) for i in items]  # one wrong order each
    _, prior = blind.PairwisePrior.fit(items, (1.0, 0.05))

    def loss(weights):
        total = 0.0
        for it in items:
            margin = 0.0
            for sign, events in ((1, it.events), (-1, it.events[::-1])):
                for key, value in blind.order_features(events).items():
                    margin += sign * value * weights[prior.index[key]] if key in prior.index else 0.0
            total += math.log(1 + math.exp(-margin)) / len(items)
        return total + 0.025 * sum(w * w for w in weights)

    best, rng = loss(prior.weights), np.random.default_rng(1)
    assert best < loss(0 * prior.weights) - 0.1
    for scale in (0.01, 0.1):
        assert all(loss(prior.weights + scale * rng.normal(size=len(prior.weights))) > best for _ in range(5))


@pytest.mark.parametrize("penalty", [1e-1, 2e-3])
def test_newton_finds_the_optimum_that_another_optimizer_finds(penalty):
    gaps = blind.order_gaps(world(30, 7, " again") + world(30, 8))
    (prior,) = blind.PairwisePrior.fit_on(gaps, (penalty,))
    dense = np.zeros((len(gaps), len(prior.index)))
    for row, gap in enumerate(gaps):
        for key, value in gap.items():
            dense[row, prior.index[key]] = value

    def objective(w):
        margin = dense @ w
        slope = -1 / (1 + np.exp(margin)) / len(margin)
        return np.log1p(np.exp(-margin)).mean() + penalty / 2 * (w @ w), dense.T @ slope + penalty * w

    options = {"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-9}
    other = scipy.optimize.minimize(objective, np.zeros(dense.shape[1]), method="L-BFGS-B", jac=True, options=options)
    assert np.abs(objective(prior.weights)[1]).max() < 1e-6
    assert objective(prior.weights)[0] <= other.fun + 1e-9
    np.testing.assert_allclose(prior.weights, other.x, atol=1e-3)


def test_gaps_are_differences_of_features():
    items = [OrderItem("k", ("he walks", "he sits", "he walks", "he waves again"), 0)]
    gaps = blind.order_gaps(items, per_item=100)
    true, expected = blind.order_features(items[0].events), []
    for order in wrong_orders(items[0]):
        wrong = blind.order_features([items[0].events[i] for i in order])
        gap = {key: true.get(key, 0.0) - wrong.get(key, 0.0) for key in true.keys() | wrong.keys()}
        expected.append({key: pytest.approx(value) for key, value in gap.items() if abs(value) > 1e-12})
    assert len(gaps) == len(expected) == 11
    assert all(any(gap == other for other in expected) for gap in gaps)


def test_the_kept_prior_is_fitted_on_every_item():
    items = world(200, 2, " again")
    scorer = blind.fit_blind(items)
    assert scorer.name.startswith("pairwise")
    (whole,) = blind.PairwisePrior.fit(items, (blind._PENALTIES[scorer.name],), per_item=10)
    assert scorer.prior.index.keys() == whole.index.keys()


def test_balanced_world_leaves_text_at_chance():
    result = score(blind.fit_blind(world(300, 0)), world(300, 1))
    assert result.interval["CAR"][0] < 50 + 3 and result.metrics["CAR"] < 58


def test_a_telling_word_is_found():
    scorer = blind.fit_blind(world(200, 2, " again"))
    assert score(scorer, world(200, 3, " again")).metrics["CAR"] > 95
    assert set(scorer.held_out) >= {"bigram", "trigram", "pairwise"} and scorer.held_out[scorer.name] > 95


def test_a_script_is_found_by_both_kinds():
    def scripted(count, seed):
        rng = np.random.default_rng(seed)
        picks = [sorted(rng.permutation(6)[: rng.integers(2, 5)]) for _ in range(count)]
        events = [tuple(f"A person {ACTIONS[j]}." for j in pick) for pick in picks]
        return [OrderItem(f"{seed}-{i}", own, i) for i, own in enumerate(events)]

    train, test = scripted(200, 4), scripted(200, 5)
    scorer = blind.fit_blind(train)
    assert score(scorer, test).metrics["CAR"] > 95
    trigram = blind.BlindScorer("trigram", blind.NGramPrior.fit([i.text() for i in train]), {})
    assert score(trigram, test).metrics["CAR"] > 65  # "A person" hides all but the last words of the event before


def test_long_items_and_unknown_words():
    events = tuple(f"step {w}" for w in "abcdefg")
    items = [OrderItem(str(i), events, i) for i in range(12)]
    (prior,) = blind.PairwisePrior.fit(items)
    assert prior.score(events) > max(prior.score(o) for o in itertools.islice(itertools.permutations(events), 1, 50))
    assert prior.score(("zebra", "yak")) == 0


def test_too_few_training_items():
    with pytest.raises(VtjaxError, match="10 or more"):
        blind.fit_blind(world(9, 0))
