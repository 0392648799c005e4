import itertools
import json
import math
import random

import pytest

from vtjax.errors import Problems, VtjaxError
from vtjax.methods.car import orders as O

EVENTS = ["A man walks.", "He sits.", "He waves.", "He jumps."]


def item(*events, key="k"):
    return O.OrderItem(key, events, 0)


def test_items_of_several_distinct_events_only():
    problems = Problems()
    items = O.order_items(
        ["a", "b", "c", "d"], [EVENTS[:1], EVENTS[:3], ["He waves.", "He waves. "], EVENTS[:2]], list("wxyz"), problems
    )
    assert [(i.key, i.row, i.caption) for i in items] == [("b", 1, "x"), ("d", 3, "z")]
    assert [p.where for p in problems.items] == ["c"]
    assert items[0].text() == "A man walks. He sits. He waves."
    assert items[0].text((2, 0, 1)) == "He waves. A man walks. He sits."


@pytest.mark.parametrize("size", [2, 3, 4])
def test_wrong_orders_are_all_but_the_true_one(size):
    found = list(O.wrong_orders(item(*EVENTS[:size])))
    assert sorted([tuple(range(size)), *found]) == sorted(itertools.permutations(range(size)))
    assert [O.inversions(o) for o in found] == sorted(O.inversions(o) for o in found)


def test_repeated_events_give_each_text_once_by_its_nearest_order():
    found = list(O.wrong_orders(item("x", "y", "x")))
    assert len(found) == 2  # xxy and yxx; xyx is the true text
    assert {item("x", "y", "x").text(order): order for order in found} == {"x x y": (0, 2, 1), "y x x": (1, 0, 2)}


def test_kendall_distance():
    assert O.kendall_distance((0, 1, 2)) == 0
    assert O.kendall_distance((2, 1, 0)) == 1
    assert O.kendall_distance((1, 2, 0)) == pytest.approx(2 / 3)  # 1 before 0 and 2 before 0


def test_choice_depends_on_seed_and_key_alone():
    items = [item(*EVENTS, key=f"k{i}") for i in range(60)]
    chosen = O.choose_orders(items)
    assert chosen == {**O.choose_orders(items[::-1])}
    assert O.choose_orders(items[7:8])["k7"] == chosen["k7"]
    assert O.choose_orders(items, seed=1) != chosen
    assert len(set(chosen.values())) > 10


def test_choice_is_uniform_over_wrong_texts():
    items = [item("x", "y", "z", key=f"k{i}") for i in range(3000)]
    counts = {}
    for order in O.choose_orders(items).values():
        counts[order] = counts.get(order, 0) + 1
    assert (0, 1, 2) not in counts and len(counts) == 5
    assert all(abs(n - 600) < 5 * math.sqrt(3000 * 0.2 * 0.8) for n in counts.values())


def test_legacy_choice_follows_one_python_generator():
    lists = [EVENTS[:2], EVENTS, ["x", "y", "x"], EVENTS[:3]] * 5
    rng, expected = random.Random(1234), []
    for events in lists:
        shuffled = events
        while shuffled == events:
            shuffled = sorted(events, key=lambda _: rng.random())
        expected.append(shuffled)
    items = [item(*events, key=f"k{i}") for i, events in enumerate(lists)]
    chosen = O.choose_orders(items, legacy=True)
    assert [[i.events[e] for e in chosen[i.key]] for i in items] == expected


def test_saved_orders_come_back(tmp_path):
    items = [item(*EVENTS[:n], key=f"k{n}") for n in (2, 3, 4)]
    chosen = O.choose_orders(items)
    O.save_orders(tmp_path / "orders.json", items, chosen)
    assert O.load_orders(tmp_path / "orders.json", items[1:]) == {k: chosen[k] for k in ("k3", "k4")}


def test_saved_orders_are_checked(tmp_path):
    path = tmp_path / "orders.json"
    items = [item("x", "y", "z")]
    O.save_orders(path, items, {"k": (1, 0, 2)})
    with pytest.raises(VtjaxError, match="no order for item 'other'"):
        O.load_orders(path, [item("x", "y", key="other")])
    with pytest.raises(VtjaxError, match="events of item 'k'"):
        O.load_orders(path, [item("x", "y", "w")])
    record = json.loads(path.read_text())
    for order in ([0, 1, 2], [0, 0, 1], [1, 0]):
        record["items"]["k"]["order"] = order
        path.write_text(json.dumps(record))
        with pytest.raises(VtjaxError, match="not a wrong order"):
            O.load_orders(path, items)
    for text in ("{", "[]", '{"format": "other", "items": {}}'):
        path.write_text(text)
        with pytest.raises(VtjaxError, match="not a file of chosen event orders"):
            O.load_orders(path, items)
    with pytest.raises(VtjaxError, match="cannot be read"):
        O.load_orders(tmp_path / "absent.json", items)


def test_keys_must_differ():
    with pytest.raises(VtjaxError, match="'b' names two"):
        O.order_items(["a", "b", "b"], [EVENTS] * 3)
    with pytest.raises(VtjaxError, match="do not pair up"):
        O.order_items(["a"], [])
