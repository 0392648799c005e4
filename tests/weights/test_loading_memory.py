"""Peak memory of loading a LLaMA at its real size: synthetic shards on disk, a process of its own, its VmHWM.

    python -m pytest -m slow -s tests/weights/test_loading_memory.py -k 7b

writes 13.5 GB of shards below --basetemp, needs about 15 GB of free memory, takes some minutes, and removes the shards.
Where disk or memory do not suffice, the test says so and is skipped.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.nn.llama import PRESETS, LanguageModel, LlamaConfig
from vtjax.trees import flatten
from vtjax.weights.llama import config_to_hf, key_map, published_shape
from vtjax.weights.safetensors_io import write_safetensors

SIZES = {
    "3b": LlamaConfig(width=3200, layers=26, heads=32, kv_heads=32, head_dim=100, ffn_width=8640, positions=2048),
    "7b": PRESETS["7b"],
}
MEASURE = """
import resource, sys, time
import jax
jax.config.update("jax_platforms", "cpu")
import numpy as np
from vtjax.weights.llama import load_llama
from vtjax.weights.safetensors_io import SafetensorsReader
from vtjax.nn.quantize import nbytes
from vtjax.trees import flatten
peak = lambda: int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
load_llama(sys.argv[1])
before, start = peak(), time.time()
_, params = load_llama(sys.argv[2])
print(peak(), before, nbytes(params), time.time() - start, flush=True)
flat, reader = flatten(params), SafetensorsReader(sys.argv[2])
last = flat["layers/attention/query/kernel"].shape[0] - 1
row = np.asarray(flat["layers/ffn/down/kernel"][last, 7])
assert np.array_equal(row, reader.read(f"model.layers.{last}.mlp.down_proj.weight", (slice(None), slice(7, 8)))[:, 0])
"""
STARTED = LlamaConfig(vocab_size=24, width=16, layers=1, heads=2, kv_heads=2, head_dim=8, ffn_width=24, positions=32)


class Synthetic(dict):
    """Random tensors under their published names; those of one shape are the same, so they cost no time to make."""

    def __init__(self, config):
        self.shapes = flatten(LanguageModel(config).shapes())
        self.targets = dict(key_map(config))
        self.noise = np.random.default_rng(0).standard_normal(1_000_003).astype(jnp.bfloat16)

    def items(self):
        made = {}
        for name, target in self.targets.items():
            shape = published_shape(target, self.shapes[target.path].shape)
            if shape not in made:
                made[shape] = np.resize(self.noise, shape)
            yield name, made[shape]


def write(folder, config, shard=1_000_000_000):
    write_safetensors(folder / "model.safetensors", Synthetic(config), max_shard_bytes=shard)
    (folder / "config.json").write_text(json.dumps(config_to_hf(config)))


def available():
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("size", SIZES)
def test_peak_is_at_most_a_third_above_the_model(tmp_path, size):
    config = SIZES[size]
    expected = 2 * sum(int(np.prod(x.shape)) for x in flatten(LanguageModel(config).shapes()).values())
    if available() < 1.1 * expected + 2**30 or shutil.disk_usage(tmp_path).free < 1.1 * expected:
        pytest.skip(f"{size} needs {1.1 * expected / 2**30 + 1:.1f} GiB of free memory and of disk")
    write(tmp_path / "tiny", STARTED)
    try:
        write(tmp_path / "model", config)
        root = pathlib.Path(__file__).parents[2]
        command = [sys.executable, "-c", MEASURE, str(tmp_path / "tiny"), str(tmp_path / "model")]
        environment = os.environ | {"PYTHONPATH": str(root)}
        environment.pop("XLA_FLAGS", None)  # the suite's turn XLA's optimisation off, which is slow at this size
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env=environment)
        pathlib.Path(f"/proc/{child.pid}/oom_score_adj").write_text("1000")
        while child.poll() is None:
            if available() < 2**29:
                child.kill()
                child.wait()
                pytest.fail("stopped before the machine ran out of memory; others use too much of it, or loading does")
            time.sleep(0.2)
        assert child.returncode == 0
        peak, before, held, seconds = map(float, child.stdout.read().split())
    finally:
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
    gib = f"{held / 2**30:.2f} GiB of bfloat16, peak {peak / 2**30:.2f}, of which {before / 2**30:.2f} before loading"
    print(f"\n{size}: {gib}: {peak / held:.3f}x in all, {(peak - before) / held:.3f}x for loading; {seconds:.0f} s")
    assert held == expected
    assert peak <= 1.3 * held
