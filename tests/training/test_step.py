"""The train step against gradients and AdamW written out in numpy, on any split of the batch and any mesh."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from vtjax.config import Mesh
from vtjax.errors import VtjaxError
from vtjax.sharding.mesh import global_batch, make_mesh
from vtjax.sharding.partition import flatten
from vtjax.training.pipeline import train_batches
from vtjax.training.step import Trainer, memory_line, params_of

OPTIM = {"learning_rate": 0.1, "schedule": "linear", "final_ratio": 0.5, "warmup_steps": 2, "weight_decay": 0.3}
STEPS = 3


def mesh_of(*shape):
    return make_mesh(Mesh(*shape), jax.devices()[: int(np.prod(shape))])


def batches(task, steps=STEPS):
    size = task.train.batch_size
    return list(itertools.islice(train_batches(task.source, task.transform, toy.SPEC, seed=1, batch_size=size), steps))


def run(task, shape=(1, 1, 1), steps=STEPS, start=None):
    """(first parameters, last parameters, metrics of each step) in numpy."""
    trainer = Trainer(task, mesh_of(*shape), seed=7)
    state = start(trainer) if start else trainer.init_state()
    first = jax.device_get(params_of(state))
    compiled, history = trainer.lower().compile(), []
    for batch in batches(task, steps):
        state, metrics = compiled(state, global_batch(batch, trainer.batch_sharding))
        history.append(jax.device_get(metrics))
    assert int(state["step"]) == steps
    return first, jax.device_get(params_of(state)), history


def gradients(params, batch):
    """Sum of the weighted squared errors of tanh(x W) v + b, its gradients by hand, and the weight."""
    w, v, b = (params[k].astype(np.float64) for k in ("body/kernel", "head/kernel", "head/bias"))
    hidden = np.tanh(batch["x"] @ w)
    error = hidden @ v + b - batch["y"]
    slope = 2 * batch["weight"] * error
    grads = {
        "body/kernel": batch["x"].T @ (np.outer(slope, v) * (1 - hidden**2)),
        "head/kernel": hidden.T @ slope,
        "head/bias": slope.sum(),
    }
    return np.sum(batch["weight"] * error**2), grads, batch["weight"].sum(dtype=np.float64)


def slow(first, task, spared=(), rates=None):
    """AdamW by its formulas: m, v, bias correction, decoupled decay."""
    params = {k: np.asarray(v, np.float64) for k, v in flatten(first).items()}
    m, v = ({k: 0 * x for k, x in params.items()} for _ in range(2))
    history = []
    for step, batch in enumerate(batches(task)):
        rate = 0.1 * (step + 1) / 2 if step < 2 else 0.1 * (1 - 0.5 * (step - 2) / (task.train.steps - 2))
        total, grads, weight = gradients(params, batch)
        grads = {k: g / weight for k, g in grads.items()}
        history.append((total, weight, np.sqrt(sum(np.sum(g**2) for g in grads.values())), rate))
        for k, g in grads.items():
            m[k] = 0.9 * m[k] + 0.1 * g
            v[k] = 0.999 * v[k] + 0.001 * g * g
            update = m[k] / (1 - 0.9 ** (step + 1)) / (np.sqrt(v[k] / (1 - 0.999 ** (step + 1))) + 1e-8)
            update = update + (0 if k in spared else 0.3 * params[k])
            params[k] = params[k] - rate * (rates or {}).get(k, 1.0) * update
    return params, history


def close(got, expected, **tolerance):
    got = flatten(got)
    assert got.keys() == expected.keys()
    for name in got:
        np.testing.assert_allclose(got[name], expected[name], **{"rtol": 1e-4, "atol": 1e-5, **tolerance}, err_msg=name)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 1)])
def test_agrees_with_numpy_however_the_batch_is_split(accumulate, shape):
    task = toy.make_task(optim=OPTIM, accumulate=accumulate)
    weights = np.stack([b["weight"].reshape(-1, 4).sum(0) for b in batches(task)])
    assert len(np.unique(weights)) > 2, "a mean of means would not be the mean"
    first, last, history = run(task, shape)
    expected, slow_history = slow(first, task)
    close(last, expected)
    for metrics, (total, weight, norm, rate) in zip(history, slow_history, strict=True):
        np.testing.assert_allclose(metrics["loss"], (total, weight), rtol=1e-5)
        assert metrics["error"][1] == 8
        assert metrics["grad_norm"][0] == pytest.approx(norm, rel=1e-4) and metrics["grad_norm"][1] == 1
        assert metrics["learning_rate"][0] == pytest.approx(rate, rel=1e-6)


def test_decay_and_rates_reach_the_parameters_they_name():
    task = toy.make_task(optim={**OPTIM, "no_decay": "bias", "rates": ("^body/=0.1",)})
    first, last, _ = run(task)
    close(last, slow(first, task, spared=("head/bias",), rates={"body/kernel": 0.1})[0])


def test_frozen_leaves_have_no_gradient_and_no_optimizer_state():
    task = toy.make_task(optim=OPTIM, trainable="^head/")
    trainer = Trainer(task, mesh_of(1, 1, 1), seed=7)
    state = trainer.abstract_state
    assert set(flatten(state["trainable"])) == {"head/kernel", "head/bias"} and set(flatten(state["frozen"])) == {"body/kernel"}
    moments = [k for k, leaf in flatten(state["opt_state"]).items() if leaf.dtype == jnp.float32]
    assert len(moments) == 4 and not any("body" in k for k in flatten(state["opt_state"]))
    first, last, history = run(task)
    np.testing.assert_array_equal(last["body"]["kernel"], first["body"]["kernel"])
    assert not np.array_equal(last["head"]["kernel"], first["head"]["kernel"])
    _, grads, weight = gradients(flatten(first), batches(task)[0])
    norm = np.sqrt(np.sum(grads["head/kernel"] ** 2) + grads["head/bias"] ** 2) / weight
    assert history[0]["grad_norm"][0] == pytest.approx(norm, rel=1e-4)
    norms = [jax.device_get(h["param_norm"][0]) for h in history]
    assert norms[0] == pytest.approx(np.sqrt(np.sum(first["head"]["kernel"] ** 2) + first["head"]["bias"] ** 2), rel=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_same_on_any_mesh_with_random_streams_and_all(accumulate):
    task = toy.make_task(optim=OPTIM, noise=0.5, batch_size=16, accumulate=accumulate)
    first, last, history = run(task)
    for shape in ((8, 1, 1), (2, 2, 2)):
        other_first, other, other_history = run(task, shape)
        close(other_first, flatten(first), rtol=0, atol=0)
        close(other, flatten(last), rtol=1e-5, atol=1e-6)
        for a, b in zip(history, other_history, strict=True):
            np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)


def test_each_step_and_each_micro_batch_draws_its_own_noise():
    """With the same row in every place and a learning rate of 0, only the noise is left."""
    still = {"learning_rate": 0.0, "schedule": "constant", "warmup_steps": 0, "weight_decay": 0.0}
    task = toy.make_task(optim=still, noise=0.5, source=toy.Numbers(1), batch_size=2, accumulate=2)
    trainer = Trainer(task, mesh_of(1, 1, 1), seed=7)
    state, compiled = trainer.init_state(), trainer.lower().compile()
    row = {k: np.repeat(v[:1], 2, axis=0) for k, v in batches(task, 1)[0].items()}
    losses = []
    for _ in range(2):
        state, metrics = compiled(state, global_batch(row, trainer.batch_sharding))
        losses.append(float(metrics["loss"][0]))
    assert losses[0] != losses[1]
    one = Trainer(toy.make_task(optim=still, noise=0.5, source=toy.Numbers(1), batch_size=1), mesh_of(1, 1, 1), seed=7)
    _, metrics = one.lower().compile()(one.init_state(), global_batch({k: v[:1] for k, v in row.items()}, one.batch_sharding))
    assert losses[0] != pytest.approx(2 * float(metrics["loss"][0]), rel=1e-3)


def test_given_parameters_are_placed_with_a_fresh_optimizer_state():
    task = toy.make_task(optim=OPTIM)
    given = {"body": {"kernel": np.ones((4, 8), np.float32)}, "head": {"kernel": np.ones(8, np.float32), "bias": np.float32(2)}}
    first, last, _ = run(task, (2, 2, 2), start=lambda trainer: trainer.with_params(trainer.init_state(), given))
    close(first, flatten(given), rtol=0, atol=0)
    close(last, slow(given, task)[0])


def test_state_is_born_where_it_stays_and_memory_is_told():
    trainer = Trainer(toy.make_task(), mesh_of(2, 2, 2), seed=0)
    state = trainer.init_state()
    shardings = jax.tree.map(lambda x: x.sharding, state)
    assert jax.tree.all(jax.tree.map(lambda a, b, x: a.is_equivalent_to(b, x.ndim), shardings, trainer.state_shardings, state))
    assert state["trainable"]["body"]["kernel"].addressable_shards[0].data.shape == (2, 4)
    line = memory_line(trainer.lower().compile())
    assert "per device: arguments" in line and "total" in line


def test_batches_that_do_not_divide():
    with pytest.raises(VtjaxError, match="batch_size / accumulate = 4 is not divisible by the 8 data-parallel devices"):
        Trainer(toy.make_task(batch_size=8, accumulate=2), mesh_of(8, 1, 1), seed=0)


def test_nothing_is_compiled_after_the_first_step():
    """Counts every compilation of the process, by JAX's own events."""
    count = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **kwargs: count.append(event) if event.endswith("backend_compile_duration") else None
    )
    trainer = Trainer(toy.make_task(noise=0.1), mesh_of(2, 2, 2), seed=0)
    state, compiled = trainer.init_state(), trainer.lower().compile()
    assert count
    before = len(count)
    for batch in batches(trainer.task, 4):
        state, metrics = compiled(state, global_batch(batch, trainer.batch_sharding))
        jax.device_get(metrics)
    assert len(count) == before
