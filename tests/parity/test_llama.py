"""LLaMA against transformers' torch model with the same random weights, fp32: logits, generation, files both ways."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.nn.generate import Sampling, generate, truncate
from vtjax.nn.llama import LanguageModel, LlamaConfig, splice
from vtjax.weights.llama import config_from_hf, config_to_hf, from_hf, load_llama, save_llama

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)  # idle threads of small operations would spin

TINY = LlamaConfig(
    vocab_size=131, width=64, layers=4, heads=4, kv_heads=4, head_dim=16, ffn_width=96, positions=512, init_std=0.2
)
GROUPED = dataclasses.replace(TINY, kv_heads=2, head_dim=24, rope_theta=5e5)


def reference(config, seed=0):
    """transformers' model with weights of `init_std`, filled from a stretch of noise whose length is prime."""
    settings = transformers.LlamaConfig(**{k: v for k, v in config_to_hf(config).items() if k != "torch_dtype"})
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(settings)
    model = model.to_empty(device="cpu").eval()
    model.tie_weights()
    model.model.rotary_emb.__init__(settings)
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(1_000_003, np.float32)
    with torch.no_grad():
        for n, (name, p) in enumerate(model.named_parameters()):
            values = torch.from_numpy(np.resize(np.roll(noise, 7919 * n), tuple(p.shape)))
            p.copy_(1 + 0.2 * values if "norm" in name else config.init_std * values)
    return model


def ours(config, model):
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    return from_hf(config, tensors, dtype="float32")[0]


def torch_logits(model, ids, valid):
    with torch.no_grad():
        return model(torch.tensor(ids), attention_mask=torch.tensor(valid.astype(np.int64))).logits.numpy()


def relative_error(found, expected):
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def prompts(vocab, lengths, left, seed=0):
    rng = np.random.default_rng(seed)
    length = max(lengths)
    at = np.arange(length)[None]
    counts = np.array(lengths)[:, None]
    valid = at >= length - counts if left else at < counts
    return np.where(valid, rng.integers(3, vocab, (len(lengths), length)), 0).astype(np.int32), valid


@pytest.mark.parametrize(
    ("config", "left"), [(TINY, False), (GROUPED, True), (dataclasses.replace(TINY, kv_heads=1, tied=True), True)]
)
def test_tiny_models(config, left):
    model = reference(config)
    ids, valid = prompts(131, (30, 11, 1), left)
    found = np.asarray(jax.jit(LanguageModel(config))(ours(config, model), ids, valid))
    expected = torch_logits(model, ids, valid)
    assert relative_error(found[valid], expected[valid]) < 1e-5
    np.testing.assert_allclose(found[valid], expected[valid], atol=1e-5 * np.abs(expected[valid]).max())


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 4096, "heads": 32, "kv_heads": 32, "ffn_width": 11008},
        {"width": 4096, "heads": 32, "kv_heads": 8, "ffn_width": 1024},
        {"width": 5120, "heads": 40, "kv_heads": 40, "ffn_width": 13824},
    ],
)
def test_published_widths(changes):
    """One layer as wide as the 7B (also grouped-query) and 13B models, with a small vocabulary; 3 GiB at most."""
    config = LlamaConfig(vocab_size=64, layers=1, **changes)
    model = reference(config)
    ids, valid = prompts(64, (12,), False)
    expected = torch_logits(model, ids, valid)
    params = ours(config, model)
    del model
    found = np.asarray(jax.jit(LanguageModel(config))(params, ids, valid))
    assert relative_error(found, expected) < 1e-5


def test_full_depth():
    """All 32 and more layers of a narrow model."""
    config = dataclasses.replace(GROUPED, layers=40, init_std=0.1)
    model = reference(config)
    ids, valid = prompts(131, (24, 9), True)
    found = np.asarray(jax.jit(LanguageModel(config))(ours(config, model), ids, valid))
    assert relative_error(found[valid], torch_logits(model, ids, valid)[valid]) < 1e-5


@pytest.fixture(scope="module")
def grouped():
    model = reference(GROUPED)
    return model, ours(GROUPED, model)


