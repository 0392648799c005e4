import itertools

import numpy as np
import pytest

from vtjax.errors import VtjaxError
from vtjax.methods.car import order_test as car
from vtjax.methods.car.orders import OrderItem, choose_orders

WORDS = ["walk.", "sit.", "wave.", "jump.", "turn.", "kick."]


def make_items(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [
        OrderItem(f"{i:06d}", tuple(WORDS[j] for j in rng.permutation(6)[:size]), i, f"caption {i}")
        for i, size in enumerate(sizes)
    ]


def embed(texts):
    """A fixed random direction per text."""
    return np.stack([np.random.default_rng(list(text.encode())).normal(size=8) for text in texts]).astype(np.float32)


def cos(a, b):
    a, b = np.asarray(a, float), np.asarray(b, float)
    return sum(x * y for x, y in zip(a, b)) / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5


def test_accuracy_is_strict():
    result = car.accuracy([0.3, 0.5, 0.2, 0.9], [0.1, 0.5, 0.4, 0.8], "car/x")
    assert result.metrics == {"CAR": 50.0} and result.items == 4 and result.chance == {"CAR": 50.0}
    assert "1 ties counted as wrong; counted as half, CAR is 62.50" in result.notes[0]
    assert result.interval["CAR"][0] < 50 < result.interval["CAR"][1]


@pytest.mark.parametrize("positive", ["events", "caption"])
def test_two_way_car_against_a_loop(positive):
    items = make_items([2, 3, 4, 2, 3] * 4)
    motions = np.random.default_rng(1).normal(size=(20, 8))
    orders = choose_orders(items)
    scores = car.score_orders(items[3:], motions, embed, orders, positive)
    right = 0
    for it, true, wrong in zip(items[3:], scores.true, scores.wrong):
        text = " ".join(it.events) if positive == "events" else it.caption
        other = " ".join(it.events[i] for i in orders[it.key])
        assert true == pytest.approx(cos(motions[it.row], embed([text])[0]))
        assert wrong == pytest.approx(cos(motions[it.row], embed([other])[0]))
        right += true > wrong
    assert scores.result().metrics["CAR"] == pytest.approx(100 * right / 17)
    mode = {"events": "event-to-event", "caption": "original-to-event"}[positive]
    assert scores.result().protocol == f"car/2-way/{mode}"


def test_an_order_blind_model_ties_everywhere_and_scores_zero():
    items = make_items([2, 3, 4] * 5)
    motions = np.random.default_rng(2).normal(size=(15, 8)).astype(np.float32)

    def bag(texts):  # summed in one order whatever the text's: bitwise equal for every shuffle
        return np.stack([embed(sorted(text.split())).sum(axis=0) for text in texts])

    result = car.score_orders(items, motions, bag, choose_orders(items)).result()
    assert result.metrics["CAR"] == 0
    assert "15 ties counted as wrong; counted as half, CAR is 50.00" in result.notes[0]
    assert car.exact_car(items, motions, bag)[0].metrics["CAR"] == 0


def test_exact_car_against_a_loop():
    sizes = [2, 3, 4, 3, 2, 4, 3, 6]
    items = make_items(sizes)
    motions = np.random.default_rng(3).normal(size=(8, 8))
    results = {r.protocol: r for r in car.exact_car(items, motions, embed, cap=4)}
    share, first, strata = {}, {}, {}
    for it in items[:7]:
        true = cos(motions[it.row], embed([" ".join(it.events)])[0])
        wins, by = [], {}
        for order in itertools.permutations(range(len(it.events))):
            if list(order) == sorted(order):
                continue
            score = cos(motions[it.row], embed([" ".join(it.events[i] for i in order)])[0])
            wins.append(true > score)
            out_of_order = sum(a > b for a, b in itertools.combinations(order, 2))
            third = 3 * out_of_order / (len(order) * (len(order) - 1) / 2)
            name = "a third or less" if third <= 1 else "a third to two thirds" if third <= 2 else "over two thirds"
            by.setdefault(name, []).append(wins[-1])
        share.setdefault(len(it.events), []).append(np.mean(wins))
        first.setdefault(len(it.events), []).append(all(wins))
        if len(it.events) > 2:
            for name, won in by.items():
                strata.setdefault(name, []).append(np.mean(won))
    everything = results["car/all orders/any number of events"]
    assert everything.metrics["CAR"] == pytest.approx(100 * np.mean(sum(share.values(), [])))
    assert everything.metrics["first"] == pytest.approx(100 * np.mean(sum(first.values(), [])))
    assert everything.notes[1] == "1 items of more than 4 events are left out"
    for size in (2, 3, 4):
        bucket = results[f"car/all orders/{size} events"]
        assert bucket.items == len(share[size])
        assert bucket.metrics["CAR"] == pytest.approx(100 * np.mean(share[size]))
        assert bucket.metrics["first"] == pytest.approx(100 * np.mean(first[size]))
        assert bucket.chance["first"] == pytest.approx(100 / [0, 0, 2, 6, 24][size])
    assert len(strata) == 3
    for name, values in strata.items():
        stratum = results[f"car/all orders/{name} of pairs out of order"]
        assert stratum.metrics["CAR"] == pytest.approx(100 * np.mean(values)) and stratum.items == len(values)
    assert len(results) == 7


def test_two_event_items_have_one_wrong_order_so_both_tests_agree():
    items = make_items([2] * 30)
    motions = np.random.default_rng(4).normal(size=(30, 8))
    two_way = car.score_orders(items, motions, embed, choose_orders(items)).result()
    assert car.exact_car(items, motions, embed)[0].metrics["CAR"] == two_way.metrics["CAR"]


def test_motion_side():
    rng = np.random.default_rng(5)
    texts, true, swapped = rng.normal(size=(3, 25, 8))
    expected = 100 * np.mean([cos(t, a) > cos(t, b) for t, a, b in zip(texts, true, swapped)])
    assert car.motion_car(texts, true, swapped).metrics["CAR"] == pytest.approx(expected)
    assert car.motion_car(texts, true, true).metrics["CAR"] == 0


def test_blind_control_sees_the_same_orders():
    items = [OrderItem(f"{i}", tuple(WORDS[: 2 + i % 3]), i) for i in range(20)]
    orders = choose_orders(items)

    def told_so(sequences):  # knows the script
        return np.array([-sum(WORDS.index(w) > WORDS.index(v) for w, v in zip(s, s[1:])) for s in sequences])

    told = car.score_blind(items, told_so, orders, "oracle")
    assert told.result().metrics["CAR"] == 100 and told.result().protocol == "car/blind/oracle"
    assert told.result().interval["CAR"][0] < 90  # 20 of 20 is not certainty
    guess = car.score_blind(items, lambda seqs: np.zeros(len(seqs)), orders)
    assert guess.result().metrics["CAR"] == 0
    gap = car.compare(told, guess)
    assert gap.difference == 100 and gap.p_value < 0.01
    other = car.score_blind(items, lambda seqs: np.zeros(len(seqs)), choose_orders(items, seed=9))
    with pytest.raises(VtjaxError, match="same items"):
        car.compare(told, other)


def test_wrong_inputs():
    items = make_items([2, 3])
    motions, orders = np.ones((2, 8)), choose_orders(items)
    for match, call in [
        ("no item", lambda: car.score_orders([], motions, embed, {})),
        ('"events" or "caption"', lambda: car.score_orders(items, motions, embed, orders, "both")),
        ("has no caption", lambda: car.score_orders([OrderItem("a", ("x", "y"), 0)], motions, embed, {}, "caption")),
        ("zero or not finite", lambda: car.score_orders(items, 0 * motions, embed, orders)),
        ("must give", lambda: car.score_orders(items, motions, lambda t: np.ones((1, 8)), orders)),
        ("one shape", lambda: car.cosine(np.ones((2, 3)), np.ones((2, 4)))),
        ("finite", lambda: car.accuracy([np.nan], [0.0], "car/x")),
        ("no item", lambda: car.accuracy([], [], "car/x")),
        ("one number each", lambda: car.score_blind(items, lambda s: 0.0, orders)),
    ]:
        with pytest.raises(VtjaxError, match=match):
            call()
