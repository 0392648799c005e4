"""The tokenizer of a run: made once, kept, opened again with the same ids, also as earlier versions kept it."""

import json

import pytest

from vtjax.errors import VtjaxError
from vtjax.text.assets import FOLDER, kept_tokenizer, load_tokenizer
from vtjax.text.clip_tokenizer import ClipTokenizer
from vtjax.text.tokenizer import CausalWordTokenizer, WordTokenizer


@pytest.mark.parametrize(
    "made",
    [WordTokenizer(["a", "person"]), CausalWordTokenizer(["a", "person"]), ClipTokenizer([("a", "n")], pad_id=2)],
    ids=lambda made: type(made).__name__,
)
def test_made_once_and_opened_again(tmp_path, made):
    (tmp_path / FOLDER).mkdir()  # as a run leaves it that was killed before the file was whole
    kept = kept_tokenizer(tmp_path, lambda: made)
    assert type(kept) is type(made) and kept.fingerprint() == made.fingerprint()
    again = kept_tokenizer(tmp_path, lambda: pytest.fail("made again"), made.vocab_size)
    assert again.encode(["A person, an"], 9)[0].tolist() == made.encode(["A person, an"], 9)[0].tolist()
    assert kept_tokenizer(tmp_path).fingerprint() == made.fingerprint()
    with pytest.raises(VtjaxError, match=f"has {made.vocab_size} ids, the text tower 4: they do not belong"):
        kept_tokenizer(tmp_path, None, 4, "text tower")


def test_no_tokenizer(tmp_path):
    with pytest.raises(VtjaxError, match="tokenizer: missing; vtjax.train writes it"):
        kept_tokenizer(tmp_path)


def test_files_of_earlier_versions(tmp_path):
    (tmp_path / "vocabulary.json").write_text('[\n"who",\n"?",\n"she"\n]\n')
    causal = load_tokenizer(tmp_path)
    assert causal.ids("Who? SHE did", eos=True) == [1, 3, 4, 5, 0, 2] and causal.decode([1, 5, 3, 4, 2]) == "she who?"
    assert causal.vocab_size == 6 and causal.fingerprint() == "who ? she"
    assert causal.encode(["who", "who who"], 2)[0].tolist() == [[1, 3], [1, 3]] and causal.truncated == 1
    causal.save(tmp_path / "again")
    assert (tmp_path / "again" / "vocabulary.json").read_text() == (tmp_path / "vocabulary.json").read_text()
    (tmp_path / "word_tokenizer.json").write_text(json.dumps({"version": 1, "oov_buckets": 0, "vocabulary": ["who"]}))
    assert load_tokenizer(tmp_path).encode(["Who is"], 5)[0].tolist() == [[2, 4, 1, 3, 0]]
