"""Wrong orders of a caption's events: the chronological negatives of CAR (arXiv 2407.15408; docs/methods/car.md)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from vtjax.errors import VtjaxError

_ENUMERATED = 5  # up to this many events all orders are listed; beyond it a random order is redrawn until it differs
_MAX_EVENTS = 8  # 8! - 1 = 40,319 orders


def ordered_text(events: Sequence[str], order: Sequence[int] | None = None) -> str:
    """Joins the events, in `order` where it is given, with single spaces between them: the text for a model."""
    return " ".join(events[i].strip() for i in (range(len(events)) if order is None else order)).rstrip()


def is_degenerate(events: Sequence[str]) -> bool:
    """True where there are several events and all say the same, so that no order of them is wrong."""
    return len(events) > 1 and len({" ".join(event.lower().split()).rstrip(".") for event in events}) == 1


def has_wrong_order(events: Sequence[str]) -> bool:
    """Whether some order of the events reads differently: where no two neighbours can be told apart by exchanging them,
    nothing can."""
    places, text = list(range(len(events))), ordered_text(events)
    swaps = ([*places[:i], i + 1, i, *places[i + 2 :]] for i in range(len(events) - 1))
    return not is_degenerate(events) and any(ordered_text(events, swap) != text for swap in swaps)


def inversions(order: Sequence[int]) -> int:
    """Pairs that stand in the wrong order."""
    return sum(a > b for a, b in itertools.combinations(order, 2))


def all_orders(events: Sequence[str], nearest_first: bool = False) -> list[tuple[int, ...]]:
    """Orders of the events whose joined text differs from the original's and from one another's.

    Each order is a tuple of positions in `events`; they come in lexicographic order, or by the number of inversions
    (nearest_first). Of several orders with the same text the first is kept. Empty for one event, and when all events
    are identical. Raises VtjaxError for more than 8 events.
    """
    if len(events) > _MAX_EVENTS:
        raise VtjaxError(
            f"{len(events)} events have {math.factorial(len(events)) - 1} orders: at most {_MAX_EVENTS} events can be "
            "listed; use shuffled_order to draw one"
        )
    if is_degenerate(events):
        return []
    seen = {ordered_text(events)}
    orders = []
    permutations = itertools.permutations(range(len(events)))
    for order in sorted(permutations, key=inversions) if nearest_first else permutations:
        text = ordered_text(events, order)
        if text not in seen:
            seen.add(text)
            orders.append(order)
    return orders


def shuffled_order(
    n: int, rng: np.random.Generator, *, distinct_of: Sequence[str] | None = None
) -> tuple[int, ...] | None:
    """One wrong order of `n` events, uniform over the permutations whose joined text differs from the original's.

    rng: the only source of chance. distinct_of: the n events; without them all events count as different.
    Returns positions of the original events in their new order, e.g. (1, 0); None when no order differs: fewer than
    two events, or all identical (where the released code never returns).
    """
    events = [f"{i}." for i in range(n)] if distinct_of is None else list(distinct_of)
    if len(events) != n:
        raise VtjaxError(f"distinct_of has {len(events)} events: expected n = {n}")
    if n < 2 or is_degenerate(events):
        return None
    original = ordered_text(events)

    def differs(order: Sequence[int]) -> bool:
        return ordered_text(events, order) != original

    if n <= _ENUMERATED:
        orders = [order for order in itertools.permutations(range(n)) if differs(order)]
        return orders[rng.integers(len(orders))] if orders else None
    # Two different events at least: no more than half of all orders can read as the original does.
    for _ in range(200):
        order = tuple(rng.permutation(n).tolist())
        if differs(order):
            return order
    return None
