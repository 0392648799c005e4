"""Key maps, settings, reports and hub names, without torch. Values are compared with transformers in tests/parity."""

import json

import jax
import numpy as np
import pytest

from vtjax.errors import VtjaxError
from vtjax.nn.bert import RULES, BertConfig, BertEncoder
from vtjax.sharding.partition import partition
from vtjax.trees import flatten, unflatten
from vtjax.weights import report
from vtjax.weights.bert import config_from_hf, config_to_hf, expected_shapes, from_hf, load_bert, save_bert, to_hf
from vtjax.weights.hub import local_folder
from vtjax.weights.safetensors_io import write_safetensors

TINY = dict(vocab_size=20, width=8, layers=2, heads=2, ffn_width=12, positions=16)


def random_params(config):
    rng = np.random.default_rng(0)
    shapes = expected_shapes(config)
    return unflatten({n: rng.standard_normal(s.shape).astype(np.float32) for n, s in shapes.items()})


def test_dense_is_transposed_and_heads_are_split():
    config = BertConfig(kind="distilbert", token_types=0, **TINY)
    params = random_params(config)
    tensors = to_hf(config, params)
    x = np.random.default_rng(1).standard_normal(8).astype(np.float32)
    query = params["layer_1"]["attention"]["query"]
    ours = np.einsum("d,dhk->hk", x, query["kernel"]) + query["bias"]
    prefix = "transformer.layer.1.attention."
    theirs = tensors[prefix + "q_lin.weight"] @ x + tensors[prefix + "q_lin.bias"]
    np.testing.assert_allclose(ours.reshape(-1), theirs, rtol=1e-6)
    out = params["layer_1"]["attention"]["out"]["kernel"]
    mixed = np.random.default_rng(2).standard_normal((2, 4)).astype(np.float32)
    np.testing.assert_allclose(
        np.einsum("hk,hkd->d", mixed, out), tensors[prefix + "out_lin.weight"] @ mixed.reshape(-1), rtol=1e-5
    )
    assert set(tensors) >= {"embeddings.word_embeddings.weight", "transformer.layer.0.ffn.lin2.weight"}
    assert not any("token_type" in name or "pooler" in name for name in tensors)


@pytest.mark.parametrize("prefix", ["", "bert.", "text_model.text_model."])
def test_prefix_old_names_and_heads_are_understood(prefix):
    config = BertConfig(**TINY)
    params = random_params(config)
    tensors = {prefix + name: value for name, value in to_hf(config, params).items()}
    old = prefix + "embeddings.LayerNorm."
    tensors[old + "gamma"] = tensors.pop(old + "weight")
    tensors[old + "beta"] = tensors.pop(old + "bias")
    tensors[prefix + "embeddings.position_ids"] = np.arange(16)[None]
    tensors[prefix + "pooler.dense.weight"] = np.zeros((8, 8))
    tensors["cls.predictions.bias"] = np.zeros(20)
    loaded, result = from_hf(config, tensors)
    jax.tree.map(np.testing.assert_array_equal, params, loaded)
    assert set(result.unused) == {"embeddings.position_ids", "pooler.dense.weight", "cls.predictions.bias"}


def test_every_misfit_is_named():
    config = BertConfig(**TINY)
    tensors = to_hf(config, random_params(config))
    del tensors["encoder.layer.1.attention.self.key.bias"]
    tensors["encoder.layer.2.attention.self.key.bias"] = np.zeros(8, np.float32)
    tensors["embeddings.word_embeddings.weight"] = np.zeros((21, 8), np.float32)
    # Already turned: it has the shape of our kernel, but is not what is published.
    tensors["encoder.layer.0.intermediate.dense.weight"] = tensors["encoder.layer.0.intermediate.dense.weight"].T
    with pytest.raises(VtjaxError) as error:
        from_hf(config, tensors, "folder")
    text = str(error.value)
    for part in (
        "folder does not fit",
        "missing: layer_1/attention/key/bias",
        "unused: encoder.layer.2.attention.self.key.bias",
        "mis-shaped: embeddings/word/embedding: expected (20, 8), found (21, 8)",
        "mis-shaped: layer_0/ffn/up/kernel: expected (12, 8), found (8, 12)",
    ):
        assert part in text, text


