"""LoRA against peft: outputs, merging, three adapters in turn, folders both ways, initialisation."""

import jax
import numpy as np
import pytest

from vtjax.nn.llama import LanguageModel, LlamaConfig
from vtjax.nn.lora import LoraConfig, init_lora, merge
from vtjax.weights.llama import from_hf
from vtjax.weights.peft import load_peft, save_peft

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
torch.set_num_threads(1)  # idle threads of small operations would spin

CONFIG = LlamaConfig(
    vocab_size=96, width=48, layers=3, heads=4, kv_heads=2, head_dim=12, ffn_width=80, positions=128, init_std=0.15
)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = np.random.default_rng(0).integers(3, 96, (2, 17)).astype(np.int32)


def base():
    torch.manual_seed(0)
    settings = transformers.LlamaConfig(
        vocab_size=96,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        initializer_range=0.15,
    )
    return transformers.LlamaForCausalLM(settings).eval()


def adapted(model, targets=ALL, seed=0, **more):
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", **more)
    model = peft.get_peft_model(model, config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.normal_(0, 0.1)
    return model.eval()


def torch_logits(model):
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits.numpy()


def params_of(model):
    return from_hf(CONFIG, {k: v.numpy() for k, v in model.state_dict().items()}, dtype="float32")[0]


def logits(params, lora=None, config=None):
    model = LanguageModel(CONFIG, (("one", config),) if config else ())
    return np.asarray(jax.jit(model)(params, IDS, lora={"one": lora} if config else None))


def assert_close(found, expected):
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize(("targets", "rslora"), [(ALL, False), (["q_proj", "down_proj"], True)])
def test_output_and_merge(tmp_path, targets, rslora):
    model = base()
    params = params_of(model)
    plain = logits(params)
    theirs = adapted(model, targets, use_rslora=rslora)
    theirs.save_pretrained(tmp_path)
    found = load_peft(tmp_path, params)
    expected = torch_logits(theirs)
    assert np.linalg.norm(expected - plain) > 0.05 * np.linalg.norm(plain)
    assert_close(logits(params, found.tree, found.config), expected)
    merged = theirs.merge_and_unload()
    mine = merge(params, [(found.config, found.tree)])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), mine, params_of(merged))
    assert_close(logits(mine), torch_logits(merged))


def test_three_stages_merged_one_after_the_other(tmp_path):
    """PiTe's recipe: merge, start a new adapter, merge it too (pite.md 2.3)."""
    model = base()
    params = params_of(model)
    pairs = []
    for stage in range(3):
        theirs = adapted(model, seed=stage)
        theirs.save_pretrained(tmp_path / f"stage{stage}")
        model = theirs.merge_and_unload()
        found = load_peft(tmp_path / f"stage{stage}", params)
        pairs.append((found.config, found.tree))
    expected = torch_logits(model)
    assert_close(logits(merge(params, pairs)), expected)
    in_turn = params
    for pair in pairs:
        in_turn = merge(in_turn, [pair])
    assert_close(logits(in_turn), expected)
    names = ("a", "b", "c")
    lm = LanguageModel(CONFIG, tuple(zip(names, (config for config, _ in pairs), strict=True)))
    trees = dict(zip(names, (tree for _, tree in pairs), strict=True))
    assert_close(np.asarray(jax.jit(lm)(params, IDS, lora=trees)), expected)


@pytest.mark.parametrize("targets", [r"layers/(attention|ffn)/\w+/kernel", r"layers/attention/(query|value)/kernel"])
def test_exported_adapter_loads_in_peft(tmp_path, targets):
    model = base()
    params = params_of(model)
    config = LoraConfig(rank=6, alpha=9, dropout=0.1, targets=targets)
    rng = np.random.default_rng(1)
    tree = jax.tree.map(
        lambda x: 0.1 * rng.standard_normal(x.shape).astype(np.float32), init_lora(jax.random.key(0), params, config)
    )
    save_peft(tmp_path, config, tree, "some/base")
    theirs = peft.PeftModel.from_pretrained(model, str(tmp_path)).eval()
    assert theirs.peft_config["default"].r == 6 and theirs.peft_config["default"].lora_dropout == 0.1
    expected = logits(params, tree, config)
    assert_close(torch_logits(theirs), expected)
    theirs.save_pretrained(tmp_path / "again")
    again = load_peft(tmp_path / "again", params)
    jax.tree.map(np.testing.assert_array_equal, again.tree, tree)


def test_old_binary_adapter_and_what_was_trained_beside_it(tmp_path):
    """adapter_model.bin and non_lora_trainables.bin, as VTimeLLM and PiTe wrote them (pite.md 8)."""
    model = base()
    params = params_of(model)
    theirs = adapted(model)
    theirs.save_pretrained(tmp_path, safe_serialization=False)
    file = tmp_path / "adapter_model.bin"
    if not file.is_file():  # peft no longer writes it
        from safetensors.torch import load_file

        torch.save(load_file(tmp_path / "adapter_model.safetensors"), file)
        (tmp_path / "adapter_model.safetensors").unlink()
    projector = torch.randn(48, 7)
    torch.save({"base_model.model.model.vision_adapter.weight": projector}, tmp_path / "non_lora_trainables.bin")
    found = load_peft(tmp_path, params)
    assert_close(logits(params, found.tree, found.config), torch_logits(theirs))
    np.testing.assert_array_equal(found.extras["model.vision_adapter.weight"], projector.numpy())


def test_initialisation_spreads_as_in_peft():
    theirs = peft.get_peft_model(base(), peft.LoraConfig(r=32, target_modules=ALL, task_type="CAUSAL_LM"))
    tree = init_lora(jax.random.key(0), LanguageModel(CONFIG).shapes(), LoraConfig(rank=32))
    state = theirs.state_dict()
    for ours, name in (("attention/query", "self_attn.q_proj"), ("attention/out", "self_attn.o_proj")):
        group, leaf = ours.split("/")
        a, b = tree["layers"][group][leaf]["a"], tree["layers"][group][leaf]["b"]
        key = f"base_model.model.model.layers.0.{name}.lora_{{}}.default.weight"
        expected = state[key.format("A")].numpy()
        assert float(np.std(a)) == pytest.approx(expected.std(), rel=0.05)
        assert float(np.abs(a).max()) == pytest.approx(np.abs(expected).max(), rel=0.02)
        assert not np.any(b) and not state[key.format("B")].any()
