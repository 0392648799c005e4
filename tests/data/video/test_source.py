"""Videos in the step-indexed pipeline: the same batches everywhere, bad videos counted and replaced."""

import dataclasses
import pickle

import av
import numpy as np
import pytest
from videos import ClipTransform

from vtjax.config import Loader
from vtjax.data.video.excerpt import Excerpt
from vtjax.data.video.sampling import Sampler
from vtjax.data.video.source import VideoSource, read_clip
from vtjax.data.video_records import VideoRecord
from vtjax.errors import VtjaxError
from vtjax.training.pipeline import train_batches

BATCH = 8


@pytest.fixture(scope="module")
def records(video, tmp_path_factory):
    """Eleven videos, two of them bad; their blue tells which is which."""
    root = tmp_path_factory.mktemp("videos")
    found = []
    for index in range(11):
        path = video.write(root / f"{index}.mp4", 12 + index, size=(32, 48), brightness=8 * index)
        if index in (3, 7):
            path.write_bytes(path.read_bytes()[:50])
        found.append(VideoRecord(str(index), str(index), str(path), path=path, label=index))
    return found


def transform():
    return ClipTransform(Sampler("segments", 3), size=16, flip=True)


def batches(records, steps, start=0, rows=None, workers=0, log=None):
    source = VideoSource(records, log=log)
    clips = transform()
    found = train_batches(
        source, clips, clips.spec(), seed=5, batch_size=BATCH, start_step=start, rows=rows,
        loader=Loader(workers=workers, threads=2, prefetch=1),
    )  # fmt: skip
    return [next(found) for _ in range(steps)], source


def joined(parts):
    """Parts of one global batch, (rows, batch) each, as the whole."""
    whole = {name: np.empty((BATCH, *value.shape[1:]), value.dtype) for name, value in parts[0][1].items()}
    for rows, part in parts:
        for name, value in part.items():
            whole[name][list(rows)] = value
    return whole


def same(a, b):
    return all(np.array_equal(a[name], b[name]) for name in a) and set(a) == set(b)


def check_places(records, whole, hosts, workers, start, log=None):
    """The batches from `start` on, read by so many hosts with so many workers each, are those of `whole`."""
    steps = len(whole) - start
    rows = [range(h, BATCH, hosts) for h in range(hosts)]
    parts = [batches(records, steps, start, mine, workers, log)[0] for mine in rows]
    for step in range(steps):
        found = joined([(mine, part[step]) for mine, part in zip(rows, parts, strict=True)])
        assert same(found, whole[start + step]), (hosts, workers, start, step)


def test_the_same_on_any_number_of_hosts_and_on_resuming_anywhere(records):
    whole, _ = batches(records, 5)
    for hosts in (1, 2, 4):
        for start in range(5):
            check_places(records, whole, hosts, 0, start)
    assert not same(whole[0], whole[1])
    flipped = {bool(b["frames"][i, 0, 0, 0, 0] > b["frames"][i, 0, 0, -1, 0]) for b in whole for i in range(BATCH)}
    assert flipped == {True, False}  # the augmentation takes part


def test_the_same_on_two_hosts_with_two_workers_resumed(records, tmp_path):
    whole, _ = batches(records, 5)
    log = tmp_path / "bad.jsonl"
    check_places(records, whole, hosts=2, workers=2, start=2, log=log)
    problems = VideoSource(records, log=log).problems()  # what the workers met comes back through the log
    assert {p.where for p in problems.items} == {str(records[3].path), str(records[7].path)}
    assert set(problems.counts()) == {"an mp4 cut off before its index, as by an unfinished download"}


@pytest.mark.slow
def test_the_same_on_any_hosts_with_two_workers_resumed_anywhere(records):
    whole, _ = batches(records, 5)
    for hosts in (1, 2, 4):
        for start in range(5):
            check_places(records, whole, hosts, 2, start)


