"""LLaMA's tokenizer from a hand-made tokenizer.model, against merging by scores written as loops."""

import io
import json
import struct

import numpy as np
import pytest
import tokenizers

from vtjax.errors import VtjaxError
from vtjax.text.assets import load_tokenizer
from vtjax.text.llama_tokenizer import MEDIA_ID, LlamaTokenizer, expand_media
from vtjax.text.tokenizer import pad_rows

SPACE = "\u2581"
MERGED = [SPACE + "t", "he", SPACE + "the", "er", "US", "USER", "ER"]
MERGED += [SPACE + "m", "an", SPACE + "man", SPACE * 2, "é!"]
LETTERS = sorted(set("abcdefghijklmnopqrstuvwxyz:.?!éUSER") | {SPACE})
BYTES = [f"<0x{n:02X}>" for n in range(256)]
PIECES = ["<unk>", "<s>", "</s>", *BYTES, *MERGED, *LETTERS]
BYTE_LINE_BREAK = 3 + 10
TEXTS = ["the man", " two  spaces", "\nwho", "USER: the man?", "é! über 日本 \U0001f642"]
TEXTS += ["a", "t" * 40, "  ", "usER", "x\ty"]


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def model_bytes(model_type=2, byte_fallback=1, normalizer=b"identity", extra_spaces=0):
    out = b""
    for n, piece in enumerate(PIECES):
        kind = {0: 2, 1: 3, 2: 3}.get(n, 6 if piece in BYTES else 1)
        score = -float(n - 259) if n >= 259 else 0.0
        out += field(1, field(1, piece.encode()) + field(2, score) + (field(3, kind) if kind != 1 else b""))
    out += field(2, field(3, model_type) + field(4, 500) + field(35, byte_fallback))
    return out + field(3, field(1, normalizer) + field(3, 1) + field(4, extra_spaces) + field(5, 1))


def slow_pieces(text):
    """SentencePiece's byte-pair merging: join the neighbours whose union scores best, leftmost first."""
    ids = {piece: n for n, piece in enumerate(PIECES)}
    parts = list(text)
    while True:
        best = None
        for i in range(len(parts) - 1):
            n = ids.get(parts[i] + parts[i + 1])
            if n is not None and (best is None or n < best[0]):
                best = n, i
        if best is None:
            break
        parts[best[1] : best[1] + 2] = [parts[best[1]] + parts[best[1] + 1]]
    out = []
    for part in parts:
        out += [ids[part]] if part in ids else [ids[f"<0x{b:02X}>"] for b in part.encode()]
    return out


def slow_ids(text):
    return slow_pieces((SPACE + text).replace(" ", SPACE)) if text else []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    (folder / "tokenizer.model").write_bytes(model_bytes())
    return folder


def test_against_loops(folder):
    tokenizer = LlamaTokenizer(folder)
    assert (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 1, 2, 0)
    assert tokenizer.vocab_size == len(PIECES) and tokenizer.legacy
    for text in TEXTS:
        assert tokenizer.ids(text) == [1, *slow_ids(text)], text
        assert tokenizer.ids(text, bos=False, eos=True) == [*slow_ids(text), 2]
    rng = np.random.default_rng(0)
    for _ in range(200):
        text = "".join(rng.choice(list("the manUSER: \n?é日"), rng.integers(1, 25)))
        assert tokenizer.ids(text, bos=False) == slow_ids(text), repr(text)
        assert tokenizer.decode(tokenizer.ids(text)) == text
    assert tokenizer.ids("", bos=True) == [1]


@pytest.mark.parametrize("legacy", [True, False])
def test_text_after_a_special_token(folder, legacy):
    tokenizer = LlamaTokenizer(folder, legacy=legacy)
    after = slow_ids("man") if legacy else slow_pieces("man")
    assert tokenizer.ids("the</s>man") == [1, *slow_ids("the"), 2, *after]
    assert tokenizer.ids("</s>man", bos=False) == [2, *after]
    assert tokenizer.ids("</s> man", bos=False) == [2, *(slow_ids(" man") if legacy else slow_pieces(SPACE + "man"))]
    assert after != (slow_pieces("man") if legacy else slow_ids("man"))


def test_legacy_flag_of_the_folder(folder, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(model_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"legacy": False}))
    assert not LlamaTokenizer(tmp_path).legacy
    assert LlamaTokenizer(tmp_path, legacy=True).fingerprint() == LlamaTokenizer(folder).fingerprint()
    assert LlamaTokenizer(tmp_path).fingerprint() != LlamaTokenizer(folder).fingerprint()


