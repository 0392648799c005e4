import json
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vtjax.errors import VtjaxError
from vtjax.weights.safetensors_io import SafetensorsReader, write_safetensors


def tensors():
    rng = np.random.default_rng(0)
    return {
        "a.weight": rng.standard_normal((5, 4)).astype(np.float32),
        "b": rng.standard_normal(7).astype(ml_dtypes.bfloat16),
        "c": rng.integers(0, 9, (2, 3, 4)),
        "d": np.float16(1.5),
        "turned": rng.standard_normal((3, 6)).astype(np.float32).T,
    }


def assert_holds(reader, expected):
    assert set(reader) == set(expected) and len(reader) == len(expected)
    for name, value in expected.items():
        got = reader[name]
        assert got.dtype == value.dtype and got.tobytes() == np.ascontiguousarray(value).tobytes()
        assert reader.shape(name) == got.shape == value.shape


def test_round_trip_is_bitwise_in_one_file_and_in_shards(tmp_path):
    assert write_safetensors(tmp_path / "one" / "model.safetensors", tensors()) == [tmp_path / "one/model.safetensors"]
    assert_holds(SafetensorsReader(tmp_path / "one"), tensors())
    assert_holds(SafetensorsReader(tmp_path / "one" / "model.safetensors"), tensors())
    written = write_safetensors(tmp_path / "many" / "model.safetensors", tensors(), max_shard_bytes=200)
    assert [p.name for p in written][-1] == "model.safetensors.index.json" and len(written) > 2
    assert all(p.stat().st_size < 1000 for p in written)
    assert_holds(SafetensorsReader(tmp_path / "many"), tensors())
    assert sorted(p.name for p in (tmp_path / "many").iterdir()) == sorted(p.name for p in written)
    plain = load_file(written[0])  # the package's own reader agrees
    np.testing.assert_array_equal(plain["a.weight"], tensors()["a.weight"])


def test_reads_parts_and_reads_lazily(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, tensors())
    reader = SafetensorsReader(path)
    np.testing.assert_array_equal(reader.read("c", (slice(0, 1), slice(1, 3))), tensors()["c"][0:1, 1:3])
    assert reader.dtype_name("b") == "BF16"
    with pytest.raises(KeyError, match="a.weight"):
        reader["a.weigth"]


def test_writer_holds_at_most_one_shard(tmp_path, monkeypatch):
    from vtjax.weights import safetensors_io

    sizes = []

    def watched(shard, path, metadata):
        sizes.append(sum(v.nbytes for v in shard.values()))
        save_file(shard, path)

    monkeypatch.setattr(safetensors_io, "save_file", watched)
    write_safetensors(tmp_path / "m.safetensors", {str(i): np.zeros(10, np.float32) for i in range(9)}, 100)
    assert max(sizes) <= 100 and len(sizes) == 5


@pytest.mark.parametrize("keep", [0, 4, 8, 40, -1, -50])
def test_truncated(tmp_path, keep):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, tensors())
    data = path.read_bytes()
    path.write_bytes(data[:keep])
    with pytest.raises(VtjaxError, match="model.safetensors.*truncated or damaged"):
        SafetensorsReader(path)


def test_every_flipped_header_bit_is_an_error_or_visible(tmp_path):
    """A flip in the header is refused, or changes a name, type or shape, which the match report then names."""
    path = tmp_path / "m.safetensors"
    save_file({"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, path)
    data = path.read_bytes()
    end = 8 + struct.unpack("<Q", data[:8])[0]
    refused = 0
    for at in range(end):
        for bit in (0, 3, 6):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
            try:
                reader = SafetensorsReader(path)
            except VtjaxError as error:
                assert "m.safetensors" in str(error)
                refused += 1
                continue
            same = list(reader) == ["w"] and reader.shape("w") == (2, 3) and reader.dtype_name("w") == "F32"
            if same:  # only white space or the free-form metadata can have changed
                np.testing.assert_array_equal(reader["w"], np.arange(6, dtype=np.float32).reshape(2, 3))
    assert refused > end


def test_huge_claims(tmp_path):
    """A header of an exabyte, a tensor of a trillion numbers, offsets that overlap or lie outside."""
    path = tmp_path / "m.safetensors"
    save_file({"w": np.arange(6, dtype=np.float32)}, path)
    data = path.read_bytes()
    for length in (1 << 60, (1 << 64) - 1, 200_000_000):
        path.write_bytes(struct.pack("<Q", length) + data[8:])
        with pytest.raises(VtjaxError, match="m.safetensors.*truncated or damaged"):
            SafetensorsReader(path)
    for entry in (
        {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]},
        {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [6], "data_offsets": [-24, 0]},
    ):
        header = json.dumps({"w": entry}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(24))
        with pytest.raises(VtjaxError, match="m.safetensors.*truncated or damaged"):
            SafetensorsReader(path)


def test_missing_shard_and_wrong_index(tmp_path):
    written = write_safetensors(tmp_path / "model.safetensors", tensors(), max_shard_bytes=100)
    index = json.loads(written[-1].read_text())
    index["weight_map"]["ghost"] = written[0].name
    written[-1].write_text(json.dumps(index))
    with pytest.raises(VtjaxError, match="'ghost' is listed"):
        SafetensorsReader(tmp_path)
    written[1].unlink()
    with pytest.raises(VtjaxError, match=f"shards are not there: {written[1].name}"):
        SafetensorsReader(tmp_path)
    written[-1].write_text("{}")
    with pytest.raises(VtjaxError, match="not a safetensors index"):
        SafetensorsReader(tmp_path)


def test_index_cannot_point_outside_its_folder(tmp_path):
    (tmp_path / "in").mkdir()
    save_file({"w": np.zeros(1, np.float32)}, tmp_path / "outside.safetensors")
    index = {"weight_map": {"w": "../outside.safetensors"}}
    (tmp_path / "in" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(VtjaxError, match="not there"):
        SafetensorsReader(tmp_path / "in")


def test_nothing_or_too_much_found(tmp_path):
    with pytest.raises(VtjaxError, match="found none"):
        SafetensorsReader(tmp_path)
    with pytest.raises(VtjaxError, match="no such file"):
        SafetensorsReader(tmp_path / "absent")
    for name in ("x", "y"):
        write_safetensors(tmp_path / f"{name}.safetensors", tensors())
    with pytest.raises(VtjaxError, match="found x.safetensors, y.safetensors"):
        SafetensorsReader(tmp_path)
    with pytest.raises(VtjaxError, match="cannot be written"):
        write_safetensors(tmp_path / "o.safetensors", {"w": np.array(["text"])})
    with pytest.raises(VtjaxError, match="must end in"):
        write_safetensors(tmp_path / "x.bin", tensors())


def test_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"w": np.zeros(3, np.float32)})

    class Fails(dict):
        def items(self):
            yield "w", np.ones(3, np.float32)
            raise OSError("no space left")

    with pytest.raises(OSError):
        write_safetensors(path, Fails())
    np.testing.assert_array_equal(SafetensorsReader(path)["w"], np.zeros(3))
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
