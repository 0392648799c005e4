"""The prepared folder: what goes in comes out, and nothing half-written or changed is ever read."""

import json
import pickle

import numpy as np
import pytest

from vtjax.data.motion.clip import Caption, MotionClip
from vtjax.data.motion.store import MotionStore, write_store
from vtjax.errors import VtjaxError


def clips(count=5, seed=0):
    rng = np.random.default_rng(seed)
    for i in range(count):
        length = int(rng.integers(3, 40))
        swapped = rng.normal(size=(length + 1, 263)).astype(np.float32) if i % 2 else None
        captions = (
            Caption(f"Ein Gruß {i}.", ("a", "b"), 0.5, 1.0, sequence=f"s{i}"),
            Caption("second"),
        )
        yield MotionClip(
            f"k{i}",
            rng.normal(size=(length, 263)).astype(np.float32),
            captions[: 1 + i % 2],
            ((0, 2), (2, length)),
            swapped,
            (1, 0) if swapped is not None else (),
        )


def same(a, b):
    np.testing.assert_array_equal(a.features, b.features)
    assert a.features.dtype == b.features.dtype == np.float32
    assert (a.swapped is None) == (b.swapped is None)
    if a.swapped is not None:
        np.testing.assert_array_equal(a.swapped, b.swapped)
    assert (a.key, a.captions, a.bounds, a.swapped_order) == (b.key, b.captions, b.bounds, b.swapped_order)


def test_round_trip_and_pickle(tmp_path):
    summary = write_store(
        tmp_path / "s",
        clips(),
        meta={"source": "here", "world": "3"},
        splits={"k0": "train", "k1": "test", "k3": "train"},
        subsets={"nsim_test": ["k3", "k1", "absent"]},
    )
    store = MotionStore(tmp_path / "s")
    assert len(store) == 5 and store.keys == ("k0", "k1", "k2", "k3", "k4")
    for got, want in zip(store, clips(), strict=True):
        same(got, want)
    assert store.meta["world"] == "3" and summary == store.meta and summary["captions"] == 7
    assert store.split("train") == [0, 3] and store.split("nsim_test") == [3, 1]
    assert store.splits == {"train": 2, "test": 1, "nsim_test": 2}
    assert store.meta["subsets_missing"] == {"nsim_test": 1}
    with pytest.raises(VtjaxError, match="did you mean 'train'"):
        store.split("trian")
    store.verify()
    again = pickle.loads(pickle.dumps(store))
    same(again[3], store[3])
    assert len(pickle.dumps(store)) < 20_000  # the features are re-opened, not copied


def test_clip_arrays_may_be_written_to(tmp_path):
    write_store(tmp_path / "s", clips())
    store = MotionStore(tmp_path / "s")
    before = store[0].features.copy()
    store[0].features[:] = 0
    np.testing.assert_array_equal(store[0].features, before)


def test_fingerprint_is_of_contents(tmp_path):
    prints = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prints.append(write_store(tmp_path / name, clips(seed=seed), meta={"source": name})["fingerprint"])
    assert prints[0] == prints[1] != prints[2]


def test_statistics_are_per_dimension_and_unbiased(tmp_path):
    made = list(clips())
    made[2].features[:, 7] = made[4].features[:, 7] = 3.25
    write_store(tmp_path / "s", made)
    mean, std = MotionStore(tmp_path / "s").statistics([2, 4])
    rows = np.concatenate([made[2].features, made[4].features]).astype(np.float64)
    expected = rows.std(0, ddof=1)
    expected[7] = 1.0
    np.testing.assert_allclose(mean, rows.mean(0), atol=1e-6)
    np.testing.assert_allclose(std, expected, rtol=1e-5)
    assert mean.dtype == std.dtype == np.float32
    assert mean[7] == 3.25  # so that the constant dimension normalises to exactly 0


def test_saved_statistics_are_those_of_train(tmp_path):
    made = list(clips())
    write_store(tmp_path / "s", made, splits={"k1": "train", "k2": "train", "k0": "test"})
    rows = np.concatenate([made[1].features, made[2].features])
    np.testing.assert_allclose(np.load(tmp_path / "s/mean.npy"), rows.mean(0), atol=1e-5)
    np.testing.assert_allclose(np.load(tmp_path / "s/std.npy"), rows.std(0, ddof=1), atol=1e-5)


def test_failure_leaves_nothing(tmp_path):
    def failing():
        yield from clips()
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        write_store(tmp_path / "s", failing())
    assert list(tmp_path.iterdir()) == []
    write_store(tmp_path / "s", clips())
    with pytest.raises(OSError):
        write_store(tmp_path / "s", failing(), overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
    same(MotionStore(tmp_path / "s")[1], list(clips())[1])


def test_overwrite_only_prepared_folders(tmp_path):
    write_store(tmp_path / "s", clips())
    with pytest.raises(VtjaxError, match="exists already"):
        write_store(tmp_path / "s", clips(2))
    write_store(tmp_path / "s", clips(2), overwrite=True)
    assert len(MotionStore(tmp_path / "s")) == 2
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letter.txt").write_text("keep me")
    with pytest.raises(VtjaxError, match="not a prepared motion folder"):
        write_store(tmp_path / "home", clips(), overwrite=True)
    assert (tmp_path / "home/letter.txt").exists()


@pytest.mark.parametrize(
    "bad, word",
    [
        ([], "no clips"),
        ([*clips(2), *clips(1)], "two clips have the key 'k0'"),
        ([MotionClip("n", np.full((4, 263), np.nan, np.float32), ())], "n: NaN"),
        ([MotionClip("n", np.zeros((4, 10), np.float32), ())], r"\[frames, 263\]"),
    ],
)
def test_bad_clips(tmp_path, bad, word):
    with pytest.raises(VtjaxError, match=word):
        write_store(tmp_path / "s", bad)
    assert list(tmp_path.iterdir()) == []


def test_damage_is_named(tmp_path):
    path = tmp_path / "s"
    write_store(path, clips())
    features, lines, meta = (path / n for n in ("features.npy", "clips.jsonl", "meta.json"))
    whole = features.read_bytes()

    features.write_bytes(whole[:-1000])
    with pytest.raises(VtjaxError, match="truncated npy"):
        MotionStore(path)
    changed = bytearray(whole)
    changed[-5] ^= 1
    features.write_bytes(bytes(changed))
    with pytest.raises(VtjaxError, match="corrupt"):
        MotionStore(path).verify()
    np.save(features, np.zeros((3, 263), np.float32))
    with pytest.raises(VtjaxError, match="meta.json promises"):
        MotionStore(path)
    features.write_bytes(whole)
    MotionStore(path).verify()

    text = lines.read_text()
    lines.write_text(text[:-20])
    with pytest.raises(VtjaxError, match="clips.jsonl: changed or truncated"):
        MotionStore(path)
    lines.write_text(text)

    data = json.loads(meta.read_text())
    meta.write_text(json.dumps(data | {"version": 99}))
    with pytest.raises(VtjaxError, match="format version 99"):
        MotionStore(path)
    meta.write_text(meta.read_text()[:30])
    with pytest.raises(VtjaxError, match="damaged"):
        MotionStore(path)
    meta.unlink()
    with pytest.raises(VtjaxError, match="no file meta.json"):
        MotionStore(path)
