"""Something-Something v2 in the official layout."""

import json

import pytest

from vtjax.data.readers.action_lists import ssv2
from vtjax.errors import VtjaxError


@pytest.mark.parametrize("prefix", ["something-something-v2-", ""])
def test_layout_and_bad_rows(tmp_path, prefix):
    (tmp_path / f"{prefix}labels.json").write_text('{"Holding something": "0", "Pushing something, slowly": "1"}')
    rows = [
        {"id": "74225", "label": "pushing a cup, slowly", "template": "Pushing [something], slowly"},
        {"id": "1", "label": "x", "template": "Pulling [something]"},
        {"id": 2, "label": "x", "template": "Holding [something]"},
        {"id": "3", "template": "Holding [something]"},
        {"id": "74225", "label": "again", "template": "Holding [something]"},
    ]
    (tmp_path / f"{prefix}validation.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / f"{prefix}test.json").write_text('[{"id": "9"}]')
    records, coverage = ssv2(tmp_path)
    assert [(r.id, r.label, r.captions[0].text) for r in records] == [("74225", 1, "pushing a cup, slowly")]
    assert coverage.problems.counts() == {
        "unknown class": 1, "id is not text": 1, "no 'label'": 1, "the id is listed twice": 1,
    }  # fmt: skip
    assert coverage.problems.items[0].where.startswith(f"{tmp_path}/{prefix}validation.json:7: entry 1")
    assert [(r.id, r.label) for r in ssv2(tmp_path, split="test")[0]] == [("9", -1)]
    with pytest.raises(VtjaxError, match="'val': did you mean 'validation'|known"):
        ssv2(tmp_path, split="val")
