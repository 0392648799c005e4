"""CAR's examples: what is drawn, what is cropped, and that no negative is a positive."""

import collections
import dataclasses
import itertools
import json
import math
import pickle
import shutil

import numpy as np
import pytest

from vtjax.data.motion.clip import Caption
from vtjax.errors import VtjaxError
from vtjax.methods.car import config as car
from vtjax.methods.car import data
from vtjax.methods.car.task import CarObjective
from vtjax.methods.car.text import TextFields, open_text
from vtjax.text.tokenizer import WordTokenizer
from vtjax.training.pipeline import check_example

FRAMES, TOKENS = 60, 16


def settings(data_settings=None, quirks=None, text=None, **loss):
    return car.CarConfig(
        car.CarModelConfig(max_frames=FRAMES, latent=8, layers=1, heads=2, ff=16),
        car.CarTextConfig(**{"encoder": "builtin", "max_tokens": TOKENS, "width": 8, "vocab_size": 64, **(text or {})}),
        car.CarLossConfig(**{"text_negatives": 3, "motion_negatives": 1, "filter": "sequence", "sentence_width": 64, **loss}),
        car.CarQuirks(**(quirks or {})),
        car.CarDataConfig(**(data_settings or {})),
    )


@pytest.fixture(scope="module")
def train(store):
    return data.split_clips(store, "train")


@pytest.fixture(scope="module")
def normalizer(store, train):
    return data.Normalizer(*store.statistics(train.indices), FRAMES)


@pytest.fixture(scope="module")
def tokenizer(train):
    return WordTokenizer.from_texts(data.all_texts(train, "events", 3) + data.all_texts(train, "caption", 0), max_words=48)


@pytest.fixture
def make(train, normalizer, tokenizer):
    """A transform with its records by key, and the inverse of its tokenizer."""

    def build(config):
        captions, first = data.sentence_rows(train)
        sentence = data.sentence_embeddings(captions, config)
        transform = data.TrainTransform(config, normalizer, TextFields(config.text, tokenizer), sentence, first)
        return transform, {train[i][1].key: train[i] for i in range(len(train))}

    return build


def draws(transform, record, count=60):
    return [transform(record, np.random.default_rng(seed)) for seed in range(count)]


def texts_of(tokenizer, ids, mask, candidates):
    """The candidate that has these ids."""
    known = {tuple(i[m]): text for text in candidates for i, m in [[x[0] for x in tokenizer.encode([text], TOKENS)]]}
    return known[tuple(ids[mask])]


def orders_of(caption):
    events = caption.events or (caption.text,)
    return {" ".join(events[i] for i in order) for order in itertools.permutations(range(len(events)))}


def test_examples_fit_the_spec_and_depend_on_the_rng_alone(make):
    config = settings()
    transform, records = make(config)
    spec = {k: (tuple(s.shape), np.dtype(s.dtype)) for k, s in CarObjective(config).example_spec().items()}
    for record in records.values():
        for seed in range(3):
            once, again, pickled = (
                f(record, np.random.default_rng(seed)) for f in (transform, transform, pickle.loads(pickle.dumps(transform)))
            )
            check_example(once, spec)
            for other in (again, pickled):
                for name, value in once.items():
                    np.testing.assert_array_equal(value, other[name], err_msg=name)
    assert len({d["motion_mask"].sum() for d in draws(transform, records["three"], 20)}) == 3, "captions are drawn"


@pytest.mark.parametrize("key", ["two", "three", "six", "long"])
def test_negatives_are_other_orders_and_never_the_positive(make, tokenizer, key):
    transform, records = make(settings())
    captions = records[key][1].captions
    seen = set()
    for example in draws(transform, records[key]):
        own = texts_of(tokenizer, example["text_ids"], example["text_mask"], {" ".join(c.events or (c.text,)) for c in captions})
        caption = next(c for c in captions if " ".join(c.events or (c.text,)) == own)
        for k in range(3):
            negative = texts_of(tokenizer, example["negative_ids"][k], example["negative_mask"][k], orders_of(caption))
            assert (negative != own) == bool(example["negative_valid"][k])
            assert example["negative_valid"][k] == (len(caption.events) > 1)
            seen.add(negative)
    many = {"two": 2 - 1, "three": 6 - 1 + 1 + 1, "six": 100, "long": 1}[key]
    assert len(seen) >= many


def test_identical_events_have_no_negative(make):
    transform, records = make(settings())
    for example in draws(transform, records["same"], 5):
        assert not example["negative_valid"].any()
        for k in range(3):
            np.testing.assert_array_equal(example["negative_ids"][k], example["text_ids"])


def test_identity_shuffles_are_the_old_quirk(make):
    transform, records = make(settings(quirks={"identity_shuffles": True}))
    examples = draws(transform, records["two"], 100)
    same = [np.array_equal(e["negative_ids"][k], e["text_ids"]) for e in examples for k in range(3)]
    assert all(e["negative_valid"].all() for e in examples)
    assert 0.4 < np.mean(same) < 0.6  # two events: every second order is the original


