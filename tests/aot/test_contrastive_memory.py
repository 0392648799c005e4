"""The ring losses compiled for a pod of 256 TPU chips, without the hardware: what they keep in a chip's memory."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from vtjax.losses.distributed_contrastive import clip_info_nce
from vtjax.losses.sigmoid import sigmoid_contrastive
from vtjax.sharding.mesh import AXES, batch_sharding, replicated

pytest.importorskip("libtpu", reason="compiling for TPU topologies needs libtpu (pip install 'vtjax[tpu]')")
pytestmark = pytest.mark.slow

WIDTH, CHIPS = 768, 256


@pytest.fixture(scope="module")
def mesh():
    from jax.experimental import topologies

    # Without these libtpu looks for a TPU's metadata, and refuses a second process.
    defaults = {
        "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-16", "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }  # fmt: skip
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:16x16").devices
    return Mesh(np.asarray(devices).reshape(16, 16, 1), AXES, axis_types=(AxisType.Auto,) * 3)


@pytest.mark.parametrize(
    "loss, scalars, batch, mebibytes",
    [
        (clip_info_nce, 1, 65_536, 80),
        (clip_info_nce, 1, 1_048_576, 256),
        (sigmoid_contrastive, 2, 1_048_576, 256),
    ],
)
def test_temporaries_of_the_ring(mesh, loss, scalars, batch, mebibytes):
    """Issue 5: at most 80 MiB per chip at 65,536, and 256 MiB at 1,048,576; nothing of N rows on one chip."""
    rows = jax.ShapeDtypeStruct((batch, WIDTH), jnp.bfloat16, sharding=batch_sharding(mesh))
    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh))
    arguments = (rows, rows, *[scalar] * scalars)

    def mean(*values):
        total, weight = loss(*values, mesh=mesh, impl="ring")
        return total / weight

    compiled = jax.jit(jax.value_and_grad(mean, argnums=tuple(range(len(arguments))))).lower(*arguments).compile()
    stats, text = compiled.memory_analysis(), compiled.as_text()
    assert stats.temp_size_in_bytes <= mebibytes * 2**20
    assert stats.argument_size_in_bytes <= 2 * batch // CHIPS * WIDTH * 2 + 4096
    assert "collective-permute" in text and "all-gather" not in text and f"[{batch}," not in text
    print(f"{loss.__name__} at {batch}: {stats.temp_size_in_bytes / 2**20:.2f} MiB of temporaries per chip")
