"""Schedules against their closed forms, optimizers against one line of arithmetic each."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.config import Optim
from vtjax.errors import VtjaxError
from vtjax.sharding.partition import flatten
from vtjax.training.optim import make_optimizer, make_schedule

PARAMS = {"a": {"kernel": np.array([1.0, -2.0], np.float32), "bias": np.float32(0.5)}, "b": {"kernel": np.float32(3.0)}}
GRADS = {"a": {"kernel": np.array([0.1, 4.0], np.float32), "bias": np.float32(-1.0)}, "b": {"kernel": np.float32(2.0)}}
LAST = {
    "constant": lambda t: 1.0,
    "cosine": lambda t: 0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * t)),
    "linear": lambda t: 1 - 0.8 * t,
}


@pytest.mark.parametrize("name", LAST)
@pytest.mark.parametrize("warmup", [0, 1, 5])
def test_schedules_follow_their_formula(name, warmup):
    config = Optim(learning_rate=0.3, schedule=name, warmup_steps=warmup, final_ratio=0.2)
    schedule = make_schedule(config, 25)
    for step in range(25):
        warm = step < warmup
        expected = (step + 1) / warmup if warm else LAST[name]((step - warmup) / (25 - warmup))
        assert float(schedule(step)) == pytest.approx(0.3 * expected, rel=1e-5), step


def updates(steps=1, **fields):
    fields = {"learning_rate": 0.1, "weight_decay": 0.0, **fields}
    tx = make_optimizer(Optim(**fields), 10)
    state = tx.init(PARAMS)
    for _ in range(steps):
        out, state = tx.update(GRADS, state, PARAMS)
    return {k: np.asarray(v) for k, v in flatten(out).items()}, state


def close(got, expected):
    for name, value in flatten(expected).items():
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def tree(function):
    return jax.tree.map(function, PARAMS, GRADS)


def test_first_updates():
    close(updates(name="adam")[0], tree(lambda p, g: -0.1 * np.sign(g)))
    close(updates(name="adamw", weight_decay=0.5)[0], tree(lambda p, g: -0.1 * (np.sign(g) + 0.5 * p)))
    close(updates(name="lion", weight_decay=0.5)[0], tree(lambda p, g: -0.1 * (np.sign(g) + 0.5 * p)))
    close(updates(name="sgd")[0], tree(lambda p, g: -0.1 * g))
    close(updates(3, name="sgd", betas=(0.5, 0.0))[0], tree(lambda p, g: -0.1 * g * 1.75))


def test_decay_spares_what_is_named():
    got, _ = updates(weight_decay=0.5, no_decay=r"bias$|^b/")
    close(got, {"a": {"kernel": -0.1 * (np.sign(GRADS["a"]["kernel"]) + 0.5 * PARAMS["a"]["kernel"]), "bias": 0.1}})
    close(got, {"b": {"kernel": -0.1}})


def test_rates_multiply_the_update_by_the_first_match():
    got, _ = updates(name="sgd", rates=("^a/bias=0", "a/=0.25", "=2"))
    close(got, {"a": {"kernel": -0.025 * GRADS["a"]["kernel"], "bias": 0.0}, "b": {"kernel": -0.4}})


def test_gradients_are_clipped_together():
    norm = math.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(GRADS)))
    close(updates(name="sgd", clip_norm=0.5)[0], tree(lambda p, g: -0.1 * g * 0.5 / norm))
    close(updates(name="sgd", clip_norm=50.0)[0], tree(lambda p, g: -0.1 * g))


def test_the_first_moment_has_the_dtype_asked_for():
    for name in ("adamw", "adam", "lion", "sgd"):
        _, state = updates(name=name, state_dtype="bfloat16")
        dtypes = {k: v.dtype for k, v in flatten(state).items() if v.dtype != jnp.int32}
        first = {v for k, v in dtypes.items() if "/mu/" in k or "/trace/" in k}
        assert first == {jnp.dtype("bfloat16")}, dtypes
        assert {v for k, v in dtypes.items() if "/nu/" in k} <= {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"name": "adamv"}, "config.optim.name='adamv': did you mean 'adam"),
        ({"schedule": "cosin"}, "config.optim.schedule='cosin': did you mean 'cosine'"),
        ({"rates": ("head",)}, "rates entry 'head': expected regex=multiplier"),
        ({"rates": ("(=2",)}, "expected regex=multiplier"),
    ],
)
def test_what_does_not_exist_is_named(fields, message):
    with pytest.raises(VtjaxError, match=message.replace("(", r"\(")):
        make_optimizer(Optim(**fields), 10)
