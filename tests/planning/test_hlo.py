"""Reading compiled text: by hand on a small program, and on what XLA compiles here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vtjax.config import Mesh
from vtjax.errors import VtjaxError
from vtjax.planning import hlo
from vtjax.sharding.mesh import make_mesh

# In the form that libtpu prints: layouts with tiles and memory spaces, asynchronous collectives, a fusion that slices.
TEXT = """HloModule jit_step, is_scheduled=true, num_partitions=8

%fused_computation (param_0.1: bf16[12,64,128], param_1.2: s32[]) -> bf16[64,128] {
  %param_0.1 = bf16[12,64,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %param_1.2 = s32[]{:T(128)} parameter(1)
  %constant.1 = s32[]{:T(128)} constant(0)
  %slice = bf16[1,64,128]{2,1,0:T(8,128)(2,1)} dynamic-slice(%param_0.1, %param_1.2, %constant.1, %constant.1), dynamic_slice_sizes={1,64,128}
  ROOT %bitcast.1 = bf16[64,128]{1,0:T(8,128)(2,1)} bitcast(%slice)
}

%body (arg.1: (s32[], bf16[12,64,128])) -> (s32[], bf16[12,64,128]) {
  %arg.1 = (s32[]{:T(128)}, bf16[12,64,128]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %gte.0 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  %gte.1 = bf16[12,64,128]{2,1,0:T(8,128)(2,1)} get-tuple-element(%arg.1), index=1
  %layer = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} fusion(%gte.1, %gte.0), kind=kLoop, calls=%fused_computation
  %all-gather-start.1 = (bf16[64,128]{1,0}, bf16[512,128]{1,0}) all-gather-start(%layer), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}, use_global_device_ids=true, metadata={op_name="jit(step)/gather weights"}
  %all-gather-done.1 = bf16[512,128]{1,0:T(8,128)(2,1)} all-gather-done(%all-gather-start.1)
  ROOT %tuple.1 = (s32[], bf16[12,64,128]{2,1,0}) tuple(%gte.0, %gte.1)
}

%condition (arg.2: (s32[], bf16[12,64,128])) -> pred[] {
  %arg.2 = (s32[]{:T(128)}, bf16[12,64,128]{2,1,0}) parameter(0)
  %gte.2 = s32[]{:T(128)} get-tuple-element(%arg.2), index=0
  %limit = s32[]{:T(128)} constant(12)
  ROOT %lt = pred[]{:T(512)} compare(%gte.2, %limit), direction=LT
}

