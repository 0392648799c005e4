"""CLIP's InfoNCE: three implementations, several meshes, and a float64 loop."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from vtjax.errors import VtjaxError
from vtjax.losses import pair_sweep
from vtjax.losses.contrastive import info_nce
from vtjax.losses.distributed_contrastive import clip_info_nce
from vtjax.sharding.mesh import AXES, batch_sharding

N, D, SCALE = 40, 8, 20.0
TWO_AXES = (2, 4, 1)


def mesh_of(*shape):
    devices = np.asarray(jax.devices()[: np.prod(shape)]).reshape(shape)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 3)


def embeddings(seed=0, count=N):
    """Rows of length about 1, the two sides alike."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(count, D))
    pair = image + 0.5 * rng.normal(size=(count, D)), image
    return tuple((x / np.linalg.norm(x, axis=1, keepdims=True) * 1.01).astype(np.float32) for x in pair)


def slow_loss(image, text, scale, valid):
    """Mean over valid items in float64, one query at a time."""
    image, text = (x[valid] / np.sqrt(np.square(x[valid]).sum(axis=1))[:, None] for x in (image, text))
    total = 0.0
    for own_image, own_text in zip(image, text, strict=True):
        for query, own, candidates in ((own_image, own_text, text), (own_text, own_image, image)):
            total += 0.5 * (np.log(np.exp(scale * (candidates @ query)).sum()) - scale * (query @ own))
    return total / len(image)


def slow_gradients(loss, image, text, *scalars, step=1e-5):
    """Central differences of a float64 loss(image, text, *scalars)."""
    arguments = [np.asarray(x, np.float64) for x in (image, text, *scalars)]
    gradients = [np.zeros(x.shape) for x in arguments]
    for which, gradient in enumerate(gradients):
        for index in np.ndindex(gradient.shape):
            ends = []
            for sign in (1, -1):
                moved = [x.copy() for x in arguments]
                moved[which][index] += sign * step
                ends.append(loss(*moved))
            gradient[index] = (ends[0] - ends[1]) / (2 * step)
    return gradients


@functools.cache
def results(impl, shape, masked, tile=3):
    """Mean loss, its gradients by image, text and scale, and the compiled text."""
    mesh = mesh_of(*shape) if shape else None
    valid = np.arange(N) % 5 != 3 if masked else None

    def mean(image, text, scale):
        total, weight = clip_info_nce(image, text, scale, valid=valid, mesh=mesh, impl=impl, tile=tile)
        return total / weight

    arrays = [jnp.asarray(x) for x in embeddings()]
    if mesh is not None:
        arrays = jax.device_put(arrays, batch_sharding(mesh))
    step = jax.jit(jax.value_and_grad(mean, argnums=(0, 1, 2))).lower(*arrays, jnp.float32(SCALE)).compile()
    value, gradients = step(*arrays, jnp.float32(SCALE))
    return float(value), [np.asarray(g) for g in gradients], step.as_text()


@functools.cache
def expected(masked):
    valid = np.arange(N) % 5 != 3 if masked else np.ones(N, bool)
    loss = lambda image, text, scale: slow_loss(image, text, scale, valid)
    return loss(*np.float64(embeddings()), SCALE), slow_gradients(loss, *embeddings(), SCALE)


@pytest.mark.parametrize(
    "impl, shape, masked",
    [
        ("plain", (), True),
        ("plain", TWO_AXES, False),
        ("gather", TWO_AXES, True),
        ("ring", TWO_AXES, False),
        ("ring", TWO_AXES, True),
    ],
)
def test_equals_the_float64_loop(impl, shape, masked):
    value, gradients, _ = results(impl, shape, masked)
    loss, slow = expected(masked)
    assert abs(value - loss) < 1e-6
    for ours, theirs in zip(gradients, slow, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-7)
    if masked:
        assert not gradients[0][3::5].any() and not gradients[1][3::5].any() and gradients[0][4].any()


def test_implementations_agree_on_two_batch_axes():
    """Issue 4: loss 1e-6, gradients 1e-7, among plain, gather and ring."""
    value, gradients, _ = results("plain", (), True)
    for impl in ("gather", "ring"):
        other, theirs, _ = results(impl, TWO_AXES, True)
        assert abs(other - value) <= 1e-6
        for a, b in zip(gradients, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-7)


