"""LLaMA folders in and out: bitwise round trip, mismatches named, loading streamed into shards in bounded memory."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.config import Mesh
from vtjax.errors import VtjaxError
from vtjax.nn.llama import PRESETS, RULES, LanguageModel, LlamaConfig
from vtjax.nn.quantize import quantize
from vtjax.sharding.mesh import make_mesh
from vtjax.sharding.partition import partition
from vtjax.trees import flatten
from vtjax.weights.llama import (
    config_from_hf,
    config_to_hf,
    from_hf,
    key_map,
    load_llama,
    published_shape,
    save_llama,
    to_hf,
)
from vtjax.weights.safetensors_io import SafetensorsReader, write_safetensors

CONFIG = LlamaConfig(
    vocab_size=24, width=16, layers=3, heads=4, kv_heads=2, head_dim=6, ffn_width=20, positions=64, rope_theta=5e4
)


@pytest.fixture(scope="module")
def params():
    return jax.jit(LanguageModel(CONFIG).init)(jax.random.key(0))


@pytest.fixture(scope="module")
def folder(params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    save_llama(folder, CONFIG, params, max_shard_bytes=10_000)
    return folder


def assert_equal(a, b):
    a, b = flatten(a), flatten(b)
    assert set(a) == set(b)
    for path in a:
        assert a[path].dtype == b[path].dtype, path
        np.testing.assert_array_equal(np.asarray(a[path]), np.asarray(b[path]), path)


def test_round_trip_is_bitwise(params, folder, tmp_path):
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    config, loaded = load_llama(folder, dtype="float32")
    assert config == CONFIG
    assert_equal(loaded, params)
    save_llama(tmp_path, config, loaded)
    first, second = SafetensorsReader(folder), SafetensorsReader(tmp_path)
    assert set(first) == set(second)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_layout_by_hand(params, folder):
    tensors = SafetensorsReader(folder)
    assert tensors.shape("model.layers.0.self_attn.k_proj.weight") == (2 * 6, 16)
    assert tensors.shape("model.layers.0.self_attn.o_proj.weight") == (16, 4 * 6)
    query = np.asarray(params["layers"]["attention"]["query"]["kernel"])
    out = np.asarray(params["layers"]["attention"]["out"]["kernel"])
    for head in range(4):
        rows = slice(6 * head, 6 * head + 6)
        np.testing.assert_array_equal(tensors["model.layers.2.self_attn.q_proj.weight"][rows], query[2][:, head].T)
        np.testing.assert_array_equal(tensors["model.layers.1.self_attn.o_proj.weight"][:, rows], out[1][head].T)
    down = np.asarray(params["layers"]["ffn"]["down"]["kernel"][1])
    np.testing.assert_array_equal(tensors["model.layers.1.mlp.down_proj.weight"], down.T)


def test_bfloat16_rounds_once(params, folder):
    _, loaded = load_llama(folder)
    assert_equal(loaded, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params))


@pytest.mark.parametrize("int8", [False, True])
def test_loads_straight_into_its_shards(params, folder, int8):
    mesh = make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    _, loaded = load_llama(folder, mesh, "float32", int8=int8)
    expected = quantize(params) if int8 else params
    where = flatten(partition(jax.eval_shape(lambda: expected), RULES, mesh).shardings)
    for path, leaf in flatten(loaded).items():
        assert leaf.sharding.is_equivalent_to(where[path], leaf.ndim), path
        target = flatten(expected)[path]
        assert leaf.dtype == target.dtype
        np.testing.assert_allclose(np.asarray(leaf), np.asarray(target), rtol=1e-6, err_msg=path)


def test_each_device_reads_only_its_part(folder, monkeypatch):
    read, sizes = SafetensorsReader.read, {}

    def spy(self, name, index=None):
        value = read(self, name, index)
        sizes.setdefault(name, []).append(value.shape)
        return value

    monkeypatch.setattr(SafetensorsReader, "read", spy)
    load_llama(folder, make_mesh(Mesh(data=2, fsdp=2, tensor=2)), "float32")
    assert sorted(sizes["model.layers.0.self_attn.q_proj.weight"]) == [(12, 8)] * 4  # out over tensor, in over fsdp
    assert sorted(sizes["model.layers.0.self_attn.o_proj.weight"]) == [(8, 12)] * 4
    assert sizes["model.norm.weight"] == [(16,)]


def test_what_does_not_fit_is_named(params, folder, tmp_path):
    tensors = dict(SafetensorsReader(folder))
    extra = tensors | {"model.layers.1.self_attn.rotary_emb.inv_freq": np.ones(3, np.float32)}
    loaded, result = from_hf(CONFIG, extra, dtype="float32")
    assert_equal(loaded, params)
    assert result.unused == ("model.layers.1.self_attn.rotary_emb.inv_freq",)
    for change, message in (
        ({"model.layers.3.mlp.up_proj.weight": np.ones((20, 16))}, "unused: model.layers.3.mlp.up_proj.weight"),
        ({"model.norm.weight": np.ones(15)}, r"mis-shaped: model.norm.weight: expected \(16,\), found \(15,\)"),
        ({"model.layers.0.mlp.up_proj.weight": np.ones((16, 20))}, r"expected \(20, 16\), found \(16, 20\)"),
        ({"lm_head.weight": None}, "missing: lm_head.weight"),
    ):
        changed = {k: v for k, v in (tensors | change).items() if v is not None}
        with pytest.raises(VtjaxError, match=message):
            from_hf(CONFIG, changed)
    with pytest.raises(VtjaxError, match="no weights; expected model.safetensors or pytorch_model.bin"):
        (tmp_path / "config.json").write_text(json.dumps(config_to_hf(CONFIG)))
        load_llama(tmp_path)
    with pytest.raises(VtjaxError, match="int8 parameters cannot be exported"):
        to_hf(CONFIG, quantize(params))
    with pytest.raises(VtjaxError, match="not divisible by mesh axis tensor=8"):
        load_llama(folder, make_mesh(Mesh(data=1, fsdp=1, tensor=8)))


def test_damaged_files(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    with pytest.raises(VtjaxError, match=f"{shard.name}: not a whole safetensors file"):
        load_llama(tmp_path)
    shard.unlink()
    with pytest.raises(VtjaxError, match="1 of .* shards are not there"):
        load_llama(tmp_path)


def test_config_round_trip_and_older_spellings():
    for config in (*PRESETS.values(), CONFIG, LlamaConfig(tied=True, stop_ids=(2, 7))):
        assert config_from_hf(json.loads(json.dumps(config_to_hf(config)))) == config
    vicuna = {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "pretraining_tp": 1,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    assert config_from_hf(vicuna) == PRESETS["13b"]
    assert config_from_hf(vicuna | {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}).rope_theta == 5e5
    for change, message in (
        ({"model_type": "gpt2"}, "model_type 'gpt2'; expected 'llama'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "RoPE scaling 'linear' is not supported"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "RoPE scaling 'llama3'"),
        ({"attention_bias": True}, "attention_bias True"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ):
        with pytest.raises(VtjaxError, match=message):
            config_from_hf(vicuna | change)
    with pytest.raises(VtjaxError, match="no hidden_size"):
        config_from_hf({k: v for k, v in vicuna.items() if k != "hidden_size"})


MEASURE = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
from vtjax.weights.llama import load_llama
from vtjax.nn.quantize import nbytes
# Not ru_maxrss: after fork and exec it still holds the parent's peak.
peak = lambda: int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
load_llama(sys.argv[1])  # a tiny one, so that libraries and compiler are loaded
before = peak()
_, params = load_llama(sys.argv[2])
print(peak() - before, nbytes(params))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from Linux's /proc")
def test_peak_memory_of_loading(folder, tmp_path):
    config = LlamaConfig(
        vocab_size=2000, width=1024, layers=16, heads=8, kv_heads=8, head_dim=128, ffn_width=2752, positions=64
    )
    shapes = flatten(LanguageModel(config).shapes())
    noise = np.random.default_rng(0).standard_normal(1_000_003).astype(jnp.bfloat16)
    tensors = {n: np.resize(noise, published_shape(t, shapes[t.path].shape)) for n, t in key_map(config)}
    write_safetensors(tmp_path / "model.safetensors", tensors, max_shard_bytes=150_000_000)
    (tmp_path / "config.json").write_text(json.dumps(config_to_hf(config)))
    del tensors
    command = [sys.executable, "-c", MEASURE, str(folder), str(tmp_path)]
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    # The suite's XLA_FLAGS turn optimisation off, which a loading of this size feels.
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True, timeout=300, env=env)
    used, size = map(int, done.stdout.split())
    print(f"peak {used / 2**20:.0f} MiB for {size / 2**20:.0f} MiB of bfloat16: {used / size:.2f}x")
    assert size > 300 * 2**20 and used > 0.9 * size
    assert used <= 1.3 * size


def test_reader_lets_go_of_what_it_mapped(tmp_path, monkeypatch):
    from vtjax.weights import safetensors_io

    monkeypatch.setattr(safetensors_io, "MAPPED_BYTES", 100)
    tensors = {f"t{n}": np.full((8, 8), n, np.float32) for n in range(5)}
    write_safetensors(tmp_path / "model.safetensors", tensors)
    reader = SafetensorsReader(tmp_path)
    kept = [reader.read(name) for name in reader]
    for n, value in enumerate(kept):
        assert np.all(value == n)
    assert np.all(reader.read("t3", (slice(0, 2), slice(1, 3))) == np.full((2, 2), 3))
