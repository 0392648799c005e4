"""Counted operations against sums done by hand, and against programs whose count is known."""

import jax
import jax.numpy as jnp
import pytest

from vtjax.planning.flops import count, executed_flops

A = jax.ShapeDtypeStruct((8, 16), jnp.float32)
W = jax.ShapeDtypeStruct((16, 16), jnp.float32)
ONE = 2 * 8 * 16 * 16


def counted(f, *arguments, learnt=()):
    return count(jax.make_jaxpr(f)(*arguments).jaxpr, learnt)


def test_a_product_forwards_and_backwards():
    f = lambda w, a: (a @ w).sum()
    assert counted(f, W, A).total == ONE
    both = counted(f, W, A, learnt=[0])
    assert (both.forward, both.backward) == (ONE, ONE)  # the input is data
    assert counted(f, W, A, learnt=[0, 1]).backward == 2 * ONE


def test_what_is_not_needed_is_not_counted():
    def f(w, a):
        unused = a @ w @ w
        return (a @ w).sum(), jnp.argmax(unused)

    assert counted(lambda w, a: f(w, a)[0], W, A, learnt=[0]).total == 2 * ONE
    assert counted(f, W, A, learnt=[0]).forward == 3 * ONE
    assert counted(lambda w, a: jax.lax.stop_gradient(a @ w).sum() + w.sum(), W, A, learnt=[0]).backward == 0
    # What is chosen by an integer does not carry a gradient to what chose it.
    chosen = lambda w, a: jnp.take(a, jnp.argmax(a @ w, axis=1), axis=0).sum()
    assert counted(chosen, W, A, learnt=[0]).backward == 0


@pytest.mark.parametrize("remat", [False, True])
def test_scans_count_every_round_and_remat_counts_nothing_twice(remat):
    """5 layers x -> silu(x w): the first layer's input is data, but in a loop it is the carry, as any layer's."""

    def body(x, w):
        return jax.nn.silu(x @ w), x @ w @ w  # the second output is never used

    body = jax.checkpoint(body) if remat else body
    stacked = jax.ShapeDtypeStruct((5, 16, 16), jnp.float32)
    found = counted(lambda w, a: jax.lax.scan(body, a, w)[0].sum(), stacked, A, learnt=[0])
    assert (found.forward, found.backward) == (5 * ONE, 10 * ONE)
    frozen = counted(lambda w, a: jax.lax.scan(body, a, w)[0].sum(), stacked, A, learnt=[1])
    assert frozen.backward == 5 * ONE  # to the input, not to the matrices


def test_loops_branches_and_convolutions():
    def f(a, w):
        picked = jax.lax.cond(a[0, 0] > 0, lambda x: x @ w @ w, lambda x: x @ w, a)
        return jax.lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ w, picked)

    found = counted(f, A, W)
    assert (found.forward, found.open_loops) == (3 * ONE, 1)
    image, kernel = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((4, 4, 3, 5), jnp.float32)
    convolve = lambda x, k: jax.lax.conv_general_dilated(
        x, k, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert counted(convolve, image, kernel, learnt=[1]).total == 2 * 2 * (2 * 2 * 2 * 5 * 4 * 4 * 3)


def test_what_is_executed_counts_recomputation_and_all_devices():
    from vtjax.config import Mesh
    from vtjax.losses.distributed_contrastive import clip_info_nce
    from vtjax.sharding.mesh import batch_sharding, make_mesh

    mesh = make_mesh(Mesh(4, 2, 1))
    rows = jax.ShapeDtypeStruct((64, 16), jnp.float32, sharding=batch_sharding(mesh))
    loss = lambda x, y: clip_info_nce(x, y, 10.0, mesh=mesh, impl="ring")[0]
    block = 2 * 64 * 64 * 16
    assert executed_flops(jax.jit(loss).trace(rows, rows)) == block
    # Backwards: every block again, then one product for either side.
    assert executed_flops(jax.jit(jax.grad(loss, argnums=(0, 1))).trace(rows, rows)) == 4 * block
    whole = jax.ShapeDtypeStruct((64, 16), jnp.float32)
    plain = lambda x, y: clip_info_nce(x, y, 10.0, impl="plain")[0]
    swept = lambda x, y: clip_info_nce(x, y, 10.0, impl="ring", tile=16)[0]
    for f in (plain, swept):
        assert counted(f, whole, whole, learnt=[0, 1]).total == 3 * block
