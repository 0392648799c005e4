"""A tiny published-style model folder: random DistilBERT weights and a word-piece tokenizer."""

import json

import numpy as np
import pytest
import tokenizers

from vtjax.nn.bert import BertConfig
from vtjax.trees import unflatten
from vtjax.weights.bert import expected_shapes, save_bert

WORDS = "a person walks runs jumps then left right and the turns around arm".split()


def write_model(folder, seed=0):
    config = BertConfig(
        kind="distilbert", vocab_size=24, width=8, layers=2, heads=2, ffn_width=12, positions=64, token_types=0
    )
    rng = np.random.default_rng(seed)
    flat = {n: rng.standard_normal(s.shape).astype(np.float32) for n, s in expected_shapes(config).items()}
    save_bert(folder, config, unflatten(flat))
    vocab = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = tokenizers.normalizers.BertNormalizer()
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def other_model_folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("other"), seed=1)
