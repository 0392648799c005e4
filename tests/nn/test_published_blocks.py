"""The blocks that released checkpoints belong to, at their published sizes: every parameter has a partition rule, and
what is large is split. Nothing is allocated; numbers are compared with torch under tests/parity."""

import functools

import jax
import numpy as np
import pytest

from vtjax.nn import point_heads, temporal_aligner
from vtjax.nn import xclip as xclip_nn
from vtjax.sharding.mesh import AXES
from vtjax.sharding.partition import partition
from vtjax.weights import tan, xclip

MESH = jax.sharding.Mesh(np.asarray(jax.devices()).reshape(2, 2, 2), AXES)
BLOCKS = {
    "tan": (functools.partial(tan.init, temporal_aligner.PRESETS["tan"]), temporal_aligner.RULES),
    "mptva": (functools.partial(tan.init, temporal_aligner.PRESETS["mptva"]), temporal_aligner.RULES),
    "xclip": (functools.partial(xclip.init, xclip_nn.XClipConfig()), xclip_nn.RULES),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_every_parameter_has_a_rule_and_the_large_ones_are_split(name):
    init, rules = BLOCKS[name]
    plan = partition(jax.eval_shape(init), rules, MESH)
    assert plan.replicated_bytes < 0.05 * plan.total_bytes, plan.summary()


def test_point_heads_are_whole_everywhere():
    shape = jax.ShapeDtypeStruct
    head = {"kernel": shape((16, 600), "float32"), "bias": shape((600,), "float32")}
    plan = partition({"stage2": {"trajectory_projector": head}}, point_heads.RULES, MESH)
    assert plan.replicated_bytes == plan.total_bytes
