"""The incremental JSON reader against json.loads, with windows far smaller than the values."""

import json
import random

import pytest

from vtjax.data.readers import json_stream
from vtjax.data.readers.coverage import BadRow
from vtjax.data.readers.json_stream import json_entries, read_json
from vtjax.data.readers.rows import parsed, text_lines
from vtjax.errors import VtjaxError


def made(rng, depth=0):
    kind = rng.randrange(4 if depth < 3 else 2)
    if kind == 0:
        return rng.choice([None, True, False, 0, -12, 1234567, 0.25, -3e-7, 1e12])
    if kind == 1:
        return "".join(rng.choice('ab"\\\n\t{}[]:, é界') for _ in range(rng.randrange(12)))
    if kind == 2:
        return [made(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {f"k{i}": made(rng, depth + 1) for i in range(rng.randrange(4))}


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 1 << 20])
def test_equals_json_loads_whatever_the_window(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    rng = random.Random(chunk)
    for trial in range(12):
        data = {f"v{i}": made(rng) for i in range(rng.randrange(6))}
        for name, content in (("object", data), ("list", list(data.values()))):
            path = tmp_path / f"{name}{trial}.json"
            text = json.dumps(content, indent=rng.choice([None, 2]), ensure_ascii=rng.random() < 0.5)
            path.write_text(text, encoding="utf-8")
            keys = list(data) if name == "object" else [str(i) for i in range(len(data))]
            assert [(k, v) for _, k, v in json_entries(path)] == list(zip(keys, data.values(), strict=True))
            nested = tmp_path / "nested.json"
            nested.write_text(json.dumps({"before": content, "database": content, "after": 3}), encoding="utf-8")
            assert [v for _, _, v in json_entries(nested, "database")] == list(data.values())


def test_where_is_file_and_line(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"x":\n 1,\n\n "y": {"z":\n 2},\n "w": 3}')
    assert [w for w, _, _ in json_entries(path)] == [f"{path}:1: x", f"{path}:4: y", f"{path}:6: w"]


@pytest.mark.parametrize(
    ("text", "line"),
    [('{"a": 1,\n "b": [1,', 2), ('{"a": 1\n "b": 2}', 2), ("", 1), ('{"a"\n\n', 3), ("17", 1), ('{"a": nope}', 1)],
)
def test_what_is_not_json_is_named_by_line(tmp_path, text, line):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(VtjaxError, match=rf"a\.json:{line}: not JSON"):
        list(json_entries(path))


def test_missing_files_and_keys(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"version": 1}')
    with pytest.raises(VtjaxError, match="'database' is expected"):
        list(json_entries(path, "database"))
    for read in (lambda p: list(json_entries(p)), read_json):
        with pytest.raises(VtjaxError, match="no such file"):
            read(tmp_path / "absent.json")
    path.write_text('{"a": 1,\n')
    with pytest.raises(VtjaxError, match=r"a\.json:2: not JSON"):
        read_json(path)


def test_a_bad_jsonl_row_is_a_bad_row(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"a": \n[2]\n')
    lines = list(text_lines(path))
    assert [where for where, _ in lines] == [f"{path}:1", f"{path}:3", f"{path}:4"] and parsed(lines[0][1]) == {"a": 1}
    for (_, line), reason in zip(lines[1:], ("not JSON", "the row is not an object")):
        with pytest.raises(BadRow, match=reason):
            parsed(line)
