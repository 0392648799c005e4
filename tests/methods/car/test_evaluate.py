"""CAR's evaluations against direct computation: clip by clip, pair by pair."""

import functools
import itertools
import json
import math

import jax
import numpy as np
import pytest

import vtjax
from vtjax.errors import VtjaxError
from vtjax.evals.embed import cosines as similarity
from vtjax.methods.car import data, evaluate
from vtjax.methods.car.config import CarQuirks
from vtjax.methods.car.embed import BATCH, open_embedder
from vtjax.methods.car.model import CarModel
from vtjax.worlds.drawn import cache_folder


@pytest.fixture(scope="module")
def run(trained):
    return vtjax.load(trained)


@pytest.fixture(scope="module")
def store(run):
    return data.open_store(run.experiment.method.data, cache_folder(run.experiment, run.work))


@pytest.fixture(scope="module")
def clips(store):
    return [store[i] for i in store.split("test")]


@pytest.fixture(scope="module")
def direct(run):
    """(texts to mu, motions to mu) by the model itself, in one call each, normalised here."""
    config, assets = run.experiment.method, run.work / "assets"
    model = CarModel(config.model, config.text)
    words = json.loads((assets / "tokenizer" / "word_tokenizer.json").read_text())
    assert words["vocabulary"]
    embedder = open_embedder(config, assets)
    mean, std = np.load(assets / "mean.npy"), np.load(assets / "std.npy")

    @jax.jit
    def motion_mu(params, motion, mask):
        return model.apply({"params": params}, motion, mask, method="encode_motion")[0]

    @jax.jit
    def text_mu(params, ids, mask):
        states = model.apply({"params": params}, ids, mask, method="text_states")
        return model.apply({"params": params}, states, mask, method="encode_text")[0]

    def motions(features):
        frames = config.model.max_frames
        padded, mask = np.zeros((len(features), frames, 263), np.float32), np.zeros((len(features), frames), bool)
        for i, rows in enumerate(features):
            rows = (rows[:frames] - mean) / (std + 1e-12)
            padded[i, : len(rows)], mask[i, : len(rows)] = rows, True
        return np.asarray(motion_mu(run.params, padded, mask), np.float64)

    def texts(sentences):
        encoded = [embedder.text.tokenizer.encode([s], config.text.max_tokens) for s in sentences]
        return np.asarray(text_mu(run.params, *(np.concatenate(x) for x in zip(*encoded, strict=True))), np.float64)

    return texts, motions


def cosines(a, b):
    return np.array([[float(x @ y / math.sqrt((x @ x) * (y @ y))) for y in b] for x in a])


def joined(events):
    return " ".join(events)


@pytest.fixture(scope="module")
def results(run):
    return {r.protocol: r for r in run.evaluate()}


@pytest.fixture(scope="module")
def table(direct, clips):
    """Cosines of every positive text with every motion."""
    texts, motions = direct
    return cosines(texts([joined(c.captions[0].events or (c.captions[0].text,)) for c in clips]), motions([c.features for c in clips]))


def slow_recalls(rows, right):
    """Metrics of the paper from cosines [Q, G] and each query's answer: how many are nearer."""
    ranks = [sum(value > row[answer] for value in row) for row, answer in zip(rows, right, strict=True)]
    metrics = {f"R@{k}": round(100 * sum(r < k for r in ranks) / len(ranks), 2) for k in (1, 2, 3, 5, 10)}
    return {**metrics, "MedR": float(np.median(ranks)) + 1}


def test_retrieval_over_all(results, table):
    answers = range(len(table))
    assert results["retrieval/all/t2m"].metrics == pytest.approx(slow_recalls(table, answers), abs=0.011)
    assert results["retrieval/all/m2t"].metrics == pytest.approx(slow_recalls(table.T, answers), abs=0.011)
    assert results["retrieval/all/t2m"].items == 48 and results["retrieval/all/t2m"].chance["R@1"] == pytest.approx(100 / 48)


def items_of(clips):
    return [i for i, c in enumerate(clips) if len(set(c.captions[0].events)) > 1]


def wrong_orders(events):
    seen = {joined(events)}
    for order in itertools.permutations(range(len(events))):
        text = joined([events[i] for i in order])
        if text not in seen:
            seen.add(text)
            yield text


def test_two_way_car_with_the_orders_that_were_saved(run, results, direct, clips):
    texts, motions = direct
    saved = json.loads((run.work / "orders-test.json").read_text())["items"]
    items = items_of(clips)
    assert {clips[i].key for i in items} == set(saved)
    for mode in ("event-to-event", "original-to-event"):
        right = 0
        for i in items:
            caption = clips[i].captions[0]
            order = saved[clips[i].key]["order"]
            true = joined(caption.events) if mode == "event-to-event" else caption.text
            two = texts([true, joined([caption.events[j] for j in order])])
            a, b = cosines(two, motions([clips[i].features]))[:, 0]
            right += a > b
        assert results[f"car/2-way/{mode}"].metrics["CAR"] == pytest.approx(100 * right / len(items))
        assert results[f"car/2-way/{mode}"].items == len(items)


