"""int8 weights against loops, and a quantized model against the same model with the rounded weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.config import Mesh
from vtjax.errors import VtjaxError
from vtjax.nn.llama import PRESETS, RULES, LanguageModel
from vtjax.nn.quantize import Linear, dequantize, nbytes, quantize, quantize_kernel
from vtjax.sharding.mesh import make_mesh
from vtjax.sharding.partition import partition
from vtjax.trees import flatten

MODEL = LanguageModel(PRESETS["tiny"])


@pytest.fixture(scope="module")
def params():
    return jax.jit(MODEL.init)(jax.random.key(0))


def test_each_output_channel_by_itself():
    kernel = np.random.default_rng(0).standard_normal((6, 2, 3)).astype(np.float32) * 10.0 ** np.arange(3)
    kernel[:, 1, 1] = 0
    found, scale = quantize_kernel(jnp.asarray(kernel), (0,))
    assert found.dtype == jnp.int8 and scale.shape == (2, 3)
    for h in range(2):
        for d in range(3):
            top = max(abs(w) for w in kernel[:, h, d])
            expected = [round(float(w / (top / 127))) if top else 0 for w in kernel[:, h, d]]
            assert found[:, h, d].tolist() == expected
            assert scale[h, d] == pytest.approx(top / 127 if top else 1.0)


def test_axes_of_every_kernel(params):
    quantized = flatten(quantize(params))
    assert quantized["layers/attention/query/kernel_scale"].shape == (2, 4, 16)
    assert quantized["layers/attention/out/kernel_scale"].shape == (2, 64)
    assert quantized["layers/ffn/down/kernel_scale"].shape == (2, 64)
    assert quantized["head/kernel"].dtype == jnp.float32 and "head/kernel_scale" not in quantized
    restored = flatten(dequantize(quantize(params), jnp.float32))
    for path, leaf in flatten(params).items():
        if quantized[path].dtype == jnp.int8:
            back = restored[path]
            scale = quantized[path + "_scale"]
            axes = (1, 2) if "out" in path else (1,)
            assert np.all(np.abs(back - leaf) <= 0.5001 * np.expand_dims(scale, axes))


def test_linear_multiplies_by_the_rounded_weights():
    x = np.random.default_rng(1).standard_normal((2, 3, 8)).astype(np.float32)
    kernel = np.random.default_rng(2).standard_normal((8, 2, 5)).astype(np.float32)
    low, scale = quantize_kernel(jnp.asarray(kernel), (0,))
    found = Linear((2, 5)).apply({"params": {"kernel": low, "kernel_scale": scale}}, x)
    expected = np.einsum("bld,dhe->blhe", x, np.asarray(low) * np.asarray(scale))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_model_runs_on_int8(params):
    ids = jax.random.randint(jax.random.key(1), (2, 12), 0, 512)
    quantized = quantize(params)
    run = jax.jit(MODEL)
    found, rounded, full = run(quantized, ids), run(dequantize(quantized, jnp.float32), ids), run(params, ids)
    np.testing.assert_allclose(found, rounded, atol=2e-5 * float(jnp.abs(rounded).max()))
    error = float(jnp.linalg.norm(found - full) / jnp.linalg.norm(full))
    assert 1e-4 < error < 0.03
    kernels = lambda tree: nbytes({k: v for k, v in flatten(tree).items() if "layers" in k})
    assert kernels(quantized) < 0.27 * kernels(params)


def test_partition_rules_cover_scales(params):
    mesh = make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    found = partition(jax.eval_shape(quantize, params), RULES, mesh).specs
    assert tuple(found["layers/attention/query/kernel_scale"]) == (None, "tensor")
    assert tuple(found["layers/ffn/down/kernel_scale"]) == (None, "fsdp")


def test_errors(params):
    with pytest.raises(VtjaxError, match="matches no parameter"):
        quantize(params, "blocks/.*/kernel")
    low, _ = quantize_kernel(jnp.ones((4, 4)), (0,))
    with pytest.raises(VtjaxError, match="has no kernel_scale"):
        Linear((4,)).apply({"params": {"kernel": low}}, jnp.ones((1, 4)))
