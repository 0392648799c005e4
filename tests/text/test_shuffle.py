import collections
import itertools

import numpy as np
import pytest
import scipy.stats

from vtjax.errors import VtjaxError
from vtjax.text.shuffle import (
    all_orders,
    has_wrong_order,
    inversions,
    is_degenerate,
    ordered_text,
    shuffled_order,
)


def test_ordered_text_has_single_spaces_between_events():
    events = ["A person walks. ", " A person sits."]
    assert ordered_text(events) == "A person walks. A person sits."
    assert ordered_text(events, (1, 0)) == "A person sits. A person walks."
    assert ordered_text([]) == ""


def test_nearest_orders_come_first():
    orders = all_orders(list("abcd"), nearest_first=True)
    assert sorted(orders) == all_orders(list("abcd"))
    assert [inversions(o) for o in orders] == sorted(map(inversions, orders))
    assert inversions((2, 0, 1)) == 2


@pytest.mark.parametrize(
    "events, count",
    [("ab", 1), ("abc", 5), ("abcd", 23), ("aab", 2), ("aabb", 5), ("a", 0), ("", 0), ("aaa", 0), ("abcde", 119)],
)
def test_all_orders_counts_the_distinct_wrong_texts(events, count):
    orders = all_orders(list(events))
    texts = {" ".join(events[i] for i in order) for order in orders}
    assert len(orders) == len(texts) == count
    assert " ".join(events) not in texts
    assert orders == sorted(orders)


def test_events_that_differ_in_case_or_stop_only_are_degenerate():
    for events in (["He hops.", "he  hops"], ["a", "a", "A."]):
        assert is_degenerate(events) and all_orders(events) == []
        assert shuffled_order(len(events), np.random.default_rng(0), distinct_of=events) is None
    for events in ([], ["a"], ["a", "b"], ["He hops.", "He hops twice."]):
        assert not is_degenerate(events)


def test_events_that_join_to_the_same_text_have_no_wrong_order():
    assert all_orders(["a", "a a"]) == []
    assert shuffled_order(2, np.random.default_rng(0), distinct_of=["a", "a a"]) is None


def test_having_a_wrong_order_is_having_one_in_the_list():
    words = ["a", "a a", "b", "A.", "b a"]
    for size in range(1, 5):
        for events in itertools.product(words, repeat=size):
            assert has_wrong_order(events) == bool(all_orders(events)), events
    assert not has_wrong_order([])


def test_too_many_events_to_list():
    with pytest.raises(VtjaxError, match="9 events have 362879 orders"):
        all_orders(list("abcdefghi"))


@pytest.mark.parametrize("events", ["abc", "aab", "abcd", "aabc"])
def test_shuffled_order_is_uniform_over_permutations_that_read_differently(events):
    rng, draws = np.random.default_rng(1), 4000
    counts = collections.Counter(shuffled_order(len(events), rng, distinct_of=list(events)) for _ in range(draws))
    expected = [p for p in itertools.permutations(range(len(events))) if [events[i] for i in p] != list(events)]
    assert set(counts) == set(expected)
    assert scipy.stats.chisquare([counts[p] for p in expected]).pvalue > 1e-3


def test_six_events_are_redrawn_until_they_differ():
    rng = np.random.default_rng(0)
    events = list("aaaaab")
    orders = [shuffled_order(6, rng, distinct_of=events) for _ in range(600)]
    places = collections.Counter("".join(events[i] for i in order).index("b") for order in orders)
    assert set(places) == {0, 1, 2, 3, 4}
    assert scipy.stats.chisquare(list(places.values())).pvalue > 1e-3


def test_no_order_and_two_events_and_same_rng_same_order():
    rng = np.random.default_rng(0)
    assert shuffled_order(1, rng) is None
    assert shuffled_order(0, rng) is None
    assert shuffled_order(3, rng, distinct_of=["x", "x", "x"]) is None
    assert shuffled_order(2, rng) == (1, 0)
    first, second = (shuffled_order(5, np.random.default_rng(7)) for _ in range(2))
    assert first == second != (0, 1, 2, 3, 4)
    with pytest.raises(VtjaxError, match="distinct_of has 2 events"):
        shuffled_order(3, rng, distinct_of=["a", "b"])
