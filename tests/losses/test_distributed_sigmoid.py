"""SigLIP's loss: three implementations, several meshes, and a float64 loop."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from vtjax.errors import VtjaxError
from vtjax.losses.sigmoid import BIAS_INIT, SCALE_INIT, sigmoid_contrastive
from vtjax.sharding.mesh import AXES, batch_sharding

N, D, SCALE, BIAS = 40, 8, 10.0, -8.0
TWO_AXES = (2, 4, 1)


def mesh_of(*shape):
    devices = np.asarray(jax.devices()[: np.prod(shape)]).reshape(shape)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 3)


def embeddings():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(N, D))
    pair = image + 0.5 * rng.normal(size=(N, D)), image
    return tuple((x / np.linalg.norm(x, axis=1, keepdims=True) * 1.01).astype(np.float32) for x in pair)


def slow_loss(image, text, scale, bias, valid):
    """The paper's algorithm in float64, pair by pair of an image with all texts."""
    image, text = (x[valid] / np.sqrt(np.square(x[valid]).sum(axis=1))[:, None] for x in (image, text))
    total = 0.0
    for i, one in enumerate(image):
        z = np.where(np.arange(len(text)) == i, 1.0, -1.0)
        total += np.log1p(np.exp(-z * (scale * (text @ one) + bias))).sum()
    return total / len(image)


def slow_gradients(valid, step=1e-5):
    arguments = [*np.float64(embeddings()), np.array(SCALE), np.array(BIAS)]
    gradients = []
    for which, x in enumerate(arguments):
        gradients.append(np.zeros(x.shape))
        for index in np.ndindex(x.shape):
            ends = []
            for sign in (1, -1):
                moved = x.copy()
                moved[index] += sign * step
                ends.append(slow_loss(*arguments[:which], moved, *arguments[which + 1 :], valid))
            gradients[-1][index] = (ends[0] - ends[1]) / (2 * step)
    return gradients


@functools.cache
def results(impl, shape, masked, tile=3):
    """Mean loss, its gradients by image, text, scale and bias, and the compiled text."""
    mesh = mesh_of(*shape) if shape else None
    valid = np.arange(N) % 5 != 3 if masked else None

    def mean(image, text, scale, bias):
        total, weight = sigmoid_contrastive(image, text, scale, bias, valid=valid, mesh=mesh, impl=impl, tile=tile)
        return total / weight

    arrays = [jnp.asarray(x) for x in embeddings()]
    if mesh is not None:
        arrays = jax.device_put(arrays, batch_sharding(mesh))
    arrays += [jnp.float32(SCALE), jnp.float32(BIAS)]
    step = jax.jit(jax.value_and_grad(mean, argnums=(0, 1, 2, 3))).lower(*arrays).compile()
    value, gradients = step(*arrays)
    return float(value), [np.asarray(g) for g in gradients], step.as_text()


@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_float64_loop(masked):
    value, gradients, _ = results("ring", TWO_AXES, masked)
    valid = np.arange(N) % 5 != 3 if masked else np.ones(N, bool)
    assert abs(value - slow_loss(*np.float64(embeddings()), SCALE, BIAS, valid)) < 1e-6
    for ours, theirs in zip(gradients, slow_gradients(valid), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-7)
    if masked:
        assert not gradients[0][3::5].any() and not gradients[1][3::5].any() and gradients[0][4].any()


@pytest.mark.parametrize(
    "impl, shape, tile",
    [("ring", TWO_AXES, 3), ("gather", TWO_AXES, 3), ("ring", (2, 2, 2), 64), ("ring", (), 7), ("gather", (), 7)],
)
def test_implementations_and_meshes_agree(impl, shape, tile):
    """Issue 4: loss 1e-6, gradients 1e-7, among plain, gather and ring on two batch axes, and on other meshes."""
    value, gradients, _ = results("plain", (), True)
    other, theirs, _ = results(impl, shape, True, tile)
    assert abs(other - value) <= 1e-6
    for a, b in zip(gradients, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-7)


def test_compiled_text_has_no_matrix_of_pairs():
    matrix = re.compile(rf"\[{N},{N}\]")
    assert matrix.search(results("plain", (), True)[2])
    for impl in ("gather", "ring"):
        assert not matrix.search(results(impl, TWO_AXES, True)[2])
    ring = results("ring", TWO_AXES, True)[2]
    assert "all-gather" not in ring and "collective-permute" in ring


@pytest.mark.parametrize("impl", ["plain", "ring"])
def test_initial_loss_and_extremes(impl):
    """At the paper's initial scale and bias unrelated pairs cost next to nothing, and the sum is over items."""
    eye = jnp.eye(N)
    total, weight = sigmoid_contrastive(eye, eye, SCALE_INIT, BIAS_INIT, impl=impl, tile=7)
    assert float(weight) == N
    assert float(total / weight) == pytest.approx(np.log(2) + (N - 1) * np.log1p(np.exp(-10)), rel=1e-5)
    loss = lambda x: sigmoid_contrastive(x, eye, 1e4, 5.0, impl=impl, tile=7)[0]
    value, gradient = jax.jit(jax.value_and_grad(loss))(-eye)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert float(value) == pytest.approx(N * (1e4 - 5) + N * (N - 1) * np.log1p(np.exp(5)), rel=1e-5)


def test_user_errors_are_named():
    with pytest.raises(VtjaxError, match="impl='sum'"):
        sigmoid_contrastive(jnp.eye(4), jnp.eye(4), 1.0, 0.0, impl="sum")
    with pytest.raises(VtjaxError, match="two of one shape"):
        sigmoid_contrastive(jnp.eye(4), jnp.eye(3), 1.0, 0.0)
