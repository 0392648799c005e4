"""`python -m vtjax.convert` in this process: every kind there and back bit for bit, and what it refuses."""

import dataclasses
import json
import os
import pickle
import re
import subprocess
import sys
import time
import zipfile

import jax
import ml_dtypes
import numpy as np
import pytest
from converting import OURS, random_like, same, torch_file

from vtjax.methods.car import released
from vtjax.nn.bert import BertConfig
from vtjax.nn.clip import ClipConfig, TextConfig
from vtjax.nn.llama import LanguageModel, LlamaConfig
from vtjax.nn.lora import LoraConfig, init_lora
from vtjax.nn.vit import VisionConfig, stack_layers
from vtjax.training.checkpoint import load_params
from vtjax.training.initial import from_checkpoint
from vtjax.trees import flatten
from vtjax.weights import bert, clip, llama, peft
from vtjax.weights.safetensors_io import SafetensorsReader, write_safetensors

BERT = BertConfig(vocab_size=20, width=8, layers=1, heads=2, ffn_width=12, positions=16)
CLIP = ClipConfig(
    10,
    VisionConfig(image_size=8, patch_size=4, width=64, layers=2, heads=1, mlp_width=12),
    TextConfig(vocab_size=30, context_length=9, width=64, layers=2, heads=1, mlp_width=20),
)
LLAMA = LlamaConfig(vocab_size=24, width=16, layers=2, heads=4, kv_heads=2, head_dim=4, ffn_width=24, positions=32)
LORA = LoraConfig(rank=3, alpha=6.0, targets=r"layers/attention/(query|out)/kernel")
DISTILBERT = dataclasses.replace(BERT, kind="distilbert", width=64, heads=1, token_types=0, relative_buckets=0)


def published(folder, kind):
    """A tiny checkpoint of `kind` in its published layout, its parameters, and flags that it needs."""
    if kind == "bert":
        params = random_like(bert.expected_shapes(BERT))
        bert.save_bert(folder, BERT, params)
        return folder, params, []
    if kind == "clip":
        params = random_like(clip.expected_shapes(CLIP))
        clip.save_clip_hf(folder, CLIP, params)
        return folder, params, []
    if kind == "llama":
        params = random_like(LanguageModel(LLAMA).shapes(), ml_dtypes.bfloat16)
        llama.save_llama(folder, LLAMA, params, max_shard_bytes=4000)
        assert len(list(folder.glob("*.safetensors"))) > 2
        return folder, params, []
    if kind == "peft":
        base = folder.parent / "base"
        base.mkdir(parents=True)
        (base / "config.json").write_text(json.dumps(llama.config_to_hf(LLAMA)))
        params = random_like(init_lora(jax.random.key(0), LanguageModel(LLAMA).shapes(), LORA))
        peft.save_peft(folder, LORA, params, "somebody/absent-base")
        return folder, params, [f"--base={base}"]
    from vtjax.methods.car.config import CarConfig, CarModelConfig, CarTextConfig

    config = CarConfig(CarModelConfig(motion_width=5, latent=8, layers=1, ff=12), CarTextConfig(width=6))
    params = random_like(jax.eval_shape(lambda: released.init(config)))
    tensors = released.to_tensors(params)
    if kind == "car":
        params["language_model"] = random_like(bert.expected_shapes(DISTILBERT), seed=1)
        names = bert.to_hf(DISTILBERT, params["language_model"])
        tensors |= {released.LANGUAGE_MODEL + name: value for name, value in names.items()}
    write_safetensors(folder / "released.safetensors", tensors)
    return folder / "released.safetensors", params, []


@pytest.mark.parametrize("kind", ["bert", "clip", "llama", "peft", "tmr", "car"])
def test_there_and_back_is_bitwise(convert, tmp_path, kind):
    source, params, more = published(tmp_path / "hf", kind)
    (tmp_path / "hf" / "tokenizer.json").write_text("{}")
    status, printed = convert(f"--from={source}", f"--to={tmp_path / 'ours'}", *more)
    assert status == 0, printed
    assert printed.startswith(f"{kind} from {source}: ") and "0 missing, 0 unused, 0 mis-shaped" in printed
    same(load_params(tmp_path / "ours" / "checkpoints"), params)
    described = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert described["kind"] == kind and described["source"] == str(source)
    # What config.train.initial does with it.
    same(from_checkpoint(str(tmp_path / "ours"), params), params)

    status, printed = convert(f"--from={tmp_path / 'ours'}", f"--to={tmp_path / 'back'}", "--reverse")
    assert status == 0, printed
    before, after = SafetensorsReader(source), SafetensorsReader(tmp_path / "back")
    same(dict(after), dict(before))
    settings = tmp_path / "hf" / ("adapter_config.json" if kind == "peft" else "config.json")
    if settings.is_file():
        assert json.loads((tmp_path / "back" / settings.name).read_text()) == json.loads(settings.read_text())
    assert (tmp_path / "back" / "tokenizer.json").read_text() == "{}"
    assert not list(tmp_path.glob(".*.partial"))