def test_report_counts_beyond_the_first_twenty_and_allows_by_name():
    tree = {"a": {str(i): np.zeros(2) for i in range(30)}}
    result = report.match(tree, {"a/0": np.zeros(2), "a/1": np.zeros(3), "b": np.zeros(1)})
    assert result.matched == ("a/0",) and len(result.missing) == 28 and result.unused == ("b",)
    assert result.mis_shaped == (("a/1", (2,), (3,)),)
    assert "28 missing" in result.summary() and "and 8 more" in result.summary()
    with pytest.raises(VtjaxError, match="1 mis-shaped"):
        result.raise_if_incomplete(allow_missing=["a/.*"], allow_unused=["b"])
    good = report.match({"a": np.zeros(2), "c": np.zeros(1)}, {"a": np.zeros(2)})
    assert good.raise_if_incomplete(allow_missing=["c"]) is good
    with pytest.raises(VtjaxError, match="c"):
        good.raise_if_incomplete(allow_missing=["cc", "d"])
    assert unflatten(flatten(tree)).keys() == tree.keys()


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "mpnet"])
def test_settings_round_trip(kind):
    offset = {"roberta": dict(position_offset=2, pad_id=1), "mpnet": dict(position_offset=2, pad_id=1)}.get(kind, {})
    types = 2 if kind in ("bert", "roberta") else 0
    config = BertConfig(kind=kind, token_types=types, relative_buckets=32 * (kind == "mpnet"), **TINY, **offset)
    assert config_from_hf(json.loads(json.dumps(config_to_hf(config)))) == config


def test_settings_that_do_not_fit():
    good = config_to_hf(BertConfig(**TINY))
    for change, message in [
        ({"model_type": "gpt2"}, "model_type 'gpt2'"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"hidden_act": "mish"}, "activation 'mish'"),
        ({"is_decoder": True}, "decoder"),
        ({"num_attention_heads": 3}, "not a multiple"),
    ]:
        with pytest.raises(VtjaxError, match=message):
            config_from_hf(good | change)
    del good["hidden_size"]
    with pytest.raises(VtjaxError, match="no hidden_size"):
        config_from_hf(good)


def test_load_names_what_is_wrong_with_a_folder(tmp_path):
    with pytest.raises(VtjaxError, match="config.json: no such file"):
        load_bert(tmp_path)
    config = BertConfig(**TINY)
    save_bert(tmp_path, config, random_params(config))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(VtjaxError, match="no weights"):
        load_bert(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", {"x": np.zeros(1)})
    with pytest.raises(VtjaxError, match="unused: x"):
        load_bert(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(VtjaxError, match="not JSON"):
        load_bert(tmp_path)


def test_hub_names(tmp_path, monkeypatch):
    assert local_folder(tmp_path) == tmp_path
    (tmp_path / "file").write_text("")
    with pytest.raises(VtjaxError, match="is a file"):
        local_folder(tmp_path / "file")
    for name in ("./absent", "/absent/folder", "a/b/c"):
        with pytest.raises(VtjaxError, match="no such folder"):
            local_folder(name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(VtjaxError, match="offline|cache"):
        local_folder("nobody-here/no-such-model")


def test_partition_rules_cover_every_parameter():
    config = BertConfig(kind="mpnet", position_offset=2, pad_id=1, relative_buckets=32, **TINY)
    mesh = jax.make_mesh((1, 2, 2), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    ids = np.zeros((1, 2), np.int32)
    params = jax.eval_shape(BertEncoder(config).init, jax.random.key(0), ids, ids > 0)["params"]
    result = partition(params, RULES, mesh)
    assert tuple(result.specs["layer_0/attention/query/kernel"])[:2] == ("fsdp", "tensor")
    assert result.replicated_bytes < 0.4 * result.total_bytes


def test_dropout_is_on_in_training_only_and_lengths_are_checked():
    config = BertConfig(**TINY)
    ids = np.arange(8, dtype=np.int32).reshape(2, 4)
    mask = np.ones((2, 4), bool)
    params, model = random_params(config), BertEncoder(config)
    a = model.apply({"params": params}, ids, mask)
    np.testing.assert_array_equal(a, model.apply({"params": params}, ids, mask))
    b, c = (model.apply({"params": params}, ids, mask, train=True, rngs={"dropout": jax.random.key(i)}) for i in (0, 1))
    assert not np.allclose(a, b) and not np.allclose(b, c)
    with pytest.raises(VtjaxError, match="17 tokens.* 16 at most"):
        model.apply({"params": params}, np.zeros((1, 17), np.int32), np.ones((1, 17), bool))


def test_masked_tokens_and_empty_rows_have_no_influence():
    config = BertConfig(**TINY)
    params, model = random_params(config), BertEncoder(config)
    ids = np.random.default_rng(0).integers(4, 20, (2, 6)).astype(np.int32)
    mask = np.array([[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]], bool)
    a = np.asarray(model.apply({"params": params}, ids, mask))
    b = np.asarray(model.apply({"params": params}, np.where(mask, ids, 3), mask))
    np.testing.assert_array_equal(a[0, :4], b[0, :4])
    assert np.isfinite(a).all()
