"""Dense layers that sum in float32: the same layers, closer to exact, and unchanged in float32."""

import jax
import jax.numpy as jnp
import numpy as np

from vtjax.nn.inference import float32_sums
from vtjax.nn.transformer import EncoderLayer, LayerConfig


def layer(dtype):
    module = EncoderLayer(LayerConfig(heads=2, hidden=64, dtype=dtype))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 32)), dtype)
    params = module.init(jax.random.key(0), x)
    return (lambda p, y: module.apply(p, y)), params, x


def products(function, *arguments):
    """Result types of the matrix products of a function's jaxpr, nested ones included."""

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                yield str(equation.outvars[0].aval.dtype)
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from walk(inner)

    return list(walk(jax.make_jaxpr(function)(*arguments).jaxpr))


def test_products_of_bfloat16_give_float32_and_the_layer_its_own_type():
    function, params, x = layer(jnp.bfloat16)
    plain, summed = products(function, params, x), products(float32_sums(function), params, x)
    assert len(plain) == len(summed) and summed.count("float32") == plain.count("float32") + 6
    assert float32_sums(function)(params, x).dtype == function(params, x).dtype
    assert products(function, params, x) == plain, "the layers themselves are as they were"


def test_the_result_is_as_near_to_exact():
    function, params, x = layer(jnp.bfloat16)
    exact, _, _ = layer(jnp.float32)
    truth = np.asarray(exact(params, x.astype(jnp.float32)))
    functions = function, float32_sums(function)
    plain, summed = (np.abs(np.asarray(f(params, x), np.float32) - truth).mean() for f in functions)
    assert summed < 1.1 * plain < 0.05


def test_in_float32_nothing_changes():
    function, params, x = layer(jnp.float32)
    np.testing.assert_array_equal(function(params, x), float32_sums(function)(params, x))
