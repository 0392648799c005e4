"""Orders of events for the CAR test: which items qualify, which wrong order each is tested with, saved and loaded."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import random
from collections.abc import Mapping, Sequence

import numpy as np

from vtjax.errors import Problems, VtjaxError
from vtjax.files import write_atomically
from vtjax.text.shuffle import all_orders, inversions, is_degenerate, ordered_text

SEED = 1234
_FORMAT = "vtjax/car-orders/1"


@dataclasses.dataclass(frozen=True)
class OrderItem:
    """A test item with two or more distinct events in chronological order; row: its row in the motion embeddings."""

    key: str
    events: tuple[str, ...]
    row: int
    caption: str = ""

    def text(self, order: Sequence[int] | None = None) -> str:
        """The events as one text, in the given order (None: the true one)."""
        return ordered_text(self.events, order)


def order_items(
    keys: Sequence[str],
    events: Sequence[Sequence[str]],
    captions: Sequence[str] | None = None,
    problems: Problems | None = None,
) -> list[OrderItem]:
    """Items of more than one event; items whose events all say the same have no wrong order and go to `problems`."""
    captions = captions if captions is not None else [""] * len(keys)
    if not len(keys) == len(events) == len(captions):
        raise VtjaxError(f"{len(keys)} keys, {len(events)} event lists and {len(captions)} captions do not pair up")
    if len(set(keys)) != len(keys):
        twice = collections.Counter(keys).most_common(1)[0][0]
        raise VtjaxError(f"the key {twice!r} names two items of the CAR test")
    items = []
    for row, (key, parts, caption) in enumerate(zip(keys, events, captions, strict=True)):
        if len(parts) < 2:
            continue
        if is_degenerate(parts):
            if problems is not None:
                problems.add(key, "all events are the same text, so no order is wrong")
            continue
        items.append(OrderItem(key, tuple(parts), row, caption))
    return items


def wrong_orders(item: OrderItem) -> list[tuple[int, ...]]:
    """Every order whose text differs from the true one, each text once, fewest inversions first."""
    return all_orders(item.events, nearest_first=True)


def kendall_distance(order: Sequence[int]) -> float:
    """Share of pairs in the wrong order: 0 for the true order, 1 for its reverse."""
    return inversions(order) / math.comb(len(order), 2)


def choose_orders(
    items: Sequence[OrderItem], seed: int = SEED, legacy: bool = False
) -> dict[str, tuple[int, ...]]:
    """One wrong order per item, uniform over the orders whose text differs from the true one: key -> order.

    By default each item's draw depends on (seed, key) alone: neither the other items nor their sequence matters.
    legacy: the released code's way (docs/methods/car.md): one `random.Random(seed)` for all items in turn, an order
    from sorting uniform keys, redrawn while it is the true text.
    """
    shared = random.Random(seed)
    orders = {}
    for item in items:
        of_key = int.from_bytes(hashlib.sha256(item.key.encode()).digest()[:8], "big")
        rng = np.random.default_rng([seed, of_key])
        order = tuple(range(len(item.events)))
        while item.text(order) == item.text():
            if legacy:
                draw = [shared.random() for _ in item.events]
                order = tuple(sorted(range(len(draw)), key=draw.__getitem__))
            else:
                order = tuple(int(i) for i in rng.permutation(len(item.events)))
        orders[item.key] = order
    return orders


def _fingerprint(item: OrderItem) -> str:
    return hashlib.sha256("\n".join(item.events).encode()).hexdigest()[:16]


def save_orders(
    path: os.PathLike | str, items: Sequence[OrderItem], orders: Mapping[str, Sequence[int]], seed: int = SEED
) -> None:
    """Writes the chosen orders, with a fingerprint of each item's events, as JSON."""
    record = {item.key: {"order": list(orders[item.key]), "events": _fingerprint(item)} for item in items}
    write_atomically(path, json.dumps({"format": _FORMAT, "seed": seed, "items": record}, indent=1) + "\n")


def load_orders(path: os.PathLike | str, items: Sequence[OrderItem]) -> dict[str, tuple[int, ...]]:
    """Reads the orders of `items` back.

    Raises VtjaxError when the file is missing or not of this kind, an item has no order, its events are not those the
    order was drawn for, or the order is not a wrong order of them.
    """
    path = pathlib.Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != _FORMAT:
            raise ValueError(record["format"])
        saved = {key: (tuple(entry["order"]), entry["events"]) for key, entry in record["items"].items()}
    except OSError as error:
        raise VtjaxError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise VtjaxError(f"{path}: not a file of chosen event orders (format {_FORMAT!r})") from error
    orders = {}
    for item in items:
        if item.key not in saved:
            raise VtjaxError(f"{path}: no order for item {item.key!r}; choose the orders anew for this test set")
        order, fingerprint = saved[item.key]
        if fingerprint != _fingerprint(item):
            raise VtjaxError(f"{path}: the events of item {item.key!r} are not those its order was chosen for")
        if sorted(order) != list(range(len(item.events))) or item.text(order) == item.text():
            raise VtjaxError(f"{path}: {list(order)} is not a wrong order of item {item.key!r}'s events")
        orders[item.key] = order
    return orders
