import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.encoders.frozen_text import FrozenTextEncoder
from vtjax.encoders.sentence import HashedSentenceEncoder, SentenceEncoder, gold_embeddings, pool
from vtjax.errors import VtjaxError

TEXTS = ["a person walks then jumps", "A person jumps then walks.", "the left arm turns around"]


def layout(source, folder, pooling="pooling_mode_mean_tokens", extra=()):
    shutil.copytree(source, folder)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), *extra]
    (folder / "modules.json").write_text(
        json.dumps([{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in modules])
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 8, pooling: True}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20, "do_lower_case": True}))
    return folder


def norm(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("how", ["mean", "cls", "max"])
def test_pooling_against_a_loop(model_folder, tmp_path, how):
    names = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}
    folder = layout(model_folder, tmp_path / "st", f"pooling_mode_{names[how]}", [("2_Normalize", "Normalize")])
    encoder = SentenceEncoder(folder)
    assert encoder.encoder.length == 20 and encoder.dim == 8
    got = encoder.encode(TEXTS)
    states, mask = FrozenTextEncoder(model_folder, 20).encode([t.lower() for t in TEXTS])
    for i in range(len(TEXTS)):
        tokens = states[i][mask[i]]
        expected = {"mean": tokens.mean(0), "cls": tokens[0], "max": tokens.max(0)}[how]
        np.testing.assert_allclose(got[i], norm(expected), atol=1e-6)
    assert got.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)


def test_pool_ignores_padding():
    states = jnp.array([[[1.0, -2.0], [3.0, -4.0], [99.0, 99.0]]])
    mask = jnp.array([[True, True, False]])
    np.testing.assert_allclose(pool(states, mask, "mean"), [[2, -3]])
    np.testing.assert_allclose(pool(states, mask, "max"), [[3, -2]])
    np.testing.assert_allclose(pool(states, mask, "cls"), [[1, -2]])


def test_unsupported_parts_are_named(model_folder, tmp_path):
    with pytest.raises(VtjaxError, match="module 'Dense'"):
        SentenceEncoder(layout(model_folder, tmp_path / "a", extra=[("2_Dense", "Dense")]))
    with pytest.raises(VtjaxError, match="pooling_mode_lasttoken"):
        SentenceEncoder(layout(model_folder, tmp_path / "b", "pooling_mode_lasttoken"))
    plain = SentenceEncoder(model_folder, 16)  # a plain encoder is mean pooled
    assert plain.pooling == "mean" and plain.encode(TEXTS).shape == (3, 8)
    with pytest.raises(VtjaxError, match="empty"):
        plain.encode(["a", ""])


def test_hashed_sentences():
    encoder = HashedSentenceEncoder()
    e = encoder.encode(TEXTS)
    assert e.shape == (3, 256) and e.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(e, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(e, HashedSentenceEncoder().encode(TEXTS))
    # Same words in another order: close but not equal; other words: far.
    assert 0.4 < e[0] @ e[1] < 0.95 and abs(e[0] @ e[2]) < 0.3
    unordered = HashedSentenceEncoder(ngrams=(1,)).encode(["walks then jumps", "jumps then walks"])
    assert unordered[0] @ unordered[1] == pytest.approx(1)
    # By hand: the cosine of n-gram counts, when nothing collides in many dimensions.
    wide = HashedSentenceEncoder(dim=100_003).encode(["a b a", "a b c"])
    assert wide[0] @ wide[1] == pytest.approx((2 * 1 + 1 * 1 + 1 * 1) / (7**0.5 * 5**0.5), abs=1e-6)
    assert np.isfinite(HashedSentenceEncoder(dim=1).encode([*TEXTS, "hm", "…"])).all()
    assert np.linalg.norm(HashedSentenceEncoder(ngrams=(3,)).encode(["hm"])) == pytest.approx(1)
    with pytest.raises(VtjaxError, match="empty"):
        encoder.encode([" "])


def test_gold_embeddings():
    e = gold_embeddings(["walk>jump", "jump>walk", "walk>jump", *map(str, range(500))])
    assert e.shape == (503, 256) and e.dtype == np.float32
    cosine = e @ e.T
    np.testing.assert_allclose(np.diag(cosine), 1, atol=1e-6)
    assert cosine[0, 2] == pytest.approx(1, abs=1e-6)
    cosine[0, 2] = cosine[2, 0] = 0
    assert (cosine - np.eye(503)).max() < 0.5
    np.testing.assert_array_equal(gold_embeddings(["jump>walk"])[0], e[1])
    assert gold_embeddings([]).shape == (0, 256)
    with pytest.raises(VtjaxError, match="sequence 1 is unknown"):
        gold_embeddings(["a", ""])
