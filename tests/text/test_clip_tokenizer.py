"""CLIP's tokenizer against a slow literal BPE, on the published merges where they are and on a few of its own."""

import gzip
import html
import json
import re
import unicodedata

import ftfy
import numpy as np
import pytest
import tokenizers

from vtjax.errors import VtjaxError
from vtjax.text.assets import load_tokenizer
from vtjax.text.clip_tokenizer import VOCABULARY_FILE, ClipTokenizer
from vtjax.text.tokenizer import HFTokenizer

FEW = (("t", "h"), ("th", "e</w>"), ("c", "a"), ("ca", "t</w>"), ("a", "a"), ("aa", "a</w>"))


def slow_words(text):
    """The pattern by hand: marks of special tokens, contractions, runs of letters, single numbers, runs of the rest."""
    found, i = [], 0

    def kind(ch):
        return "space" if ch.isspace() else unicodedata.category(ch)[0]

    while i < len(text):
        fixed = ["<|startoftext|>", "<|endoftext|>", "'s", "'t", "'re", "'ve", "'m", "'ll", "'d"]
        match = next((f for f in fixed if text.startswith(f, i)), None)
        k, end = kind(text[i]), i + 1
        if match:
            end = i + len(match)
        elif k == "L":
            while end < len(text) and kind(text[end]) == "L":
                end += 1
        elif k not in ("space", "N"):
            while end < len(text) and kind(text[end]) not in ("space", "L", "N"):
                end += 1
        if match or k != "space":
            found.append(text[i:end])
        i = end
    return found


