"""Optimizers and schedules from optax, by configuration."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vtjax.config import Optim
from vtjax.errors import VtjaxError, nearest
from vtjax.sharding.partition import path_name


def make_schedule(config: Optim, steps: int) -> Callable[[Any], Any]:
    """Learning rate by step: linear warm-up to the peak, then constant, cosine or linear to final_ratio of it.

    Raises:
      VtjaxError: unknown schedule.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    rest = max(steps - warmup, 1)
    table = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest, config.final_ratio),
        "linear": lambda: optax.linear_schedule(peak, peak * config.final_ratio, rest),
    }
    if config.schedule not in table:
        raise VtjaxError(f"config.optim.schedule={config.schedule!r}: {nearest(config.schedule, table)}")
    after = table[config.schedule]()
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1)), after], [warmup])


def _scale_by_rates(rates: tuple[str, ...]) -> optax.GradientTransformation:
    """Multiplies updates by the first "regex=multiplier" whose regex matches the parameter's path."""
    table = []
    for rate in rates:
        pattern, _, factor = rate.rpartition("=")
        try:
            table.append((re.compile(pattern), float(factor)))
        except (re.error, ValueError) as error:
            raise VtjaxError(f"config.optim.rates entry {rate!r}: expected regex=multiplier ({error})") from error

    def scale(path, update):
        name = path_name(path)
        return update * next((factor for pattern, factor in table if pattern.search(name)), 1.0)

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(scale, updates))


def make_optimizer(config: Optim, steps: int) -> optax.GradientTransformation:
    """The optax chain of a configuration: clipping, the optimizer, per-path rates.

    Raises:
      VtjaxError: unknown optimizer or a malformed entry of `rates`.
    """
    schedule = make_schedule(config, steps)
    b1, b2 = config.betas
    decay_mask = None
    if config.no_decay:
        pattern = re.compile(config.no_decay)
        decay_mask = lambda params: jax.tree_util.tree_map_with_path(
            lambda path, _: not pattern.search(path_name(path)), params
        )
    dtype = jnp.dtype(config.state_dtype)
    decay = {"weight_decay": config.weight_decay, "mask": decay_mask}
    table = {
        "adamw": lambda: optax.adamw(schedule, b1, b2, config.eps, mu_dtype=dtype, **decay),
        "adam": lambda: optax.adam(schedule, b1, b2, config.eps, mu_dtype=dtype),
        "lion": lambda: optax.lion(schedule, b1, b2, mu_dtype=dtype, **decay),
        "sgd": lambda: optax.sgd(schedule, momentum=b1, accumulator_dtype=dtype),
    }
    if config.name not in table:
        raise VtjaxError(f"config.optim.name={config.name!r}: {nearest(config.name, table)}")
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    parts.append(table[config.name]())
    if config.rates:
        parts.append(_scale_by_rates(config.rates))
    return optax.chain(*parts)
