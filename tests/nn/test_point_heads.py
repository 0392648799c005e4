"""PiTe's linear layers: against torch's with the same numbers, and stage 2's head as stage 1's many times over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.nn.point_heads import PointHead, VisualAdapter, tile_localization


def test_layouts_are_torchs():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    states = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)
    linear = torch.nn.Linear(8, 3 * 7 * 2)
    expected = linear(torch.tensor(states)).view(2, 5, 3, 7, 2).detach().numpy()
    params = {"kernel": linear.weight.detach().numpy().T, "bias": linear.bias.detach().numpy()}
    points = PointHead(3, 7).apply({"params": params}, states)
    np.testing.assert_allclose(points, expected, rtol=1e-5, atol=1e-6)
    linear = torch.nn.Linear(8, 6)
    params = {"kernel": linear.weight.detach().numpy().T, "bias": linear.bias.detach().numpy()}
    soft = VisualAdapter(6).apply({"params": params}, states)
    np.testing.assert_allclose(soft, linear(torch.tensor(states)).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_tiled_head_says_the_localization_heads_point_everywhere():
    head = PointHead()
    states = jax.random.normal(jax.random.key(1), (2, 5, 8))
    params = head.init(jax.random.key(0), states)["params"]
    assert params["kernel"].shape == (8, 2) and float(jnp.abs(params["kernel"]).max()) <= 8**-0.5
    tiled = tile_localization(params, 3, 100)
    assert tiled["kernel"].shape == (8, 600) and tiled["bias"].shape == (600,)
    point = head.apply({"params": params}, states)
    everywhere = PointHead(3, 100).apply({"params": tiled}, states)
    np.testing.assert_allclose(everywhere, jnp.broadcast_to(point, everywhere.shape), rtol=1e-6, atol=1e-7)


def test_points_are_float32_whatever_the_states():
    states = jnp.ones((1, 1, 8), jnp.bfloat16)
    params = PointHead().init(jax.random.key(0), states)["params"]
    assert PointHead().apply({"params": params}, states).dtype == jnp.float32
    assert VisualAdapter(4, jnp.bfloat16).init_with_output(jax.random.key(0), states)[0].dtype == jnp.bfloat16