def test_a_bad_video_is_replaced_counted_and_never_used(records):
    found, source = batches(records, 12)
    labels = np.concatenate([b["label"] for b in found])
    substitute = np.concatenate([b["substitute"] for b in found])
    assert not {3, 7} & set(labels.tolist())
    # 96 draws of 11 videos in whole epochs: 8 epochs of 11 and 8 more
    assert 16 <= substitute.sum() <= 18
    assert {p.where for p in source.problems().items} == {str(records[3].path), str(records[7].path)}


def test_substitutes_do_not_move_the_augmentation(records):
    """Randomness drawn after the clip is the same whether or not the video was bad."""
    source = VideoSource(records)
    for index in (2, 3):
        rng = np.random.default_rng(9)
        clip = read_clip(source[index], Sampler("segments", 3), rng)
        assert clip.substitute == (index == 3)
        assert rng.random() == pytest.approx(_second_draw())


def _second_draw():
    rng = np.random.default_rng(9)
    rng.integers(2**63)
    return rng.random()


def test_without_rng_the_next_video_stands_in(records):
    clip = read_clip(VideoSource(records)[3], Sampler("uniform", 4))
    assert clip.substitute and clip.record.label == 4
    assert clip.frames.shape == (4, 32, 48, 3) and clip.mask.all() and clip.times[0] == 0.0


def test_data_that_is_all_bad_is_an_error_with_reasons(records):
    source = VideoSource([records[3], records[7]])
    with pytest.raises(VtjaxError, match="videos in a row cannot be read.*\n.*cut off"):
        read_clip(source[0], Sampler(), np.random.default_rng(0))


def test_spans_are_excerpts_on_the_clock_of_the_whole(records, video):
    part = dataclasses.replace(records[10], span=(0.5, 1.25))
    _, frames = video.sequential(part.path)
    with VideoSource([part]).open(0) as excerpt:
        assert isinstance(excerpt, Excerpt) and len(excerpt) == 8
        assert np.allclose(excerpt.times, np.arange(5, 13) / 10)
        assert (excerpt.start, excerpt.end) == (0.5, 1.25)
        assert np.array_equal(excerpt.frames([0, 7])[1], frames[12])
        assert excerpt.index_at([0.0, 0.71, 9.0]).tolist() == [0, 2, 7]
        read = dict(excerpt.iterate([1, 3]))
        assert list(read) == [1, 3] and all(np.array_equal(read[i], frames[5 + i]) for i in read)
    late = dataclasses.replace(part, span=(50.0, 60.0))
    clip = read_clip(VideoSource([late, part])[0], Sampler("uniform", 2))
    assert clip.substitute
    source = VideoSource([late])
    with pytest.raises(VtjaxError, match="its annotation lies after its end"):
        read_clip(source[0], Sampler())


def test_sources_travel_and_need_files(records):
    source = pickle.loads(pickle.dumps(VideoSource(records)))
    assert len(source) == 11 and source[-1].record.label == 10
    with pytest.raises(IndexError):
        source[11]
    with pytest.raises(VtjaxError, match="has no file"):
        VideoSource([dataclasses.replace(records[0], path=None)])
    with pytest.raises(VtjaxError, match="no videos"):
        VideoSource([])


def test_damage_is_told_and_what_was_read_before_changes_nothing(records, video, tmp_path):
    path = video.write(tmp_path / "a.mkv", 40, codec="libvpx-vp9", gop=10, options={"lag-in-frames": "0"})
    with av.open(str(path)) as container:
        packet = list(container.demux(video=0))[21]
        lost = bytes(packet)
    path.write_bytes(path.read_bytes().replace(lost, bytes(len(lost))))
    records = [VideoRecord("a", "a", "", path=path)]
    sampler = Sampler("segments", 6)
    fresh = [read_clip(VideoSource(records)[0], sampler, np.random.default_rng(seed)) for seed in range(5)]
    source = VideoSource(records)
    used = [read_clip(source[0], sampler, np.random.default_rng(seed)) for seed in reversed(range(5))][::-1]
    for a, b in zip(fresh, used, strict=True):
        assert np.array_equal(a.frames, b.frames) and np.array_equal(a.times, b.times) and not a.substitute
    assert source.problems().counts() == {"used, but damaged": 1}
    index, actual = source._indices[str(path)]
    assert len(index) == 40 and len(actual) < 40  # found out once