def slow_normalise(rows, mean, std):
    out = np.zeros((FRAMES, 263))
    for t in range(min(len(rows), FRAMES)):
        for d in range(263):
            out[t, d] = (float(rows[t, d]) - float(mean[d])) / (float(std[d]) + 1e-12)
    return out


def test_motion_is_the_captions_own_segment_normalised_then_padded(make, store, train, tokenizer):
    rows = np.concatenate([store[i].features for i in train.indices]).astype(np.float64)
    mean, std = rows.mean(0), rows.std(0, ddof=1)
    transform, records = make(settings())
    clip = records["three"][1]
    expected = {"a person runs a person walks a person jumps": (0, 20), "turns left turns right": (10, 40), "a person walks": (0, 45)}
    met = set()
    for example in draws(transform, records["three"], 20):
        text = texts_of(tokenizer, example["text_ids"], example["text_mask"], expected)
        begin, end = expected[text]
        met.add(text)
        np.testing.assert_array_equal(example["motion_mask"], np.arange(FRAMES) < end - begin)
        np.testing.assert_allclose(example["motion"], slow_normalise(clip.features[begin:end], mean, std), atol=1e-4)
    assert met == set(expected)
    long = transform(records["long"], np.random.default_rng(0))
    assert long["motion_mask"].all()
    np.testing.assert_allclose(long["motion"], slow_normalise(records["long"][1].features, mean, std), atol=1e-4)


def test_the_crop_of_annotation_0_is_the_released_quirk(make):
    transform, records = make(settings(quirks={"annotation0_crop": True}))
    assert {d["motion_mask"].sum() for d in draws(transform, records["three"], 20)} == {20}


def test_swapped_motions_are_negatives_of_whole_clips_only(make):
    transform, records = make(settings())
    two = transform(records["two"], np.random.default_rng(0))
    assert two["negative_motion_valid"].all() and two["negative_motion_mask"].sum() == 31
    np.testing.assert_array_equal(two["negative_motion"][0], transform.normalizer(records["two"][1].swapped)[0])
    six = transform(records["six"], np.random.default_rng(0))
    assert not six["negative_motion_valid"].any() and six["negative_motion_mask"].sum() == 1 and not six["negative_motion"].any()
    valid = {(int(d["motion_mask"].sum()), bool(d["negative_motion_valid"][0])) for d in draws(transform, records["three"], 20)}
    assert valid == {(20, False), (30, False), (45, True)}
    transform, _ = make(settings(motion_negatives=2))
    with pytest.raises(VtjaxError, match="motion_negatives=2: a clip carries one swapped motion"):
        transform(records["two"], np.random.default_rng(0))


def test_the_sentence_is_that_of_the_drawn_caption(make, train):
    config = settings()
    transform, records = make(config)
    captions, first = data.sentence_rows(train)
    assert [c.sequence for c in captions] == ["wj", "rwj", "lr", "w", "ww", "6", "wj"] and first.tolist() == [0, 1, 4, 5, 6]
    rows = data.sentence_embeddings(captions, config)
    same = (rows @ rows.T) > 0.6
    assert same[0, 6] and same.sum() == 7 + 2, "equal sequences are equal, no others"
    by_frames = {20: 1, 30: 2, 45: 3}
    for example in draws(transform, records["three"], 10):
        np.testing.assert_array_equal(example["sentence"], rows[by_frames[int(example["motion_mask"].sum())]])


def test_caption_mode_shows_the_caption_and_shuffles_the_events(make, tokenizer):
    transform, records = make(settings(positive_text="caption"))
    example = transform(records["two"], np.random.default_rng(0))
    caption = records["two"][1].captions[0]
    assert texts_of(tokenizer, example["text_ids"], example["text_mask"], {caption.text}) == caption.text
    negative = texts_of(tokenizer, example["negative_ids"][0], example["negative_mask"][0], orders_of(caption))
    assert negative == "a person jumps a person walks"


def test_fields_come_and_go_with_the_settings(make):
    transform, records = make(settings(text_negatives=0, motion_negatives=0))
    example = transform(records["two"], np.random.default_rng(0))
    assert set(example) == {"motion", "motion_mask", "text_ids", "text_mask", "sentence"}


def caption_of(*events):
    return Caption(" then ".join(events), tuple(events))


@pytest.mark.parametrize("events", [("a", "b"), ("a", "b", "c"), ("a", "b", "a"), tuple("abcdefg")])
def test_wrong_texts_are_always_the_same_few(events):
    caption = caption_of(*events)
    wrong = data.wrong_texts(caption, 4)
    assert wrong == data.wrong_texts(caption, 4)
    distinct = math.factorial(len(events)) // math.prod(map(math.factorial, collections.Counter(events).values()))
    assert len(wrong) == len(set(wrong)) == min(4, distinct - 1)
    assert all(sorted(text.split()) == sorted(events) and text != " ".join(events) for text in wrong)


