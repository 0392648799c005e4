"""Stacks of equal layers: one after the other or as a scan, with or without keeping what the backward pass needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from vtjax.arrays import Array
from vtjax.errors import VtjaxError, nearest

_policies = jax.checkpoint_policies
# Rematerialisation: what a layer keeps for the backward pass; the rest of it is computed again. "none": all is kept.
REMAT: dict[str, Callable[..., bool] | None] = {
    "none": None,
    "full": _policies.nothing_saveable,
    "dots": _policies.dots_saveable,
    "dots_no_batch": _policies.dots_with_no_batch_dims_saveable,
}

CHEAPEST_FIRST = ("none", "dots", "dots_no_batch", "full")  # to compute; the last keeps least


def remat_policy(name: str | None) -> Callable[..., bool] | None:
    """The policy of that name; None for "none", "" and None.

    Raises:
      VtjaxError: unknown name.
    """
    name = name or "none"
    if name not in REMAT:
        raise VtjaxError(f"remat={name!r}: {nearest(name, REMAT)}")
    return REMAT[name]


def rematerialised(layer: Any, name: str | None, scanned: bool) -> Any:
    """A module class, or a function of a module, that keeps what the policy `name` says.

    Raises:
      VtjaxError: unknown name.
    """
    policy = remat_policy(name)
    return layer if policy is None else nn.remat(layer, policy=policy, prevent_cse=not scanned)


def run_layers(
    make: Callable[[str], nn.Module],
    count: int,
    call: Callable[[Any, Array], Array],
    x: Array,
    *,
    scan: bool = False,
    remat: str | None = None,
) -> Array:
    """x through `count` layers, for use inside a compact module.

    Args:
      make: (name) -> a layer. call: (layer, x) -> x; what else it needs it closes over.
      scan: compile one layer whatever the depth: one module `layers` with stacked parameters in place of `layer_0`..;
        `vit.stack_layers` and `unstack_layers` turn the parameters of one into those of the other.
      remat: a name of `REMAT`.

    Raises:
      VtjaxError: unknown `remat`.
    """
    body = rematerialised(call, remat, scan)
    if not scan:
        for i in range(count):
            x = body(make(f"layer_{i}"), x)
        return x
    stack = nn.scan(
        lambda layer, x, _: (body(layer, x), None),
        variable_axes={"params": 0, "lora": 0},
        split_rngs={"params": True, "dropout": True},
        length=count,
    )
    return stack(make("layers"), x, None)[0]
