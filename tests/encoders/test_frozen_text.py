import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from vtjax.encoders.frozen_text import FrozenTextEncoder
from vtjax.encoders.state_store import StateStore
from vtjax.errors import VtjaxError
from vtjax.nn.bert import BertEncoder

TEXTS = ["a person walks", "the person jumps then turns around " * 5, "runs", "left and right " * 7, "a person walks"]


@pytest.fixture(scope="module")
def encoder(model_folder):
    return FrozenTextEncoder(model_folder, 40)


def test_states_equal_the_encoder_run_one_text_at_a_time(encoder):
    states, mask = encoder.encode(TEXTS)
    assert states.shape == (5, 40, 8) and states.dtype == np.float32 and mask.dtype == bool
    ids, expected_mask = encoder.tokenizer.encode(TEXTS, 40)
    np.testing.assert_array_equal(mask, expected_mask)
    assert not states[~mask].any()
    for i, count in enumerate(mask.sum(1)):
        alone = BertEncoder(encoder.config).apply(
            {"params": encoder.params}, ids[i : i + 1, :count], np.ones((1, count), bool)
        )
        np.testing.assert_allclose(states[i, :count], alone[0], atol=1e-5)
    np.testing.assert_array_equal(states[0], states[4])


def test_order_and_a_partial_batch_do_not_matter(encoder):
    texts = [f"{a} {b} {c}" for a in ("walks", "runs", "jumps") for b in ("left", "right", "then") for c in TEXTS[:4]]
    together = encoder.encode(texts)[0]
    order = np.random.default_rng(0).permutation(len(texts))
    np.testing.assert_allclose(encoder.encode([texts[i] for i in order])[0], together[order], atol=1e-6)
    assert encoder.encode([])[0].shape == (0, 40, 8)


def test_few_programs_are_compiled(model_folder):
    encoder = FrozenTextEncoder(model_folder, 40)
    for n in range(1, 38, 3):
        encoder.encode(["walks " * n] * (n % 5 + 1))
    assert encoder._states._cache_size() == 3  # 16, 32, 40


def test_cache_computes_each_text_once(encoder, tmp_path):
    plain, mask = encoder.encode(TEXTS)
    states, cached_mask = encoder.prepare(TEXTS, tmp_path).read(TEXTS)
    np.testing.assert_allclose(states, plain, atol=1e-6)
    np.testing.assert_array_equal(mask, cached_mask)
    again = FrozenTextEncoder(encoder.tokenizer.folder, 40)
    again.batches = lambda *_: pytest.fail("computed again")
    np.testing.assert_array_equal(again.prepare(TEXTS[::-1], tmp_path).read(TEXTS[::-1])[0], states[::-1])
    store = again.store(tmp_path)
    assert "runs" not in store and store.absent(["runs", "new", "new"]) == ["new"] and "runs" in store
    rows = (tmp_path / store.folder / "states.bin").stat().st_size // (8 * 4)
    assert rows == mask[:4].sum()  # no padding on the disk, no text twice


def test_cache_is_keyed_by_model_length_and_dtype(model_folder, other_model_folder, tmp_path):
    encoders = [
        FrozenTextEncoder(model_folder, 40),
        FrozenTextEncoder(other_model_folder, 40),
        FrozenTextEncoder(model_folder, 5),
        FrozenTextEncoder(model_folder, 40, "bfloat16"),
    ]
    assert len({e.store(tmp_path).key("a") for e in encoders}) == 4
    for encoder in encoders:
        states, _ = encoder.prepare(TEXTS, tmp_path).read(TEXTS)
        assert states.dtype == encoder.dtype
        np.testing.assert_allclose(states.astype(np.float32), encoder.encode(TEXTS)[0].astype(np.float32), atol=1e-6)
    assert encoders[2].tokenizer.truncated > 0


def test_wrong_length_and_empty_text(model_folder, encoder, tmp_path):
    with pytest.raises(VtjaxError, match="takes 3 to 64"):
        FrozenTextEncoder(model_folder, 65)
    with pytest.raises(VtjaxError, match="text 1 of 2 is empty"):
        encoder.encode(["a", ""])
    with pytest.raises(VtjaxError, match="text 0 of 1 is empty"):
        encoder.prepare([""], tmp_path).read([""])
    with pytest.raises(VtjaxError, match="1 texts have no states.*'never seen'"):
        encoder.prepare(["walks"], tmp_path).read(["never seen"])