def slow_ids(text, merges, vocabulary, ranks):
    """Sennrich et al.'s formulation: symbols set apart by blanks, the best pair joined by substitution."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    text = " ".join(text.split()).lower()
    symbols = [chr(b) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174 else None for b in range(256)]
    free = iter(range(256, 512))
    symbols = [s if s is not None else chr(next(free)) for s in symbols]
    ids = []
    for word in slow_words(text):
        if word in ("<|startoftext|>", "<|endoftext|>"):
            ids.append(vocabulary[word])
            continue
        line = " ".join(symbols[b] for b in word.encode("utf-8")) + "</w>"
        while True:
            parts = line.split(" ")
            pairs = [p for p in zip(parts, parts[1:], strict=False) if p in ranks]
            if not pairs:
                break
            first, second = min(pairs, key=ranks.get)
            line = re.sub(rf"(?<!\S){re.escape(first)} {re.escape(second)}(?!\S)", lambda m, j=first + second: j, line)
        ids += [vocabulary[part] for part in line.split(" ")]
    return ids


def strange_texts(count):
    """Words, contractions, entities, accents, scripts, emoji, control and wide characters, mojibake; some long."""
    rng = np.random.default_rng(0)
    pieces = """a the Person PLAYS guitar juggling isn't we'll I'D you've they're she's it'M 'tis 42 1999 3.14 -- ... !?
    &amp; &lt;b&gt; &amp;amp; &quot;hi&quot; &#39; &eacute;t&eacute; &nbsp; &#128512; <|endoftext|> café naïve Ünïcödé
    façade ŁÓDŹ ΣΊΣΥΦΟΣ Ωμέγα привет МИР שלום مرحبا 你好 世界 日本語 こんにちは 안녕 ไทย हिन्दी ½ ² ٣ Ⅷ 😀 👩‍🔬 🇯🇵 ❤️ 🎉🎉
    ‘curly’ “quotes” – — … ﬁne ＦＵＬＬ sch√∂n donâ€™t Ã©tÃ© x_y C++ #tag @user http://a.b/c?d=e a-b-c ´ ` ~ ™ © § € ¥
    \u200bzero \xadsoft supercalifragilisticexpialidocious aaaaaaaaaaaaaaaaaaaaaaaaa zzzzzzzzzzzz""".split()
    blanks = [" ", " ", " ", "  ", "\t", "\n", "\u00a0", "\u3000", ""]
    texts = []
    for i in range(count):
        size = 150 if i % 50 == 0 else int(rng.integers(1, 14))
        texts.append("".join(rng.choice(pieces) + rng.choice(blanks) for _ in range(size)))
    return texts


@pytest.fixture(scope="module")
def published(shared_data):
    return ClipTokenizer.load(shared_data / "tokenizers" / VOCABULARY_FILE)


def test_published_sizes_and_ids(published):
    assert published.vocab_size == 49408 and len(published.merges) == 48894
    assert (published.start_id, published.end_id) == (49406, 49407)
    ids, mask = published.encode(["a photo of a cat", "a  DIAGRAM", "hello world!", "a dog"])
    assert ids.shape == (4, 77) and ids.dtype == np.int32 and mask.dtype == bool
    rows = [list(row[m]) for row, m in zip(ids, mask, strict=True)]
    assert rows == [
        [49406, 320, 1125, 539, 320, 2368, 49407],
        [49406, 320, 22697, 49407],
        [49406, 3306, 1002, 256, 49407],
        [49406, 320, 1929, 49407],
    ]
    assert not ids[~mask].any()


def test_thousand_strings_as_the_reference(published):
    texts = strange_texts(1000)
    ranks = {pair: i for i, pair in enumerate(published.merges)}
    ids, mask = published.encode(texts)
    long = 0
    for text, row, valid in zip(texts, ids, mask, strict=True):
        expected = [49406, *slow_ids(text, published.merges, published.vocabulary, ranks), 49407]
        if len(expected) > 77:
            long += 1
            expected = [*expected[:76], 49407]
        assert list(row[: len(expected)]) == expected, text
        assert valid.sum() == len(expected) and not row[len(expected) :].any()
    assert published.truncated == long >= 20


def test_cleaning(published):
    def same(a, b):
        assert published.token_ids(a) == published.token_ids(b), (a, b)

    same("caf\u00c3\u00a9 &amp;amp; tea", "café & tea")  # broken encoding, entities twice
    same("“Don’t”\u00a0STOP\n\n now", "\"don't\" stop now")
    same("ﬁne ＦＵＬＬ", "fine full")
    assert published.token_ids("they'LL") == published.token_ids("they") + published.token_ids("'ll")
    assert published.token_ids("42") == published.token_ids("4") + published.token_ids("2")
    assert published.token_ids("x <|endoftext|>")[-1] == 49407


def test_few_merges_by_hand():
    tokenizer = ClipTokenizer(FEW)
    symbols = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    assert tokenizer.vocab_size == 512 + len(FEW) + 2
    the, cat, aa_a = 512 + 1, 512 + 3, 512 + 5
    assert tokenizer.token_ids("The CAT") == [the, cat]
    a, a_end = symbols.index("a"), 256 + symbols.index("a")
    assert tokenizer.token_ids("aaa") == [aa_a] and tokenizer.token_ids("aa") == [a, a_end]
    # "aaaaa": the pair a a joins from the left, the last a stays by itself at the end of the word
    assert tokenizer.token_ids("aaaaa") == [512 + 4, aa_a]
    assert tokenizer.token_ids("é") == [symbols.index("Ã"), 256 + symbols.index("©")]


def test_bytes_alone_encode_everything():
    tokenizer = ClipTokenizer()
    assert tokenizer.vocab_size == 514
    ids, mask = tokenizer.encode(["日本 ok"], 12)
    assert mask.sum() == 6 + 2 + 2 and ids.max() == tokenizer.end_id == 513
    assert np.argmax(ids) == 9  # the end of text is the largest id


def test_texts_that_do_not_fit():
    tokenizer = ClipTokenizer(FEW, pad_id=7)
    ids, mask = tokenizer.encode(["the " * 9, "cat"], 6)
    assert list(ids[0]) == [tokenizer.start_id, 513, 513, 513, 513, tokenizer.end_id] and mask[0].all()
    assert list(ids[1]) == [tokenizer.start_id, 515, tokenizer.end_id, 7, 7, 7] and mask[1].sum() == 3
    assert tokenizer.truncated == 1
    strict = ClipTokenizer(FEW, on_long="error")
    assert strict.encode(["the the the the"], 6)[1].all()
    with pytest.raises(VtjaxError, match=r"text 1 of 2 has 11 tokens, 6 fit: 'the the"):
        strict.encode(["cat", "the " * 9], 6)


def test_errors():
    tokenizer = ClipTokenizer(FEW)
    with pytest.raises(VtjaxError, match="text 1 of 2 is empty"):
        tokenizer.encode(["a", " "])
    with pytest.raises(VtjaxError, match="token length 2"):
        tokenizer.encode(["a"], 2)
    with pytest.raises(VtjaxError, match="on_long='cut'"):
        ClipTokenizer(FEW, on_long="cut")
    with pytest.raises(VtjaxError, match="lacks 1 tokens that the merges make, first \\['the</w>'\\]"):
        ClipTokenizer(FEW, {t: i for t, i in ClipTokenizer(FEW).vocabulary.items() if t != "the</w>"})
    with pytest.raises(VtjaxError, match="pad_id=999"):
        ClipTokenizer(pad_id=999)


def test_files(tmp_path):
    lines = "\n".join(["title", *(f"{a} {b}" for a, b in FEW)])
    (tmp_path / "plain.txt").write_text(lines)
    gz = tmp_path / VOCABULARY_FILE
    gz.write_bytes(gzip.compress(lines.encode()))
    made = ClipTokenizer(FEW)
    for source in (tmp_path / "plain.txt", gz, tmp_path):
        assert ClipTokenizer.load(source).fingerprint() == made.fingerprint()
    assert isinstance(load_tokenizer(tmp_path), ClipTokenizer)
    gz.write_bytes(gzip.compress(lines.encode())[:-12])
    with pytest.raises(VtjaxError, match="not a CLIP vocabulary"):
        ClipTokenizer.load(gz)
    (tmp_path / "plain.txt").write_text("title\na b\na b c\n")
    with pytest.raises(VtjaxError, match="merge 2 is 'a b c'; expected two symbols"):
        ClipTokenizer.load(tmp_path / "plain.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(VtjaxError, match="no CLIP vocabulary; expected vocab.json and merges.txt"):
        ClipTokenizer.load(tmp_path / "empty")


def test_saved_and_loaded_alike(tmp_path):
    made = ClipTokenizer(FEW, pad_id=3, on_long="error")
    made.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, ClipTokenizer) and loaded.fingerprint() == made.fingerprint()
    assert (loaded.pad_id, loaded.on_long) == (3, "error")
    assert ClipTokenizer.load(tmp_path, on_long="truncate").on_long == "truncate"
    assert ClipTokenizer(FEW).fingerprint() != made.fingerprint() != ClipTokenizer(FEW[:-1], pad_id=3).fingerprint()


def test_only_clip_folders_are_taken_for_clip(tmp_path, model_folder):
    assert isinstance(load_tokenizer(model_folder), HFTokenizer)
    made = ClipTokenizer(FEW)
    made.save(tmp_path)
    (tmp_path / "clip_tokenizer.json").unlink()  # as published: known by its class
    assert isinstance(load_tokenizer(tmp_path), ClipTokenizer)
    content = {"model": {"vocab": made.vocabulary, "merges": [list(m) for m in FEW]}, "added_tokens": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "vocab.json").unlink()
    assert load_tokenizer(tmp_path).fingerprint() == made.fingerprint()
