"""The released code's order choice behind its switch, and what a run says of data it cannot use in full."""

import logging
import random

import pytest

from vtjax.config import Experiment, Optim, Train
from vtjax.methods.car import config as car
from vtjax.methods.car import data, pipeline
from vtjax.methods.car.evaluate import test_set as order_test


def test_legacy_orders_follow_one_python_generator_through_the_test_set(store):
    clips = data.Clips(store, range(len(store)))
    config = car.CarConfig()
    config.quirks.legacy_orders = True
    rng, expected = random.Random(1234), {}
    for _, clip in (clips[i] for i in range(len(clips))):
        events = list(data.events_of(clip.captions[0]))
        if len(set(events)) > 1:
            shuffled = events
            while shuffled == events:
                shuffled = sorted(events, key=lambda _: rng.random())
            expected[clip.key] = shuffled
    tests = order_test(clips, config)
    assert {i.key: [i.events[e] for e in tests.orders[i.key]] for i in tests.items} == expected
    assert [p.where for p in tests.problems.items] == ["same"]
    reversed_clips = data.Clips(store, range(len(store))[::-1])
    assert order_test(reversed_clips, config).orders != tests.orders  # the order of the calls matters
    config.quirks.legacy_orders = False
    assert order_test(reversed_clips, config).orders == order_test(clips, config).orders != tests.orders


def test_survey_counts_cut_clips_and_captions_without_orders(store):
    text = data.survey(data.Clips(store, range(len(store))), 40)
    # Of 'three' (45 rows) the whole-clip caption is cut; 'six' has exactly 40 rows.
    assert text.startswith("6 clips, 2 (33.3 %) longer than 40 frames and cut; 8 captions, 7 of several events")
    assert "1 without a wrong order" in text and "1 of more than 5 events" in text
    assert data.survey(data.Clips(store, []), 40).startswith("0 clips, 0 (0.0 %)")


@pytest.fixture
def lines():
    """Messages that vtjax logs."""
    found = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    logger = logging.getLogger("absl")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_a_run_says_at_its_start_what_is_cut(store, tmp_path, lines):
    model = car.CarModelConfig(max_frames=40, latent=8, layers=1, heads=2, ff=16)
    text = car.CarTextConfig(encoder="builtin", max_tokens=16, width=8, vocab_size=64)
    loss = car.CarLossConfig(filter="sequence", sentence_width=16)
    method = car.CarConfig(model, text, loss, data=car.CarDataConfig(source=str(store.path)))
    experiment = Experiment("car", method, optim=Optim(), train=Train(steps=2, batch_size=8))
    pipeline.build(experiment, tmp_path / "w")
    assert [line for line in lines if line.startswith("train: 5 clips, 2 (40.0 %) longer than 40 frames and cut; ")]
    assert [line for line in lines if line.startswith("test: 1 clips, 0 (0.0 %)")]
