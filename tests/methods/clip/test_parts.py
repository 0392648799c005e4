"""Towers that take the batch in parts compute the loss and gradients of the whole batch."""

import jax
import numpy as np
import pytest

from vtjax.bench import random_batch
from vtjax.config import load_config_file
from vtjax.errors import VtjaxError
from vtjax.methods.clip import pipeline


def task_of(parts, batch=16):
    experiment = load_config_file("configs/clip.py:smoke")
    experiment.method.model.parts, experiment.train.batch_size = parts, batch
    return pipeline.abstract(experiment)


def test_parts_change_nothing():
    whole = task_of(1)
    batch = random_batch(whole.batch_spec())
    params = jax.jit(whole.init)(jax.random.key(0), batch)

    def gradient(task):
        objective = lambda p: task.loss(p, batch, jax.random.key(1), True)["loss"][0]
        return jax.jit(jax.value_and_grad(objective))(params)

    (loss, expected), (again, found) = gradient(whole), gradient(task_of(4))
    np.testing.assert_allclose(again, loss, rtol=1e-6)

    def same(a, b):  # sums in another order: float32 rounds by the size of an array's largest entry
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 + 5e-6 * float(abs(b).max()))

    jax.tree.map(same, found, expected)
    assert max(float(abs(x).max()) for x in jax.tree.leaves(expected)) > 1e-3


def test_parts_that_do_not_divide_the_batch_are_refused():
    task = task_of(3)
    batch = task.batch_spec()
    params = jax.eval_shape(task.init, jax.random.key(0), batch)
    with pytest.raises(VtjaxError, match="parts=3 does not divide a batch of 16"):
        jax.eval_shape(lambda p, b: task.loss(p, b, jax.random.key(0), True), params, batch)