def test_tmr_of_three_torch_files(convert, tmp_path):
    source, params, _ = published(tmp_path / "hf", "tmr")
    tensors = dict(SafetensorsReader(source))
    weights = tmp_path / "tmr" / "last_weights"
    weights.mkdir(parents=True)
    for tower in released.TOWERS:
        own = {name.removeprefix(f"{tower}."): x for name, x in tensors.items() if name.startswith(tower)}
        torch_file(weights / f"{tower}.pt", own)
    status, printed = convert(f"--from={tmp_path / 'tmr'}", f"--to={tmp_path / 'ours'}")
    assert status == 0 and printed.startswith("tmr from"), printed
    same(load_params(tmp_path / "ours" / "checkpoints"), params)


def test_car_without_its_language_model(convert, tmp_path):
    source, params, _ = published(tmp_path / "hf", "car")
    status, printed = convert(f"--from={source}", f"--to={tmp_path / 'ours'}", "--kind=tmr")
    assert status == 0 and "--kind=car keeps it" in printed, printed
    del params["language_model"]
    same(load_params(tmp_path / "ours" / "checkpoints"), params)


def test_openai_file_takes_its_activation_from_the_flag_and_layers_can_be_stacked(convert, tmp_path):
    params = random_like(clip.expected_shapes(CLIP))
    write_safetensors(tmp_path / "raw.safetensors", clip.to_published(CLIP, params, "openai"))
    status, printed = convert(f"--from={tmp_path / 'raw.safetensors'}", f"--to={tmp_path / 'ours'}")
    assert status == 2 and "does not say which activation" in printed
    more = ["--activation=gelu", "--scan_layers"]
    status, printed = convert(f"--from={tmp_path / 'raw.safetensors'}", f"--to={tmp_path / 'ours'}", *more)
    assert status == 0, printed
    same(load_params(tmp_path / "ours" / "checkpoints"), stack_layers(params))
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["config"]["text"]["activation"] == "gelu"
    assert convert(f"--from={tmp_path / 'ours'}", f"--to={tmp_path / 'back'}", "--reverse")[0] == 0
    same(clip.load_clip(tmp_path / "back")[1], params)


@pytest.mark.parametrize(
    "kind, lost", [("bert", "encoder.layer.0.output.dense.weight"), ("clip", "text_projection.weight")]
)
def test_misfits_are_errors_until_they_are_named(convert, tmp_path, kind, lost):
    source, params, _ = published(tmp_path / "hf", kind)
    tensors = dict(SafetensorsReader(source))
    del tensors[lost]
    tensors["surprise.weight"] = np.ones(3, np.float32)
    write_safetensors(source / "model.safetensors", tensors)
    flags_ = [f"--from={source}", f"--to={tmp_path / 'ours'}"]
    status, printed = convert(*flags_)
    assert status == 2 and "1 missing, 1 unused, 0 mis-shaped" in printed and "surprise.weight" in printed
    missing, unused = f"--allow_missing={re.escape(lost)}", r"--allow_unused=surprise\..*"
    for some in ([missing], [unused]):
        assert convert(*flags_, *some)[0] == 2 and not (tmp_path / "ours").exists()
    status, printed = convert(*flags_, missing, unused)
    assert status == 0 and "1 missing, 1 unused" in printed and lost in printed, printed
    loaded, params = flatten(load_params(tmp_path / "ours" / "checkpoints")), flatten(params)
    assert loaded.keys() == params.keys()
    other = [name for name, value in loaded.items() if not np.array_equal(value, params[name])]
    assert len(other) == 1 and np.isfinite(loaded[other[0]]).all() and loaded[other[0]].std() > 0

    tensors[lost] = np.ones((3, 5), np.float32)
    write_safetensors(source / "model.safetensors", tensors)
    status, printed = convert(*flags_[:1], f"--to={tmp_path / 'other'}", missing, unused)
    assert status == 2 and "1 mis-shaped" in printed and "found (3, 5)" in printed