def test_wrong_texts_of_what_has_no_wrong_order():
    assert data.wrong_texts(caption_of("a"), 4) == data.wrong_texts(Caption("a"), 4) == data.wrong_texts(caption_of("a", "a"), 4) == []


def test_cached_states_are_those_that_training_asks_for(train, normalizer, language_model, tmp_path):
    config = settings(text={"encoder": "bert", "path": str(language_model), "width": 8}, filter="none", text_negatives=2)
    text = open_text(config.text, tmp_path)
    wanted = data.all_texts(train, "events", config.data.orders)
    assert len(wanted) == len(set(wanted))
    text.prepare(wanted, tmp_path / "cache")
    transform = pickle.loads(pickle.dumps(data.TrainTransform(config, normalizer, text)))
    assert transform.text._encoder is None, "a worker reads states and computes none"
    records = [train[i] for i in range(len(train))]
    for record in records:
        cached = {t for c in record[1].captions for t in [data.positive_text(c, "events"), *data.wrong_texts(c, 2)]}
        states, masks = text._encoder.encode(sorted(cached))
        known = {s[m].round(4).tobytes() for s, m in zip(states, masks, strict=True)}
        assert len(known) == len(cached)
        for example in draws(transform, record, 10):
            own = example["text_states"][example["text_mask"]]
            assert own.round(4).tobytes() in known
            for k in range(2):
                negative = example["negative_states"][k][example["negative_mask"][k]]
                assert negative.round(4).tobytes() in known
                different = negative.shape != own.shape or np.abs(negative - own).max() > 1e-4
                assert different == example["negative_valid"][k]
    with pytest.raises(Exception, match="encode"):  # not cached, and no model to compute it with
        transform.text(["a person turns around"])


def test_texts_made_ready_are_computed_once(language_model, tmp_path):
    config = settings(text={"encoder": "bert", "path": str(language_model), "width": 8}).text
    asked = ["a person walks", "a person jumps", "a person walks"]
    want = open_text(config, tmp_path)(asked)  # without a cache
    text = open_text(config, tmp_path, cache=tmp_path / "cache")
    text.ready(asked)
    assert len(text.store) == 2
    again = open_text(config, tmp_path, cache=tmp_path / "cache")
    again._encoder.batches = None  # there is nothing left to compute
    again.ready(asked)
    for one, other in zip(again(asked), want, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_normalizer_files(tmp_path):
    normalizer = data.Normalizer(np.arange(3, dtype=np.float32), np.ones(3, np.float32), 2)
    normalizer.save(tmp_path)
    again = data.Normalizer.load(tmp_path, 2)
    motion, mask = again(np.array([[1, 1, 2]], np.float32))
    np.testing.assert_array_equal(motion, [[1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(mask, [True, False])
    (tmp_path / "std.npy").unlink()
    with pytest.raises(VtjaxError, match="std.npy: missing; vtjax.train writes it"):
        data.Normalizer.load(tmp_path, 2)


def test_sentence_encoders(train):
    captions, _ = data.sentence_rows(train)
    rows = data.sentence_embeddings(captions, settings(filter="sentence", sentence_encoder="builtin", sentence_width=32))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert rows.shape == (7, 32) and not np.array_equal(rows[0], rows[6])
    with pytest.raises(VtjaxError, match="gold|sequence"):
        data.sentence_embeddings([Caption("no key")], settings())


def test_the_world_is_generated_once_and_whole(tmp_path):
    config = car.CarDataConfig(world_train=6, world_test=4, val_size=3, script=1.0, min_events=2)
    store = data.world_store(config, tmp_path)
    assert store.splits == {"train": 6, "val": 3, "test": 4} and store.meta["script"] == 1.0
    before = {p: p.stat().st_mtime_ns for p in store.path.iterdir()}
    assert data.open_store(config, tmp_path).fingerprint == store.fingerprint
    assert {p: p.stat().st_mtime_ns for p in store.path.iterdir()} == before
    other = data.world_store(dataclasses.replace(config, world_seed=1), tmp_path)
    assert other.path != store.path and other.fingerprint != store.fingerprint
    plain = data.world_store(dataclasses.replace(config, script=0.0), tmp_path)
    for name, equal in (("train", False), ("val", True), ("test", True)):
        clips = [[data.split_clips(s, name)[i][1].features for i in range(3)] for s in (store, plain)]
        assert all(np.array_equal(a, b) for a, b in zip(*clips, strict=True)) == equal, f"only training follows the script: {name}"
    # A kill while it is written leaves no meta.json: it is made again.
    (store.path / "meta.json").unlink()
    for path in store.path.iterdir():
        path.unlink()
    assert data.world_store(config, tmp_path).fingerprint == store.fingerprint
    shutil.rmtree(tmp_path)


def test_splits_and_limits(store):
    assert len(data.split_clips(store, "train", 2)) == 2 and len(data.split_clips(store, "train")) == 5
    with pytest.raises(VtjaxError, match="no split 'trian': did you mean 'train'"):
        data.split_clips(store, "trian")
    json.dumps(store.meta)
