import collections
import hashlib
import itertools
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from vtjax.data.motion import skeleton
from vtjax.data.motion.features import features_to_joints, joints_to_features
from vtjax.errors import VtjaxError
from vtjax.worlds import motion_actions
from vtjax.worlds.motion_world import (
    MOTION_WORLD_VERSION,
    SCRIPT,
    MotionWorld,
    MotionWorldSettings,
    is_held_out,
)


def digest(clip):
    content = [clip.key, clip.captions, clip.bounds, clip.swapped_order, clip.features.tobytes()]
    content.append(None if clip.swapped is None else clip.swapped.tobytes())
    return hashlib.sha256(repr(content).encode()).hexdigest()


@pytest.fixture(scope="module")
def clips():
    world = MotionWorld(3, 60)
    return [world[i] for i in range(60)]


def test_clips_are_the_same_in_another_process_and_order():
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_motion_world as t\n"
        "w = t.MotionWorld(7, 100, 'val', t.MotionWorldSettings(script=0.5, captions_per_clip=2))\n"
        "[w[i] for i in (50, 3)]; print([t.digest(w[i]) for i in (9, 4, 0)][::-1])"
    )
    root = pathlib.Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": "123"}
    command = [sys.executable, "-c", program, str(pathlib.Path(__file__).parent)]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    world = MotionWorld(7, 5000, "val", MotionWorldSettings(script=0.5, captions_per_clip=2))
    assert printed.strip() == str([digest(world[i]) for i in (0, 4, 9)])


def test_splits_and_seeds_share_nothing():
    worlds = [MotionWorld(seed, 4, split) for seed in (0, 1) for split in ("train", "val", "test")]
    clips = [clip for world in worlds for clip in (world[i] for i in range(4))]
    assert len({clip.key for clip in clips}) == len({clip.features.tobytes() for clip in clips}) == len(clips) == 24


def test_records_are_complete(clips):
    for clip in clips:
        caption = clip.captions[0]
        count = len(caption.events)
        assert clip.features.dtype == np.float32 and clip.features.shape[1] == 263 and np.isfinite(clip.features).all()
        assert len(clip.features) < 128 and len(clip.bounds) == count == len(caption.sequence.split(">"))
        assert clip.bounds[0][0] == 0 and clip.bounds[-1][1] == len(clip.features)
        assert all(a[1] == b[0] for a, b in itertools.pairwise(clip.bounds))
        assert all(15 <= end - start <= 32 for start, end in clip.bounds)
        if count == 1:
            assert clip.swapped is None and clip.swapped_order == ()
        else:
            assert clip.swapped.shape == clip.features.shape and np.isfinite(clip.swapped).all()
            assert sorted(clip.swapped_order) == list(range(count)) != list(clip.swapped_order)


@pytest.mark.parametrize("count, clips", [(2, 2000), (3, 3000)])
def test_all_orders_are_equally_likely_without_a_script(count, clips):
    world = MotionWorld(0, clips, settings=MotionWorldSettings(min_events=count, max_events=count))
    orders = collections.Counter()
    for i in range(clips):
        ranks = [SCRIPT.index(name) for name in world.actions(i)]
        orders[tuple(np.argsort(np.argsort(ranks)).tolist())] += 1
    expected = list(itertools.permutations(range(count)))
    assert set(orders) == set(expected)
    assert scipy.stats.chisquare([orders[order] for order in expected]).pvalue > 1e-3


@pytest.mark.parametrize("script", [0.5, 0.95, 1.0])
def test_script_is_the_share_of_clips_in_natural_order(script):
    clips = 2000
    world = MotionWorld(1, clips, settings=MotionWorldSettings(min_events=2, max_events=3, script=script))
    natural, others = 0, collections.Counter()
    for i in range(clips):
        ranks = [SCRIPT.index(name) for name in world.actions(i)]
        natural += ranks == sorted(ranks)
        if ranks != sorted(ranks) and len(ranks) == 3:
            others[tuple(np.argsort(np.argsort(ranks)).tolist())] += 1
    low, high = scipy.stats.binom.interval(0.999, clips, script) if script < 1 else (clips, clips)
    assert low <= natural <= high
    if script == 0.5:
        assert len(others) == 5 and scipy.stats.chisquare(list(others.values())).pvalue > 1e-3


def test_repeated_actions_leave_arrangements_balanced():
    settings = MotionWorldSettings(min_events=3, max_events=3, repeat=0.5)
    world, places = MotionWorld(0, 6000, settings=settings), collections.Counter()
    for i in range(6000):
        actions = world.actions(i)
        if len(set(actions)) == 2:
            (single,) = [name for name, count in collections.Counter(actions).items() if count == 1]
            places[actions.index(single)] += 1
    assert scipy.stats.chisquare(list(places.values())).pvalue > 1e-3
    same = next(i for i in range(6000) if len(set(world.actions(i))) == 1)
    assert world[same].swapped is None and len(set(world[same].captions[0].events)) == 1


def test_number_of_events_follows_the_weights():
    settings = MotionWorldSettings(max_events=3, event_weights=(1, 0, 3))
    counts = collections.Counter(len(MotionWorld(0, 800, settings=settings).actions(i)) for i in range(800))
    assert set(counts) == {1, 3} and abs(counts[3] / 800 - 0.75) < 0.06
    assert max(len(MotionWorld(0, 300).actions(i)) for i in range(300)) == 4