def test_malicious_pickle_is_refused_and_not_run(convert, tmp_path):
    class RunsSystem:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'owned'}",)

    for kind, name in (("auto", "evil.pt"), ("bert", "pytorch_model.bin"), ("tmr", "motion_encoder.pt")):
        folder = tmp_path / kind
        folder.mkdir()
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({"weight": RunsSystem()}, 2))
            archive.writestr("archive/version", "3\n")
        source = folder / name if kind == "auto" else folder
        if kind == "tmr":
            for tower in ("text_encoder", "motion_decoder"):
                (folder / f"{tower}.pt").write_bytes((folder / name).read_bytes())
        if kind == "bert":
            (folder / "config.json").write_text(json.dumps(bert.config_to_hf(BERT)))
        status, printed = convert(f"--from={source}", f"--to={tmp_path / 'ours'}", f"--kind={kind}")
        assert status == 2 and re.search(r"(posix|nt)\.system", printed) and name in printed, printed
    assert not (tmp_path / "owned").exists() and not (tmp_path / "ours").exists()


def test_damaged_safetensors_are_named(convert, tmp_path):
    source, _, _ = published(tmp_path / "hf", "bert")
    file = source / "model.safetensors"
    whole = file.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    damaged = {"cut": whole[:-10], "cut in the header": whole[: header // 2], "empty": b""}
    for bit in (0, 9, 8 * 8 + 3, 8 * (8 + header // 2)):  # its length, its opening brace, its middle
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged[f"bit {bit}"] = bytes(flipped)
    for what, content in damaged.items():
        file.write_bytes(content)
        status, printed = convert(f"--from={source}", f"--to={tmp_path / 'ours'}")
        assert status == 2 and printed.startswith("error: "), (what, printed)
        assert "model.safetensors" in printed or "does not fit the model" in printed, (what, printed)
        assert not (tmp_path / "ours").exists()


def test_what_the_user_can_get_wrong(convert, tmp_path):
    source, _, _ = published(tmp_path / "hf", "bert")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "t5"}')
    adapter, _, _ = published(tmp_path / "a" / "hf", "peft")
    ours = f"--to={tmp_path / 'ours'}"
    for words, arguments in {
        "exists already": [f"--from={source}", f"--to={tmp_path / 'full'}"],
        "of no known kind (model_type 't5'": [f"--from={tmp_path / 'odd'}", ours],
        "no such folder, and not a hub id": [f"--from={tmp_path / 'absent'}", ours],
        "'[' is not a regular expression": [f"--from={source}", ours, "--allow_unused=["],
        "unexpected argument 'oops'": [f"--from={source}", ours, "oops"],
        "not of a converted checkpoint": [f"--from={source}", ours, "--reverse"],
        "no such file": [f"--from={tmp_path / 'full'}", ours, "--reverse"],
        "give --base": [f"--from={adapter}", ours],
        "--to must have a value": [f"--from={source}"],
    }.items():
        status, printed = convert(*arguments)
        assert status == 2 and words in printed, (words, printed)
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine" and not (tmp_path / "ours").exists()


def test_rounding_is_said(convert, tmp_path):
    source, params, _ = published(tmp_path / "hf", "bert")
    status, printed = convert(f"--from={source}", f"--to={tmp_path / 'low'}", "--dtype=bfloat16")
    assert status == 0 and "published as float32, rounded to bfloat16" in printed
    low = load_params(tmp_path / "low" / "checkpoints")
    same(low, jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), params))
    half = {name: x.astype(np.float16) for name, x in SafetensorsReader(source).items()}
    write_safetensors(source / "model.safetensors", half)
    status, printed = convert(f"--from={source}", f"--to={tmp_path / 'wide'}")
    assert status == 0 and "rounded" not in printed


def test_help_is_quick_and_names_the_flags_and_kinds():
    from vtjax.convert import layouts

    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-m", "vtjax.convert", "--help"], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    for name in OURS:
        assert re.search(rf"--(\[no\])?{name}\b", result.stdout), name
    lines = result.stdout.splitlines()
    for kind, layout in layouts().items():
        assert f"  {kind:9}{layout.about}" in lines and len(layout.about) < 110, kind
    assert seconds < 3
    code = "import sys, vtjax.convert as m; m.define_flags(); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_trained_run_goes_back_to_the_released_layout(convert, tmp_path):
    from vtjax.config import Experiment, save_experiment
    from vtjax.weights import store
    from vtjax.weights.source import Source

    source, params, _ = published(tmp_path / "hf", "tmr")
    method = released.config_from_tensors({n: x.shape for n, x in SafetensorsReader(source).items()}, "released")
    work = tmp_path / "run"
    store.write(work / "train", "tmr", {}, params, Source(source))
    save_experiment(Experiment("car", method), work / "config.json")
    status, printed = convert(f"--from={work}", f"--to={tmp_path / 'back'}", "--reverse")
    assert status == 0 and printed.startswith("tmr from"), printed
    same(dict(SafetensorsReader(tmp_path / "back")), dict(SafetensorsReader(source)))
    status, printed = convert(f"--from={work}", f"--to={tmp_path / 'other'}", "--reverse", "--kind=bert")
    assert status == 2 and "is of kind 'tmr'" in printed