def test_car_over_all_orders(results, direct, clips):
    texts, motions = direct
    shares, firsts = {}, {}
    for i in items_of(clips):
        events = clips[i].captions[0].events
        vectors = texts([joined(events), *wrong_orders(events)])
        scores = cosines(vectors, motions([clips[i].features]))[:, 0]
        shares.setdefault(len(events), []).append(np.mean(scores[0] > scores[1:]))
        firsts.setdefault(len(events), []).append(scores[0] > scores[1:].max())
    for size, own in shares.items():
        result = results[f"car/all orders/{size} events"]
        assert result.metrics == pytest.approx({"CAR": 100 * np.mean(own), "first": 100 * np.mean(firsts[size])})
    every = np.concatenate(list(shares.values()))
    assert results["car/all orders/any number of events"].metrics["CAR"] == pytest.approx(100 * every.mean())


def test_swapped_motions_and_distractors(run, results, direct, clips, table):
    texts, motions = direct
    items = [i for i in items_of(clips) if clips[i].swapped is not None]
    right = 0
    for i in items:
        text = texts([joined(clips[i].captions[0].events)])
        a, b = cosines(text, motions([clips[i].features, clips[i].swapped]))[0]
        right += a > b
    assert results["car/2-way/motions swapped"].metrics["CAR"] == pytest.approx(100 * right / len(items))
    saved = json.loads((run.work / "orders-test.json").read_text())["items"]
    wrong = [[clips[i].captions[0].events[j] for j in saved[clips[i].key]["order"]] for i in items_of(clips)]
    gallery = np.concatenate([table, cosines(texts([joined(w) for w in wrong]), motions([c.features for c in clips]))])
    expected = slow_recalls(gallery.T, range(len(clips)))
    assert results["retrieval/all with distractors/m2t"].metrics == pytest.approx(expected, abs=0.011)


def test_blind_controls_do_not_see_the_motion(results):
    for name in ("model with the mean motion", "text prior"):
        result = results[f"car/blind/{name}"]
        assert result.items == results["car/2-way/event-to-event"].items and result.chance == {"CAR": 50.0}


def test_while_training_the_same_numbers(run, clips, store, results):
    embedder = open_embedder(run.experiment.method, run.work / "assets")
    quick = {r.protocol: r for r in evaluate.quick_results(embedder, data.split_clips(store, "test"), run.params)}
    assert {"retrieval/all/t2m", "retrieval/all/m2t", "car/2-way/event-to-event"} <= set(quick) <= set(results)
    for name, result in quick.items():
        # Metrics that choose the best checkpoint are rounded only with the quirk.
        assert result.metrics == pytest.approx(results[name].metrics, abs=0.0051), name
    logged = [json.loads(line) for line in (run.work / "train" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged if line["split"] == "eval"] == [6, 12]
    assert "car/2-way/event-to-event/CAR" in logged[-1]


def test_batches_and_padding_of_the_embedder_change_nothing(run, clips, direct):
    embedder = open_embedder(run.experiment.method, run.work / "assets")
    texts, motions = direct
    many = [clips[i % len(clips)].features for i in range(BATCH + 3)]
    np.testing.assert_allclose(embedder.motions(run.params, many), motions(many), atol=1e-5)
    sentences = [c.captions[0].text for c in clips][:5]
    np.testing.assert_allclose(embedder.texts(run.params, sentences), texts(sentences), atol=1e-5)
    a, b = np.random.default_rng(0).normal(size=(2, 4, 3))
    np.testing.assert_allclose(similarity(a, b), cosines(a, b))


def test_masks_of_the_original_text_are_the_released_quirk(run, clips):
    embedder = open_embedder(run.experiment.method, run.work / "assets")
    longer, shorter = "A person walks and then jumps.", "A person walks."
    plain, same, cut = (
        embedder.texts(run.params, [longer], masks_of=m)[0] for m in (None, [longer], [shorter])
    )
    np.testing.assert_array_equal(plain, same)
    assert np.abs(plain - cut).max() > 1e-3
    ids, mask = embedder.text.tokenizer.encode([longer], embedder.config.text.max_tokens)
    other = embedder.text.tokenizer.encode([shorter], embedder.config.text.max_tokens)[1]
    assert mask.sum() > other.sum()
    call = functools.partial(evaluate.full_results, embedder, run.params, _Listed(clips))
    plain = {r.protocol: r.metrics for r in call()}
    embedder.config.quirks = CarQuirks(original_length_mask=True)
    quirk = {r.protocol: r.metrics for r in call()}
    embedder.config.quirks = CarQuirks()
    assert {k for k in plain if plain[k] != quirk[k]} <= {"retrieval/all with distractors/m2t"}


class _Listed(list):
    """Clips that are at hand as the sequence that evaluations take."""

    def __getitem__(self, index):
        return index, super().__getitem__(index)

    def captions(self):
        return [c.captions for c in list.__iter__(self)]


def test_the_command_prints_and_writes(trained):
    import commands

    result = commands.run("-m", "vtjax.evaluate", f"--work_directory={trained}", "--split=val", f"--output={trained}/x.json")
    assert result.returncode == 0, result.stderr
    assert "retrieval/all/t2m" in result.stdout and "chance" in result.stdout and "x.json" in result.stdout
    assert {r["protocol"] for r in json.loads((trained / "x.json").read_text())} >= {"car/2-way/event-to-event"}
    said = (trained.parent / "said.txt").read_text()
    assert "car/2-way/event-to-event" in said and f"report: {trained}/report.html" in said


def test_wrong_splits_and_checkpoints(run, trained):
    with pytest.raises(VtjaxError, match="no split 'tset': did you mean 'test'"):
        run.evaluate(split="tset")
    with pytest.raises(VtjaxError, match=r"no checkpoint of step 7; there are \[6, 12\]"):
        _ = vtjax.load(trained, which="7").params