def test_greedy_200_tokens_cached_and_not(grouped):
    model, params = grouped
    ids, valid = prompts(131, (20, 7, 13), True)
    with torch.no_grad():
        expected = model.generate(
            torch.tensor(ids),
            attention_mask=torch.tensor(valid.astype(np.int64)),
            max_new_tokens=200,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[:, ids.shape[1] :].numpy()
    assert expected.shape == (3, 200)
    assert min(len(set(row)) for row in expected.tolist()) > 5  # not one token over and over
    lm, sampling = LanguageModel(GROUPED), Sampling(max_new_tokens=200, stop_ids=())
    for cached in (True, False):
        found = generate(lm, params, sampling, ids=ids, valid=valid, cached=cached)
        np.testing.assert_array_equal(found.tokens, expected)
    # The same prompts padded on the right.
    right, right_valid = np.zeros_like(ids), np.zeros_like(valid)
    for n, row in enumerate(ids):
        count = valid[n].sum()
        right[n, :count], right_valid[n, :count] = row[valid[n]], True
    np.testing.assert_array_equal(generate(lm, params, sampling, ids=right, valid=right_valid).tokens, expected)


def test_stop_ids_and_padding_as_transformers_writes_them(grouped):
    model, params = grouped
    ids, valid = prompts(131, (20, 7, 13), True)
    lm = LanguageModel(GROUPED)
    free = generate(lm, params, Sampling(max_new_tokens=40, stop_ids=()), ids=ids, valid=valid).tokens
    stops = [int(free[0, 10]), int(free[2, 25])]
    with torch.no_grad():
        expected = model.generate(
            torch.tensor(ids),
            attention_mask=torch.tensor(valid.astype(np.int64)),
            max_new_tokens=40,
            do_sample=False,
            eos_token_id=stops,
            pad_token_id=5,
        )[:, ids.shape[1] :].numpy()
    found = generate(lm, params, Sampling(max_new_tokens=40, stop_ids=tuple(stops), pad_id=5), ids=ids, valid=valid)
    np.testing.assert_array_equal(found.tokens[:, : expected.shape[1]], expected)
    assert found.lengths.max() == expected.shape[1]


def test_spliced_embeddings(grouped):
    model, params = grouped
    ids, _ = prompts(131, (9,), False)
    media = np.random.default_rng(3).standard_normal((1, 4, 64)).astype(np.float32)
    index = np.array([[-1, -1, 0, 1, 2, 3, -1, -1, -1]], np.int32)
    lm = LanguageModel(GROUPED)
    x = splice(lm.embed(params, ids), jnp.asarray(media), index)
    with torch.no_grad():
        embedded = model.model.embed_tokens(torch.tensor(ids))
        embedded[0, 2:6] = torch.tensor(media[0])
        expected = model(inputs_embeds=embedded, output_hidden_states=True)
    found = jax.jit(lm.hidden)(params, x, np.ones((1, 9), bool))
    assert relative_error(np.asarray(found), expected.hidden_states[-1].numpy()) < 1e-5
    assert relative_error(np.asarray(lm.logits(params, found)), expected.logits.numpy()) < 1e-5


def test_truncation_of_the_distribution():
    from transformers.generation import logits_process as hf

    logits = np.random.default_rng(0).standard_normal((5, 80)).astype(np.float32) * 3
    for temperature, k, p in ((0.05, 50, 0.6), (1.0, 7, 1.0), (0.8, 0, 0.9), (2.0, 40, 0.5)):
        steps = [hf.TemperatureLogitsWarper(temperature)]
        steps += [hf.TopKLogitsWarper(k)] if k else []
        steps += [hf.TopPLogitsWarper(p)] if p < 1 else []
        expected = torch.tensor(logits)
        for step in steps:
            expected = step(None, expected)
        found = truncate(jnp.asarray(logits), Sampling(temperature=temperature, top_k=k, top_p=p))
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize("config", [GROUPED, dataclasses.replace(TINY, tied=True)])
def test_folders_both_ways(config, tmp_path):
    model = reference(config)
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    model.save_pretrained(theirs, max_shard_size="100KB")
    found, params = load_llama(theirs, dtype="float32")
    assert found == config == config_from_hf(json.loads((theirs / "config.json").read_text()))
    save_llama(mine, config, params)
    again = transformers.LlamaForCausalLM.from_pretrained(mine).eval()
    ids, valid = prompts(131, (15,), False)
    np.testing.assert_array_equal(torch_logits(again, ids, valid), torch_logits(model, ids, valid))


@pytest.mark.parametrize("sharded", [False, True])
def test_torch_files_in_half_precision(tmp_path, sharded):
    """Vicuna's own format: pytorch_model-*.bin with an index, float16, with the tables of old exports."""
    model = reference(TINY).half()
    state = {**model.state_dict(), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    if sharded:
        names = list(state)
        parts = {f"pytorch_model-0000{n + 1}-of-00003.bin": names[n::3] for n in range(3)}
        for file, held in parts.items():
            torch.save({name: state[name] for name in held}, tmp_path / file)
        weight_map = {name: file for file, held in parts.items() for name in held}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    else:
        torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(config_to_hf(TINY, "float16")))
    _, params = load_llama(tmp_path, dtype="float32")
    expected = ours(TINY, model.float())
    jax.tree.map(np.testing.assert_array_equal, params, expected)
