"""PEFT adapter folders in and out, without the peft package."""

import json

import jax
import numpy as np
import pytest

from vtjax.errors import VtjaxError
from vtjax.nn.llama import LanguageModel, LlamaConfig
from vtjax.nn.lora import LoraConfig, init_lora
from vtjax.trees import flatten
from vtjax.weights.peft import load_peft, save_peft
from vtjax.weights.safetensors_io import SafetensorsReader, write_safetensors

CONFIG = LlamaConfig(vocab_size=24, width=16, layers=3, heads=4, kv_heads=2, head_dim=6, ffn_width=20, positions=64)
LORA = LoraConfig(rank=2, alpha=6, dropout=0.05, rslora=True)
BASE = LanguageModel(CONFIG).shapes()


def adapter(config=LORA):
    rng = np.random.default_rng(0)
    tree = init_lora(jax.random.key(0), BASE, config)
    return jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), tree)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    save_peft(folder, LORA, adapter(), "a/base")
    return folder


def edit(source, target, settings=None, tensors=None):
    """A copy of an adapter folder with other settings and tensors; None removes a tensor."""
    found = dict(SafetensorsReader(source)) | (tensors or {})
    write_safetensors(target / "adapter_model.safetensors", {k: v for k, v in found.items() if v is not None})
    content = json.loads((source / "adapter_config.json").read_text()) | (settings or {})
    (target / "adapter_config.json").write_text(json.dumps(content))
    return target


def assert_same(a, b):
    a, b = flatten(a), flatten(b)
    assert set(a) == set(b)
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], path)


def test_round_trip_is_bitwise(folder):
    found = load_peft(folder, BASE)
    assert_same(found.tree, adapter())
    assert found.extras == {} and found.settings["base_model_name_or_path"] == "a/base"
    assert (found.config.rank, found.config.alpha, found.config.dropout, found.config.rslora) == (2, 6.0, 0.05, True)
    assert_same(init_lora(jax.random.key(0), BASE, found.config), init_lora(jax.random.key(0), BASE, LORA))


def test_published_names_and_layout(folder):
    tensors = SafetensorsReader(folder)
    assert len(tensors) == 3 * 7 * 2
    tree = adapter()["layers"]["attention"]["out"]
    name = "base_model.model.model.layers.1.self_attn.o_proj.lora_{}.weight"
    np.testing.assert_array_equal(tensors[name.format("A")], tree["a"][1].reshape(24, 2).T)
    np.testing.assert_array_equal(tensors[name.format("B")], tree["b"][1].T)
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["target_modules"] == sorted("q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split())
    assert (settings["peft_type"], settings["r"], settings["lora_alpha"], settings["bias"]) == ("LORA", 2, 6, "none")


def test_some_modules_only(tmp_path):
    config = LoraConfig(rank=2, targets=r"layers/(attention/query|ffn/down)/kernel")
    save_peft(tmp_path, config, adapter(config))
    found = load_peft(tmp_path, BASE)
    assert_same(found.tree, adapter(config))
    assert found.config.targets == r"layers/(attention/query|ffn/down)/kernel"


def test_names_of_unwrapped_dumps_and_other_tensors(folder, tmp_path):
    tensors = dict.fromkeys(SafetensorsReader(folder))
    for name, value in SafetensorsReader(folder).items():
        tensors[name.replace(".weight", ".default.weight")] = value
    projector = np.ones((4, 3), np.float32)
    tensors["base_model.model.model.vision_adapter.weight"] = projector
    tensors["base_model.model.model.vision_adapter.lora_A.weight"] = projector
    found = load_peft(edit(folder, tmp_path, tensors=tensors), BASE)
    assert_same(found.tree, adapter())
    assert set(found.extras) == {"model.vision_adapter.weight", "model.vision_adapter.lora_A.weight"}


def test_mismatches_are_named(folder, tmp_path):
    name = "base_model.model.model.layers.2.mlp.up_proj.lora_{}.weight"
    for tensors, message in (
        ({name.format("B"): None}, "missing: layer 2 layers/ffn/up/b"),
        ({name.format("A"): np.ones((3, 16), np.float32)}, r"layer 2 layers/ffn/up/a: expected \(2, 16\)"),
        ({name.format("A").replace(".2.", ".3."): np.ones((2, 16), np.float32)}, "unused: layer 3 layers/ffn/up/a"),
    ):
        with pytest.raises(VtjaxError, match=message):
            load_peft(edit(folder, tmp_path, tensors=tensors), BASE)
    with pytest.raises(VtjaxError, match="which the base does not have"):
        load_peft(folder, {"layers": {"ffn": BASE["layers"]["ffn"]}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "only 'LORA'"),
        ({"use_dora": True}, "use_dora True is not supported"),
        ({"bias": "all"}, "bias 'all'"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"init_lora_weights": "pissa_niter_4"}, "also changes the base"),
    ],
)
def test_other_kinds_are_refused(folder, tmp_path, settings, message):
    with pytest.raises(VtjaxError, match=message):
        load_peft(edit(folder, tmp_path, settings), BASE)


def test_missing_files(folder, tmp_path):
    with pytest.raises(VtjaxError, match="adapter_config.json: no such file"):
        load_peft(tmp_path, BASE)
    (tmp_path / "adapter_config.json").write_text((folder / "adapter_config.json").read_text())
    with pytest.raises(VtjaxError, match="expected adapter_model.safetensors or adapter_model.bin"):
        load_peft(tmp_path, BASE)
    write_safetensors(tmp_path / "adapter_model.safetensors", {"x": np.ones(2, np.float32)})
    with pytest.raises(VtjaxError, match="no LoRA factors of self_attn.q_proj"):
        load_peft(tmp_path, BASE)
    with pytest.raises(VtjaxError, match="no published name for this module"):
        save_peft(tmp_path, LORA, {"dense": {"a": np.ones((1, 4, 2)), "b": np.ones((1, 2, 4))}})