@pytest.mark.parametrize("impl, shape, tile", [("ring", (2, 2, 2), 4), ("ring", (), 5), ("gather", (1, 2, 1), 5)])
def test_the_mesh_and_the_tile_do_not_matter(impl, shape, tile):
    value, gradients, _ = results("ring", TWO_AXES, True)
    other, theirs, _ = results(impl, shape, True, tile)
    assert abs(other - value) <= 1e-6
    for a, b in zip(gradients, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-7)


def test_compiled_text_has_no_matrix_of_pairs():
    matrix = re.compile(rf"\[{N},{N}\]")
    assert matrix.search(results("plain", (), True)[2])
    for impl in ("gather", "ring"):
        assert not matrix.search(results(impl, TWO_AXES, True)[2])
    ring = results("ring", TWO_AXES, False)[2]
    assert "all-gather" not in ring and "collective-permute" in ring
    assert "all-gather" in results("gather", TWO_AXES, True)[2]


def test_memory_of_the_ring_is_linear_in_the_batch():
    mesh = mesh_of(*TWO_AXES)

    def temporaries(count, impl):
        loss = lambda x, y: clip_info_nce(x, y, 10.0, mesh=mesh, impl=impl, tile=32)[0]
        array = jax.ShapeDtypeStruct((count, D), jnp.float32, sharding=batch_sharding(mesh))
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(array, array).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = (temporaries(count, "ring") for count in (2048, 4096))
    assert large < 2.5 * small  # four times for the whole matrix
    assert large < 4096 * 4096 / 8  # below one byte per pair


def test_equals_the_infonce_of_the_other_methods():
    image, text = embeddings()
    total, weight = clip_info_nce(image, text, SCALE)
    theirs, count = info_nce(text, image, temperature=1 / SCALE)
    assert float(total) == pytest.approx(float(theirs), rel=1e-6) and float(weight) == float(count) == N


def test_bfloat16_adds_up_in_float32():
    low = [jnp.asarray(x, jnp.bfloat16) for x in embeddings()]
    loss = lambda impl, x, y: clip_info_nce(x, y, SCALE, impl=impl, tile=7)[0]
    reference, by_image = jax.jit(jax.value_and_grad(functools.partial(loss, "plain")))(*low)
    total, gradient = jax.jit(jax.value_and_grad(functools.partial(loss, "ring")))(*low)
    assert total.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    assert float(total) == pytest.approx(float(reference), rel=1e-6)
    np.testing.assert_allclose(gradient.astype(np.float32), by_image.astype(np.float32), atol=0.02)


def test_large_scales_and_batches_without_a_valid_row_stay_finite():
    image, text = embeddings()
    for valid, scale in ((None, 1e4), (np.zeros(N, bool), SCALE)):
        loss = lambda x: clip_info_nce(x, text, scale, valid=valid, impl="ring", tile=5)[0]  # noqa: B023
        value, gradient = jax.jit(jax.value_and_grad(loss))(image)
        assert np.isfinite(value) and np.isfinite(gradient).all()
        if valid is not None:
            assert float(value) == 0 and not np.asarray(gradient).any()


def test_auto_takes_the_mesh_into_account():
    auto = lambda batch, mesh=None: pair_sweep.plan(batch, mesh=mesh, tile=64).impl
    assert auto(64) == "plain" and auto(128) == "ring" and auto(64, mesh_of(1, 1, 2)) == "plain"
    assert auto(64, mesh_of(*TWO_AXES)) == "ring"
    with jax.set_mesh(mesh_of(*TWO_AXES)):
        assert pair_sweep.plan(64).axes == ("data", "fsdp") and pair_sweep.plan(64).impl == "ring"


def test_user_errors_are_named():
    x = jnp.zeros((6, D))
    for words, call in {
        "impl='rings': did you mean 'ring'": lambda: clip_info_nce(x, x, 1.0, impl="rings"),
        "tile=0": lambda: clip_info_nce(x, x, 1.0, tile=0),
        "6 rows does not split over 8 devices": lambda: clip_info_nce(x, x, 1.0, mesh=mesh_of(*TWO_AXES)),
        "no axis 'model'": lambda: clip_info_nce(x, x, 1.0, mesh=mesh_of(1, 2, 1), axes=("model",)),
        "two of one shape": lambda: clip_info_nce(x, x[:4], 1.0),
        "one entry per row": lambda: clip_info_nce(x, x, 1.0, valid=np.ones(5, bool)),
    }.items():
        with pytest.raises(VtjaxError, match=re.escape(words)):
            call()