def rows(n, value):
    return np.full((n, 4), value, np.float32)


def new_store(folder):
    return StateStore(folder, 6, 4, np.float32, "model")


def test_store_survives_any_cut(tmp_path):
    store = new_store(tmp_path)
    store.append(["one", "two"], [rows(2, 1), rows(3, 2)])
    index, states = ((tmp_path / n).read_bytes() for n in ("index.jsonl", "states.bin"))
    store.append(["three"], [rows(4, 3)])
    whole_index, whole_states = ((tmp_path / n).read_bytes() for n in ("index.jsonl", "states.bin"))
    cuts = [(len(index), n) for n in range(len(states), len(whole_states) + 1, 7)]
    cuts += [(n, len(whole_states)) for n in range(len(index), len(whole_index), 9)]
    for index_end, states_end in cuts:
        (tmp_path / "index.jsonl").write_bytes(whole_index[:index_end])
        (tmp_path / "states.bin").write_bytes(whole_states[:states_end])
        store = new_store(tmp_path)
        assert store.absent(["one", "two", "three"]) == ["three"]
        store.append(["four"], [rows(1, 4)])
        store.append(["three"], [rows(4, 3)])
        for text, count, value in [("one", 2, 1), ("two", 3, 2), ("three", 4, 3), ("four", 1, 4)]:
            states_read, mask = new_store(tmp_path).read([text])
            assert mask.sum() == count and (states_read[0, :count] == value).all() and not states_read[0, count:].any()


def test_store_that_lost_its_rows_is_an_error(tmp_path):
    store = new_store(tmp_path)
    store.append(["one"], [rows(2, 1)])
    (tmp_path / "states.bin").write_bytes(b"1234")
    with pytest.raises(VtjaxError, match="shorter than its index"):
        new_store(tmp_path).read(["one"])
    with pytest.raises(VtjaxError, match=r"states of shape \(7, 4\)"):
        store.append(["long"], [rows(7, 1)])
    with pytest.raises(VtjaxError, match="expected"):
        StateStore(tmp_path, 6, 5, np.float32, "model")


def test_store_between_processes_and_pickled(tmp_path):
    first, second = new_store(tmp_path), new_store(tmp_path)
    first.append(["one"], [rows(2, 1)])
    second.append(["one", "two"], [rows(2, 9), rows(1, 2)])  # "one" came first from another process
    assert (pickle.loads(pickle.dumps(first)).read(["one", "two"])[0][:, 0, 0] == [1, 2]).all()


def test_full_disk_stores_nothing_of_the_call(tmp_path, monkeypatch):
    store = new_store(tmp_path)
    store.append(["one"], [rows(2, 1)])
    whole = store._write

    def full(name, data, at):
        if name == "index.jsonl":
            raise OSError(28, "No space left on device")
        whole(name, data, at)

    monkeypatch.setattr(store, "_write", full)
    with pytest.raises(VtjaxError, match="No space left"):
        store.append(["two"], [rows(3, 2)])
    monkeypatch.undo()
    assert store.absent(["one", "two"]) == ["two"]
    store.append(["two"], [rows(3, 2)])
    assert store.read(["two"])[0][0, 2, 0] == 2


def test_killed_writer(tmp_path):
    """SIGKILL in the middle of appending: what is readable is right, and another process goes on."""
    code = (
        "import sys, numpy as np; from vtjax.encoders.state_store import StateStore\n"
        "s = StateStore(sys.argv[1], 6, 4, np.float32, 'model')\n"
        "for i in range(10**6): s.append([str(i)], [np.full((i % 6 + 1, 4), i, np.float32)])\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    end = time.time() + 30
    while time.time() < end and not (tmp_path / "index.jsonl").exists():
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    store = new_store(tmp_path)
    store.refresh()
    count = len(store)
    assert count > 0
    store.append(["later"], [rows(2, -1)])
    for i in (0, count // 2, count - 1):
        states, mask = store.read([str(i)])
        assert mask.sum() == i % 6 + 1 and (states[0, : i % 6 + 1] == i).all()
    assert (store.read(["later"])[0][0, :2] == -1).all()
