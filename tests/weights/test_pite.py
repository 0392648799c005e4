"""PiTe's and VTimeLLM's folders: names with any prefix, both ways bit for bit, and what does not fit."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from converting import random_like, same, torch_file

from vtjax.errors import VtjaxError
from vtjax.nn.llama import LanguageModel, LlamaConfig
from vtjax.nn.lora import LoraConfig, init_lora, merge
from vtjax.training.checkpoint import load_params
from vtjax.trees import flatten
from vtjax.weights import llama, peft, pite
from vtjax.weights.safetensors_io import SafetensorsReader, write_safetensors

LLAMA = LlamaConfig(vocab_size=24, width=16, layers=2, heads=4, kv_heads=4, head_dim=4, ffn_width=24, positions=32)
LORA = LoraConfig(rank=4, alpha=8.0, dropout=0.05)
BASE = LanguageModel(LLAMA).shapes()
LONG = "base_model.model.model."  # of non_lora_trainables.bin


def heads(seed, **outputs):
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, (out, inputs) in outputs.items():
        tensors[f"{name}.weight"] = rng.standard_normal((out, inputs)).astype(np.float32)
        tensors[f"{name}.bias"] = rng.standard_normal(out).astype(np.float32)
    return tensors


def adapter(seed):
    return random_like(init_lora(jax.random.key(0), BASE, LORA), seed=seed)


@pytest.fixture
def base(tmp_path):
    (tmp_path / "vicuna").mkdir()
    (tmp_path / "vicuna" / "config.json").write_text(json.dumps(llama.config_to_hf(LLAMA)))
    return tmp_path / "vicuna"


@pytest.fixture
def released(tmp_path):
    """Three stages as pite.md 8.1 has them: (folder, tensors by stage and file)."""
    root = tmp_path / "checkpoint"
    files = {
        ("stage1", "vision_adapter"): heads(1, vision_adapter=(16, 12)),
        ("stage1", "non_lora_trainables"): {
            LONG + n: x for n, x in heads(2, localization_projector=(2, 16)).items()
        },
        ("stage2", "non_lora_trainables"): {LONG + n: x for n, x in heads(3, trajectory_projector=(24, 16)).items()},
    }
    for i in (1, 2, 3):
        peft.save_peft(root / f"pite-vicuna-7b-v1.5-stage{i}", LORA, adapter(i), "lmsys/vicuna-7b-v1.5")
    for (stage, stem), tensors in files.items():
        torch_file(root / f"pite-vicuna-7b-v1.5-{stage}" / f"{stem}.bin", tensors)
    return root, files


def test_all_stages_there_and_back(convert, tmp_path, released, base):
    root, files = released
    status, printed = convert(f"--from={root}", f"--to={tmp_path / 'ours'}", f"--base={base}")
    assert status == 0 and printed.startswith("pite from"), printed
    assert "90 tensors matched, 0 missing, 0 unused, 0 mis-shaped" in printed  # 3 stages of 2 layers of 14, and 3 heads
    params = load_params(tmp_path / "ours" / "checkpoints")
    assert set(params["stage1"]) == {"lora", "vision_adapter", "localization_projector"}
    assert set(params["stage2"]) == {"lora", "trajectory_projector"} and set(params["stage3"]) == {"lora"}
    same(params["stage2"]["lora"], adapter(2))
    weight = files["stage1", "vision_adapter"]["vision_adapter.weight"]
    np.testing.assert_array_equal(params["stage1"]["vision_adapter"]["kernel"], weight.T)
    bias = files["stage2", "non_lora_trainables"][LONG + "trajectory_projector.bias"]
    np.testing.assert_array_equal(params["stage2"]["trajectory_projector"]["bias"], bias)
    assert convert(f"--from={tmp_path / 'ours'}", f"--to={tmp_path / 'back'}", "--reverse")[0] == 0
    for i in (1, 2, 3):
        name = f"pite-vicuna-7b-v1.5-stage{i}"
        theirs, back = root / name, tmp_path / "back" / name
        file = peft.TENSOR_FILES[0]
        same(dict(SafetensorsReader(back / file)), dict(SafetensorsReader(theirs / file)))
        assert json.loads((back / peft.CONFIG_FILE).read_text()) == json.loads((theirs / peft.CONFIG_FILE).read_text())
    for (stage, stem), tensors in files.items():
        file = tmp_path / "back" / f"pite-vicuna-7b-v1.5-{stage}" / f"{stem}.safetensors"
        same(dict(SafetensorsReader(file)), tensors)
    # What was written is read again as what it came from.
    assert convert(f"--from={tmp_path / 'back'}", f"--to={tmp_path / 'again'}", f"--base={base}")[0] == 0
    same(load_params(tmp_path / "again" / "checkpoints"), params)


def test_one_stage_of_vtimellm(convert, tmp_path):
    folder = tmp_path / "vtimellm-vicuna-v1-5-7b-stage1"
    folder.mkdir()
    tensors = {f"model.{n}": x for n, x in heads(4, mm_projector=(16, 12)).items()}
    torch_file(folder / "mm_projector.bin", tensors)
    status, printed = convert(f"--from={folder}", f"--to={tmp_path / 'ours'}")
    assert status == 0 and "2 tensors matched" in printed, printed
    params = load_params(tmp_path / "ours" / "checkpoints")
    np.testing.assert_array_equal(params["stage1"]["vision_adapter"]["kernel"], tensors["model.mm_projector.weight"].T)
    assert convert(f"--from={tmp_path / 'ours'}", f"--to={tmp_path / 'back'}", "--reverse")[0] == 0
    same(dict(SafetensorsReader(tmp_path / "back" / "mm_projector.safetensors")), tensors)


def test_half_precision_goes_back_as_it_came(convert, tmp_path, base):
    folder = tmp_path / "stage3"
    peft.save_peft(folder, LORA, jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), adapter(3)), "a/base")
    write_safetensors(folder / "vision_adapter.safetensors", {
        n: x.astype(ml_dtypes.bfloat16) for n, x in heads(1, vision_adapter=(16, 12)).items()
    })  # fmt: skip
    status, printed = convert(f"--from={folder}", f"--to={tmp_path / 'ours'}", f"--base={base}", "--dtype=bfloat16")
    assert status == 0 and "rounded" not in printed, printed
    assert convert(f"--from={tmp_path / 'ours'}", f"--to={tmp_path / 'back'}", "--reverse")[0] == 0
    for file in ("vision_adapter.safetensors", "adapter_model.safetensors"):
        same(dict(SafetensorsReader(tmp_path / "back" / file)), dict(SafetensorsReader(folder / file)))


def test_an_adapter_of_a_head_is_merged_and_said(convert, tmp_path, base):
    folder = tmp_path / "stage1"
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((4, 12)).astype(np.float32), rng.standard_normal((16, 4)).astype(np.float32)
    peft.save_peft(folder, LORA, adapter(1), "a/base", extras={
        LONG + "vision_adapter.lora_A.weight": a, LONG + "vision_adapter.lora_B.weight": b
    })  # fmt: skip
    own = heads(1, vision_adapter=(16, 12))
    weight, bias = own["vision_adapter.weight"], own["vision_adapter.bias"]
    held = {
        LONG + "vision_adapter.base_layer.weight": weight,
        LONG + "vision_adapter.base_layer.bias": bias,
        LONG + "vision_adapter.original_module.weight": weight,
    }
    torch_file(folder / "non_lora_trainables.bin", held)
    status, printed = convert(f"--from={folder}", f"--to={tmp_path / 'ours'}", f"--base={base}")
    assert status == 0 and "stage1: the adapter of vision_adapter was merged into it" in printed, printed
    assert "left out, an adapter of a head, merged into it: stage1/model.vision_adapter.lora_A.weight" in printed
    assert "left out, a head as it was before training: stage1/model.vision_adapter.original_module.weight" in printed
    kernel = load_params(tmp_path / "ours" / "checkpoints")["stage1"]["vision_adapter"]["kernel"]
    expected = weight.astype(np.float64) + 2 * b.astype(np.float64) @ a
    np.testing.assert_allclose(kernel, expected.T, rtol=1e-5, atol=1e-5)


def test_stages_merge_into_a_published_language_model(tmp_path, released):
    """The three adapters added in turn, exported as shards, read again: the base plus the sum of scale * B A."""
    root, _ = released
    params = random_like(BASE, seed=9)
    trees = [pite.load_stage(f, BASE).params["lora"] for f in pite.stage_folders(root).values()]
    merged = merge(params, [(LORA, tree) for tree in trees])
    llama.save_llama(tmp_path / "merged", LLAMA, merged, max_shard_bytes=4000)
    config, again = llama.load_llama(tmp_path / "merged", dtype="float32")
    assert config == LLAMA
    same(jax.tree.map(np.asarray, again), jax.tree.map(np.asarray, merged))
    name = "model.layers.1.mlp.down_proj"
    theirs = SafetensorsReader(tmp_path / "merged")[f"{name}.weight"]
    total = flatten(params)["layers/ffn/down/kernel"][1].T.astype(np.float64)
    for i in (1, 2, 3):
        tensors = SafetensorsReader(root / f"pite-vicuna-7b-v1.5-stage{i}" / peft.TENSOR_FILES[0])
        a, b = (tensors[f"{peft.PREFIX}{name}.lora_{side}.weight"].astype(np.float64) for side in "AB")
        total += 2 * b @ a
    np.testing.assert_allclose(theirs, total, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"mm_projector.0.weight": (16, 12), "mm_projector.2.weight": (16, 16)}, "projector of LLaVA-1.5"),
        ({"vision_adapter.weight": (16, 12)}, "missing: vision_adapter/bias"),
        ({"vision_adapter.weight": (12, 16), "vision_adapter.bias": (12,)}, r"expected \(16, 16\), found \(12, 16\)"),
        ({"x.localization_projector.weight": (3, 16), "x.localization_projector.bias": (3,)}, r"expected \(2, 16\)"),
        ({"trajectory_projector.weight": (7, 16), "trajectory_projector.bias": (7,)}, r"expected \(6, 16\)"),
        ({"a.mm_projector.bias": (16,), "vision_adapter.bias": (16,)}, "are the same parameter"),
        ({"vision_adapter.lora_A.weight": (4, 12)}, "without its lora_A, its lora_B or the layer's own weight"),
    ],
)
def test_heads_that_do_not_fit_are_named(tmp_path, tensors, message):
    peft.save_peft(tmp_path, LORA, adapter(1), "a/base")
    torch_file(tmp_path / "non_lora_trainables.bin", {n: np.ones(s, np.float32) for n, s in tensors.items()})
    with pytest.raises(VtjaxError, match=message):
        pite.load_stage(tmp_path, BASE)


def test_what_the_user_can_get_wrong(convert, tmp_path, released, base):
    root, files = released
    odd = files["stage1", "vision_adapter"] | {"odd.weight": np.ones(3, np.float32)}
    torch_file(root / "pite-vicuna-7b-v1.5-stage1" / "vision_adapter.bin", odd)
    ours = f"--to={tmp_path / 'ours'}"
    status, printed = convert(f"--from={root}", ours, f"--base={base}")
    assert status == 2 and "unused: stage1/odd.weight" in printed, printed
    status, printed = convert(f"--from={root}", ours, f"--base={base}", r"--allow_unused=stage\d/odd\..*")
    assert status == 0 and "1 unused" in printed, printed
    differs = {n: x + 1 for n, x in files["stage1", "vision_adapter"].items()}
    torch_file(root / "pite-vicuna-7b-v1.5-stage1" / "non_lora_trainables.bin", differs)
    status, printed = convert(f"--from={root}", f"--to={tmp_path / 'o'}", f"--base={base}", "--allow_unused=.*odd.*")
    assert status == 2 and "vision_adapter.weight differs between non_lora_trainables.bin and" in printed, printed
    (root / "copy-of-stage1").mkdir()
    torch_file(root / "copy-of-stage1" / "vision_adapter.bin", files["stage1", "vision_adapter"])
    status, printed = convert(f"--from={root}", f"--to={tmp_path / 'o'}", f"--base={base}")
    assert status == 2 and "are stage1; keep one" in printed, printed
    status, printed = convert(f"--from={base}", f"--to={tmp_path / 'o'}", "--kind=pite")
    assert status == 2 and "not a folder of a training stage" in printed, printed