def test_similarity_draws_events_from_one_family():
    def one_family(similarity):
        settings = MotionWorldSettings(min_events=3, max_events=3, event_similarity=similarity)
        world = MotionWorld(0, 300, settings=settings)
        families = [{motion_actions.ACTIONS[name].family for name in world.actions(i)} for i in range(300)]
        assert all(len(set(world.actions(i))) == 3 for i in range(300))
        return np.mean([len(family) == 1 for family in families])

    assert one_family(1.0) == 1 and one_family(0.0) < 0.1 < one_family(0.6) < 0.7


def test_held_out_pairs_meet_in_the_test_split_only():
    settings = MotionWorldSettings(min_events=2, held_out=0.1)

    def meets(split):
        world = MotionWorld(0, 400, split, settings)
        pairs = [itertools.combinations(world.actions(i), 2) for i in range(400)]
        return sum(is_held_out(*pair, 0.1) for clip in pairs for pair in clip)

    pairs = list(itertools.combinations(motion_actions.NAMES, 2))
    assert 0.05 < np.mean([is_held_out(*pair, 0.1) for pair in pairs]) < 0.15
    assert meets("train") == meets("val") == 0 < meets("test")


def test_bones_have_one_length_through_a_clip(clips):
    for clip in clips[:20]:
        for features in (clip.features, clip.swapped):
            if features is not None:
                joints = features_to_joints(features, last_frame=True)
                lengths = np.linalg.norm(joints[:, 1:] - joints[:, list(skeleton.PARENTS[1:])], axis=-1)
                assert np.abs(lengths - skeleton.TARGET_BONE_LENGTHS[1:]).max() < 1e-4


def test_features_are_those_of_the_joints_they_give_back(clips):
    for clip in clips[:15]:
        joints = features_to_joints(clip.features, last_frame=True)
        again = joints_to_features(joints, uniform_skeleton=False)
        rows = np.abs(again - clip.features)[:, :259]  # contacts are a threshold of the same numbers
        assert rows.max() < 2e-3 and rows.mean() < 1e-5


def _heights(features):
    joints = features_to_joints(features, last_frame=True)
    return joints[..., 1] - joints[..., 1].min()


def test_swapped_plays_the_same_events_in_the_order_it_names(clips):
    margin = 5  # frames next to a seam, which are blended
    compared = unlike = 0
    for clip in clips:
        if clip.swapped is None:
            continue
        true, swapped = _heights(clip.features), _heights(clip.swapped)
        bounds = [*clip.bounds[:-1], (clip.bounds[-1][0], clip.bounds[-1][1] + 1)]
        at, straight = 0, 0
        for original in clip.swapped_order:
            start, end = bounds[original]
            inner = slice(margin, end - start - margin)
            one, other = true[start:end][inner], swapped[at : at + end - start][inner]
            gap = one - other
            assert np.abs(gap - gap.mean()).max() < 1e-3, (clip.key, original)
            kept = true[at : at + end - start][inner]
            unlike += kept.shape != other.shape or np.abs(kept - other).max() > 0.05
            at, straight, compared = at + end - start, straight + 1, compared + 1
        assert at == len(swapped)
    assert compared > 80 and unlike > 0.5 * compared


def test_swapped_orders_are_uniform():
    world = MotionWorld(0, 400, settings=MotionWorldSettings(min_events=3, max_events=3, frames=(8, 8)))
    orders = collections.Counter(world[i].swapped_order for i in range(250))
    assert len(orders) == 5 and scipy.stats.chisquare(list(orders.values())).pvalue > 1e-3


def test_words_do_not_move_the_limbs():
    settings = (MotionWorldSettings(captions_per_clip=3), MotionWorldSettings(paraphrase=False))
    varied, plain = (MotionWorld(0, 9, settings=each)[5] for each in settings)
    np.testing.assert_array_equal(varied.features, plain.features)
    assert len(varied.captions) == 3 and len({caption.sequence for caption in varied.captions}) == 1
    assert plain.captions[0].text.startswith("A person ")


def test_a_swapped_clip_has_the_same_actions_in_another_order():
    world = MotionWorld(0, 30, settings=MotionWorldSettings(min_events=2))
    clip, actions = world[4], world.actions(4)
    assert actions == tuple(clip.captions[0].sequence.split(">"))
    swapped = tuple(actions[i] for i in clip.swapped_order)
    assert sorted(swapped) == sorted(actions) and swapped != actions
    assert f"motion{MOTION_WORLD_VERSION}-" in clip.key


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"min_events": 0}, "min_events = 0"), ({"min_events": 5}, "1 <= min <= max"), ({"max_events": 9}, "max <= 8"),
        ({"event_weights": (1.0,)}, "expected 4 weights"), ({"script": 1.5}, "script = 1.5"),
        ({"event_similarity": -0.1}, "event_similarity"), ({"held_out": 0.9}, "from 0 to 0.3"),
        ({"captions_per_clip": 0}, "captions_per_clip"), ({"frames": (4, 9)}, "frames"), ({"noise": -1.0}, "noise"),
    ],
)  # fmt: skip
def test_settings_that_make_no_world(settings, message):
    with pytest.raises(VtjaxError, match=message):
        MotionWorldSettings(**settings)


def test_worlds_that_do_not_exist():
    with pytest.raises(VtjaxError, match="did you mean 'train'"):
        MotionWorld(0, 3, "trian")
    with pytest.raises(VtjaxError, match="neither may be negative"):
        MotionWorld(-1, 3)
    world = MotionWorld(0, 3)
    assert len(world) == 3 and world[-1].key == world[2].key and len(list(world)) == 3
    with pytest.raises(IndexError):
        world[3]