def test_chunks_around_media_are_tokenized_each_by_itself(folder):
    tokenizer = LlamaTokenizer(folder)
    space = PIECES.index(SPACE)
    found = tokenizer.ids_with_media("USER: <video>\nthe man?")
    before = slow_ids("USER: ")
    assert found == [1, *before, MEDIA_ID, space, BYTE_LINE_BREAK, *slow_pieces("the" + SPACE + "man?")]
    assert before[-1] == space  # the trailing space is a token
    assert tokenizer.ids_with_media("<image>") == [1, MEDIA_ID]
    assert tokenizer.ids_with_media("the man", bos=False) == slow_ids("the man")
    assert tokenizer.ids_with_media("<video><image>a") == [1, MEDIA_ID, MEDIA_ID, *slow_ids("a")]


def test_expand_media():
    ids, index = expand_media([1, MEDIA_ID, 7, MEDIA_ID], 3)
    assert ids.tolist() == [1, 0, 0, 0, 7, 0, 0, 0] and ids.dtype == np.int32
    assert index.tolist() == [-1, 0, 1, 2, -1, 3, 4, 5]


@pytest.mark.parametrize("legacy", [True, False])
def test_saved_files_say_the_same(folder, tmp_path, legacy):
    """tokenizer.json from tokenizer.model: read again here, and by the tokenizers package with its own normaliser."""
    tokenizer = LlamaTokenizer(folder, legacy=legacy)
    tokenizer.save(tmp_path)
    again = LlamaTokenizer(tmp_path)
    assert again.fingerprint() == tokenizer.fingerprint() and again.legacy == legacy
    opened = load_tokenizer(tmp_path)
    assert isinstance(opened, LlamaTokenizer) and opened.fingerprint() == tokenizer.fingerprint()
    package = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in [*TEXTS, "the</s>man", "the man</s>"]:
        assert again.ids(text) == tokenizer.ids(text)
        if not text.startswith(" ") or legacy:  # Metaspace does not put a prefix before a text that starts with a space
            assert package.encode(text).ids == tokenizer.ids(text), text
        assert package.decode(tokenizer.ids(text)) == tokenizer.decode(tokenizer.ids(text))


def test_encode_pads_and_counts_what_it_cuts(folder):
    tokenizer = LlamaTokenizer(folder)
    ids, mask = tokenizer.encode(["the", "the man the man"], 4)
    assert ids[0].tolist() == [1, *slow_ids("the"), 0, 0] and mask[0].tolist() == [True, True, False, False]
    assert ids[1].tolist() == [1, *slow_ids("the man the man")][:4] and tokenizer.truncated == 1
    left, valid = pad_rows([[5], [6, 7]], 3, 0, left=True)
    assert left.tolist() == [[0, 0, 5], [0, 6, 7]] and valid.tolist() == [[False, False, True], [False, True, True]]


def test_decode(folder):
    tokenizer = LlamaTokenizer(folder)
    ids = tokenizer.ids("the man</s>")
    assert tokenizer.decode(ids) == "the man" and tokenizer.decode(ids, skip_special=False).endswith("</s>")
    assert tokenizer.decode([PIECES.index("<0xE6>")]) == "\ufffd"
    with pytest.raises(VtjaxError, match="id -200 is not in the vocabulary"):
        tokenizer.decode([1, MEDIA_ID])


def test_errors(folder, tmp_path):
    with pytest.raises(VtjaxError, match="expected tokenizer.json or tokenizer.model"):
        LlamaTokenizer(tmp_path)
    for content, message in (
        (model_bytes(model_type=1), "not a byte-pair model"),
        (model_bytes(byte_fallback=0), "not a byte-pair model"),
        (model_bytes(normalizer=b"nmt_nfkc"), "normalises its text"),
        (model_bytes(extra_spaces=1), "normalises its text"),
        (model_bytes()[:-3], "damaged"),
        (b"\xff" * 40, "damaged"),
        (b"", "damaged"),
    ):
        (tmp_path / "tokenizer.model").write_bytes(content)
        with pytest.raises(VtjaxError, match=message):
            LlamaTokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordPiece", "vocab": {}}}))
    with pytest.raises(VtjaxError, match="not a byte-pair model with byte fallback"):
        LlamaTokenizer(tmp_path)
    with pytest.raises(VtjaxError, match="row 0 has 3 tokens; at most 2"):
        pad_rows([[1, 2, 3]], 2, 0)


def test_against_sentencepiece(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    rng = np.random.default_rng(0)
    vocabulary = "the a person walks video is man cooking pan frame from to second USER: who?".split()
    lines = [" ".join(rng.choice(vocabulary, 10)) + rng.choice(["\t.", " é", "  two"]) for _ in range(500)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=380,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    ours, theirs = LlamaTokenizer(tmp_path), sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    for line in [*lines, *TEXTS]:
        assert ours.ids(line, bos=False) == theirs.encode(line), line
        assert ours.decode(theirs.encode(line)) == theirs.decode(theirs.encode(line))
