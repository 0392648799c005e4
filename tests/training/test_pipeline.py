"""The pipeline: what a step sees depends on the seed and the step alone."""

import itertools

import numpy as np
import pytest
import toy

from vtjax.config import Loader
from vtjax.errors import VtjaxError
from vtjax.training.pipeline import train_batches

COUNT, BATCH = 11, 4  # batches run across epoch ends


def batches(steps, *, seed=3, count=COUNT, start_step=0, spec=toy.SPEC, transform=toy.transform, **options):
    stream = train_batches(
        toy.Numbers(count), transform, spec, seed=seed, batch_size=BATCH, start_step=start_step, **options
    )
    return list(itertools.islice(stream, steps))


def equal(got, expected):
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name])


REFERENCE = batches(9)


@pytest.mark.parametrize("hosts", [[[0, 1], [2, 3]], [[0, 2], [1, 3]], [[0], [1], [2], [3]], [[0, 1, 2, 3]] * 2])
def test_hosts_read_their_rows_of_the_same_batches(hosts):
    for rows in hosts:
        equal(batches(9, rows=rows), [{k: v[rows] for k, v in batch.items()} for batch in REFERENCE])


@pytest.mark.parametrize("start_step", [1, 5])
@pytest.mark.parametrize("rows", [None, [1, 3]])
def test_any_step_can_be_resumed_from(start_step, rows):
    expected = [{k: v[rows or slice(None)] for k, v in batch.items()} for batch in REFERENCE[start_step:]]
    equal(batches(9 - start_step, start_step=start_step, rows=rows), expected)


def test_worker_processes_and_threads_change_nothing():
    equal(batches(9, loader=Loader(workers=2, prefetch=2)), REFERENCE)
    equal(batches(4, loader=Loader(threads=7, prefetch=1), start_step=5), REFERENCE[5:])


def test_every_epoch_has_every_example_once_and_batches_cross_its_end():
    ids = np.concatenate([b["id"] for b in batches(2 * COUNT)])
    epochs = ids.reshape(-1, COUNT)
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_augmentation_differs_between_epochs_rows_and_seeds():
    drawn = np.concatenate([b["x"] for b in batches(COUNT)])
    assert len(np.unique(drawn, axis=0)) == len(drawn)
    assert not np.array_equal(batches(1, seed=4)[0]["x"], REFERENCE[0]["x"])


def test_a_source_smaller_than_a_batch_is_repeated():
    assert [sorted(b["id"]) for b in batches(2, count=2)] == [[0, 0, 1, 1]] * 2


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda e: e.pop("y"), r"wrong fields: missing \['y'\], unexpected \[\]"),
        (lambda e: e.update(z=e["y"]), r"wrong fields: missing \[\], unexpected \['z'\]"),
        (lambda e: e.update(x=e["x"][:3]), r"field 'x' is float32\[3\], expected float32\[4\]"),
        (lambda e: e.update(x=e["x"].astype(np.float64)), r"field 'x' is float64\[4\], expected float32\[4\]"),
    ],
)
def test_examples_that_do_not_fit_the_spec_are_named(change, message):
    def transform(record, rng):
        example = toy.transform(record, rng)
        change(example)
        return example

    with pytest.raises(VtjaxError, match=message):
        batches(1, transform=transform)


def refuse(record, rng):
    raise VtjaxError(f"example {record[0]} is bad")


def test_errors_in_worker_processes_are_the_users_too():
    with pytest.raises(VtjaxError, match=r"example \d+ is bad"):
        batches(1, transform=refuse, loader=Loader(workers=1))


def test_no_data_is_an_error():
    with pytest.raises(VtjaxError, match="training data is empty"):
        batches(1, count=0)