ENTRY %main (p0: bf16[12,64,128], p1: f32[1024]) -> f32[1024] {
  %p0 = bf16[12,64,128]{2,1,0:T(8,128)(2,1)} parameter(0), sharding={devices=[1,8,1]<=[8]}, metadata={op_name="state[\\'weights\\']"}
  %p1 = f32[1024]{0:T(1024)} parameter(1), sharding={replicated}
  %zero = s32[]{:T(128)} constant(0)
  %start = (s32[], bf16[12,64,128]{2,1,0}) tuple(%zero, %p0)
  %while.1 = (s32[]{:T(128)}, bf16[12,64,128]{2,1,0:T(8,128)(2,1)}) while(%start), condition=%condition, body=%body
  %all-reduce.1 = f32[1024]{0:T(1024)} all-reduce(%p1), channel_id=2, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %collective-permute.1 = f32[1024]{0:T(1024)} collective-permute(%all-reduce.1), channel_id=3, source_target_pairs={{0,1},{1,0}}
  ROOT %reduce-scatter.1 = f32[128]{0} reduce-scatter(%collective-permute.1), channel_id=4, replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}, to_apply=%add
}
"""


def test_collectives_of_the_small_program():
    found = {c.kind: c for c in hlo.collectives(hlo.Program(TEXT), 8)}
    assert set(found) == {"all-gather", "all-reduce", "collective-permute", "reduce-scatter"}
    gather = found["all-gather"]
    assert (gather.bytes, gather.times, gather.source) == (64 * 128 * 2, 12, "jit(step)/gather weights")
    assert gather.groups.tolist() == [list(range(8))]
    assert found["all-reduce"].groups.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert found["collective-permute"].groups.tolist() == [[0, 1], [1, 0]]
    assert found["reduce-scatter"].groups.tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert found["reduce-scatter"].bytes == found["all-reduce"].bytes == 4096


def test_traffic_counts_slices_and_leaves_fast_memory_out():
    """Each round reads one layer's slice; its result stays in fast memory. The gather writes 8 layers' worth."""
    layer, vector = 64 * 128 * 2, 4096
    loop = 12 * (layer + 4 + 8 * layer)  # with the number of the layer
    rest = 2 * vector + 2 * vector + vector + 512
    assert hlo.Program(TEXT).traffic() == loop + rest


def test_largest_tensors_are_named():
    largest = hlo.Program(TEXT).largest(2)
    assert next((size, str(shape)) for size, shape, _ in largest) == (12 * 64 * 128 * 2, "bf16[12,64,128]")


@pytest.fixture(scope="module")
def compiled():
    """A scan of 5 layers with weights split over 8 devices, and its gradient."""
    mesh = make_mesh(Mesh(1, 8, 1))

    def loss(w, x):
        def layer(x, w):
            return jnp.tanh(x @ w), None

        return jnp.sum(jax.lax.scan(layer, x, w)[0] ** 2)

    w = jax.ShapeDtypeStruct((5, 64, 64), jnp.float32, sharding=NamedSharding(mesh, P(None, "fsdp")))
    x = jax.ShapeDtypeStruct((32, 64), jnp.float32, sharding=NamedSharding(mesh, P("fsdp")))
    return jax.jit(jax.grad(loss), out_shardings=w.sharding).lower(w, x).compile()


def test_a_compiled_loop_counts_its_rounds(compiled):
    program = hlo.Program(compiled.as_text())
    assert program.entry and len(program.computations) > 2
    loops = [one for one, *_ in program.running() if one.op == "while"]
    assert loops and all(program.trips(loop) == 5 for loop in loops)
    found = hlo.collectives(program, 8)
    assert found and all(c.times in (1, 5) for c in found)
    # Every layer's weights are gathered or its activations exchanged: more than once the layer per round is sent.
    sent = sum(c.bytes * c.times for c in found)
    assert sent >= 5 * 32 * 64 * 4 / 8
    assert all(sorted(np.unique(c.groups)) == list(range(8)) for c in found)


def test_memory_traffic_of_a_loop_is_that_of_all_rounds(compiled):
    rounds = hlo.Program(compiled.as_text()).traffic()
    once = compiled.cost_analysis()["bytes accessed"]
    assert rounds > 2 * once


def test_sends_between_slices_are_collectives_too():
    line = (
        '  %send.1 = (f32[1024]{0}, u32[], token[]) send(%p1, %token), channel_id=9, is_host_transfer=true, '
        'frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",'
        '_xla_megascale_transfer_type="ALL_REDUCE"}'
    )
    text = TEXT.replace("  %all-reduce.1 = ", f"  %token = token[] after-all()\n{line}\n  %all-reduce.1 = ")
    found = [c for c in hlo.collectives(hlo.Program(text), 8) if not c.groups.size]
    assert [(c.kind, c.bytes, c.times) for c in found] == [("all-reduce", 4096, 1)]


@pytest.mark.parametrize(
    "text, expected",
    [  # the groups that XLA's own tests say these stand for
        ("mesh['x'=2,'y'=2] {'x'}", [[0, 2], [1, 3]]),
        ("mesh['x'=2,'y'=2] {'y'}", [[0, 1], [2, 3]]),
        ("mesh['x'=2,'y'=2] {'x','y'}", [[0, 1, 2, 3]]),
        ("mesh['a'=8] {'a':(1)2}", "[4,2]<=[2,4]T(1,0)"),
        ("mesh['a'=8] {'a':(2)2}", "[4,2]<=[2,2,2]T(0,2,1)"),
        ("mesh['a'=8] {'a':(4)2}", "[4,2]<=[8]"),
        ("mesh['a'=8] {'a':(1)2,'a':(4)2}", "[2,4]<=[2,2,2]T(1,0,2)"),
        ("mesh['a'=8] {'a':(4)2,'a':(1)2}", "[2,4]<=[2,2,2]T(1,2,0)"),
        ("mesh['x'=2,'y'=2], device_ids=(3,1,0,2) {'x'}", [[3, 0], [1, 2]]),
        ("mesh['x'=2,'y'=2], device_ids=(3,1,0,2) {'y'}", [[3, 1], [0, 2]]),
        ("mesh['a'=3,'b'=1,'c'=2], device_ids=([2,3]T(1,0)) {'a','b'}", [[0, 1, 2], [3, 4, 5]]),
        ("mesh['a'=2,'b'=3], device_ids=([2,3]) {'b'}", [[0, 1, 2], [3, 4, 5]]),
        ("@mesh<x=2,y=2> {x}", [[0, 2], [1, 3]]),
    ],
)
def test_groups_along_axes_of_a_mesh(text, expected):
    found = hlo._groups(f"replica_groups={text}, dimensions={{1}}", 99)
    if isinstance(expected, str):
        expected = hlo._groups(f"replica_groups={expected}, dimensions={{1}}", 99)
    np.testing.assert_array_equal(found, expected)


def test_groups_in_an_unknown_form_are_refused_and_none_are_all_devices():
    assert hlo._groups("replica_groups={}, dimensions={0}", 4).tolist() == [[0, 1, 2, 3]]
    with pytest.raises(VtjaxError, match="star.*libtpu"):
        hlo._groups("replica_groups=star(3), dimensions={0}", 4)
