"""Stitched pairs: events, bounds and the swapped motion belong to the parts they name; splits share no source."""

import numpy as np
import pytest

from vtjax.data.motion.skeleton import REST_DIRECTIONS, TARGET_BONE_LENGTHS, joints_from
from vtjax.data.motion.sources import assign_splits, mirrored
from vtjax.data.motion.stitched_pairs import Source, clause_of, crop, make_pairs
from vtjax.data.readers.captions import as_caption
from vtjax.errors import VtjaxError


def body(height, frames=60):
    """A body whose pelvis rises and falls around `height`, told from others by dimension 3 (root height) alone."""
    base = joints_from(np.zeros(3, np.float32), REST_DIRECTIONS * TARGET_BONE_LENGTHS[:, None])
    joints = np.tile(base, (frames, 1, 1))
    joints[:, [7, 8, 10, 11], 1] += (1 - height) * 0.8  # bent legs lower the root
    joints[:, [7, 8, 10, 11], 2] -= (1 - height) * 0.9
    return joints


SOURCES = [
    Source("squat", body(0.6), label="squat", clause="a person squats"),
    Source("stand", body(1.0), label="stand", clause="a person stands"),
]


def test_pairs_are_what_they_say():
    clips = list(make_pairs(SOURCES, 12, seed=3, segment_frames=(30, 40), blend=8))
    assert {c.captions[0].text for c in clips} == {
        "A person squats, then a person stands.",
        "A person stands, then a person squats.",
    }
    height = {"A person squats.": None, "A person stands.": None}
    for clip in clips:
        (caption,) = clip.captions
        first, second = clip.bounds
        assert first[0] == 0 and first[1] == second[0] and second[1] == len(clip.features)
        assert len(clip.swapped) == len(clip.features) and clip.swapped_order == (1, 0)
        assert caption.sequence == " > ".join(clause_of(e) for e in caption.events)
        assert clip.key.split("#")[0] == "+".join(e.split()[-1].rstrip("s.") for e in caption.events)
        cut = second[1] - first[1] + 1  # frames of the second part, which is the swapped motion's first
        parts = [clip.features[: first[1] - 4], clip.features[second[0] + 4 :]]
        swaps = [clip.swapped[cut + 4 :], clip.swapped[: cut - 4]]
        for event, part, swap in zip(caption.events, parts, swaps, strict=True):
            np.testing.assert_allclose(part[:, 3], part[0, 3], atol=1e-4)
            np.testing.assert_allclose(swap[:, 3], part[0, 3], atol=1e-4)
            assert height[event] is None or height[event] == pytest.approx(part[0, 3], abs=1e-4)
            height[event] = part[0, 3]
    assert height["A person stands."] - height["A person squats."] > 0.1


def test_pairs_are_a_function_of_seed_and_index():
    a = list(make_pairs(SOURCES, 4, seed=1))
    b = list(make_pairs(SOURCES, 2, seed=1))
    for x, y in zip(a, b, strict=False):
        assert x.key == y.key
        np.testing.assert_array_equal(x.features, y.features)
    assert [c.key.split("#")[0] for c in make_pairs(SOURCES, 8, seed=2)] != [
        c.key.split("#")[0] for c in make_pairs(SOURCES, 8, seed=1)
    ]


def test_both_orders_are_equally_likely():
    clips = make_pairs([Source(s.key, s.joints[:8], (), s.label, s.clause) for s in SOURCES], 200, seed=0)
    first = sum(c.captions[0].text.startswith("A person squats") for c in clips)
    assert 75 <= first <= 125  # 3.5 standard deviations of a fair coin


def test_pairs_need_two_actions():
    with pytest.raises(VtjaxError, match="two actions with captions, these 1 have 1"):
        list(make_pairs(SOURCES[:1], 1, seed=0))


def test_clauses():
    assert clause_of("A person walks. ") == "a person walks"
    assert clause_of("I walk") == "I walk" and clause_of("CMU walk") == "CMU walk"
    assert as_caption("a person walks") == "A person walks."


def test_crop_stays_inside():
    rng = np.random.default_rng(0)
    frames = np.arange(50)
    for _ in range(50):
        part = crop(frames, (10, 20), rng)
        assert 10 <= len(part) <= 20
        np.testing.assert_array_equal(np.diff(part), 1)
    np.testing.assert_array_equal(crop(frames[:5], (10, 20), rng), frames[:5])


def labelled(counts):
    empty = np.zeros((2, 22, 3))
    return [Source(f"{label}{i:02d}_x", empty, label=label) for label, n in counts.items() for i in range(n)]


def test_splits_are_within_labels():
    sources = assign_splits(labelled({"a": 20, "b": 8, "c": 1, "d": 2}), "sequence", 0.25, 0.125, seed=4)
    found = {(label, split): 0 for label in "abcd" for split in ("train", "val", "test")}
    for source in sources:
        found[source.label, source.split] += 1
    assert [found["a", s] for s in ("train", "val", "test")] == [13, 2, 5]
    assert [found["b", s] for s in ("train", "val", "test")] == [5, 1, 2]
    assert found["c", "train"] == 1 and found["d", "train"] >= 1
    again = assign_splits(labelled({"a": 20, "b": 8, "c": 1, "d": 2}), "sequence", 0.25, 0.125, seed=5)
    assert [s.split for s in again] != [s.split for s in sources]


def test_units_are_never_divided():
    sources = [Source(f"{i // 3:02d}_{i}", np.zeros((2, 22, 3))) for i in range(30)]
    for rule in ("subject", r"(\d+)_\d+"):
        made = assign_splits(sources, rule, 0.3)
        assert {"train", "test"} == {s.split for s in made}
        for unit in {s.key[:2] for s in made}:
            assert len({s.split for s in made if s.key[:2] == unit}) == 1
    assert {s.split for s in assign_splits(sources, "none", 0.3)} == {"train"}
    with pytest.raises(VtjaxError, match="with a group"):
        assign_splits(sources, "sequenec", 0.3)
    with pytest.raises(VtjaxError, match="not a regular expression"):
        assign_splits(sources, "(", 0.3)


def test_mirrored_twin():
    clip = next(make_pairs(SOURCES, 1, seed=0))
    twin = mirrored(mirrored(clip))
    assert twin.key == f"MM{clip.key}" and twin.captions == clip.captions and twin.bounds == clip.bounds
    np.testing.assert_allclose(twin.features, clip.features, atol=1e-6)
    np.testing.assert_allclose(twin.swapped, clip.swapped, atol=1e-6)
