"""Rows of records and the training transform."""

import dataclasses
import pickle

import numpy as np
import pytest

from vtjax.data.video_records import Caption, Narration, Segment, VideoRecord
from vtjax.encoders import clip_config as clip
from vtjax.errors import VtjaxError
from vtjax.methods.clip import data
from vtjax.text.tokenizer import WordTokenizer

SIZE = 32


@pytest.fixture(scope="module")
def config():
    return clip.ClipConfig(
        clip.ClipModelConfig(frames=3),
        loss=clip.ClipLossConfig(backwards=True),
        data=clip.ClipDataConfig(world_train=6, world_test=4, val_size=2, world_frames=4, crop=0.8, brightness=0.2),
    )


@pytest.fixture(scope="module")
def videos(config, tmp_path_factory):
    return data.open_videos(config, SIZE, tmp_path_factory.mktemp("cache"))


def test_transform_depends_on_its_rng_alone(config, videos):
    rows = videos.rows("train")
    tokenizer = WordTokenizer.from_texts(rows.texts())
    transform = data.TrainTransform(config, SIZE, tokenizer, 20)
    again = pickle.loads(pickle.dumps((transform, rows)))
    seen = set()
    for seed in range(6):
        one = transform(rows[2], np.random.default_rng(seed))
        two = again[0](again[1][2], np.random.default_rng(seed))
        assert one.keys() == two.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(value, two[name])
        seen.add(one["frames"].tobytes())
        captions, turned = rows.rows[2].texts, rows.rows[2].backwards
        wanted = tokenizer.encode(captions, 20)[0]
        choice = next(i for i in range(3) if np.array_equal(wanted[i], one["text_ids"]))
        if turned:
            np.testing.assert_array_equal(one["backwards_ids"], tokenizer.encode([turned[choice]], 20)[0][0])
        assert one["backwards_valid"] == bool(turned)
    assert len(seen) == 6
    assert one["frames"].shape == (3, SIZE, SIZE, 3) and one["frame_mask"].all() and not one["substitute"]


def test_augmentation_is_off_by_default_and_alike_in_all_frames():
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 10, 3)).astype(np.uint8)
    plain = data.augmented(frames, np.random.default_rng(0), clip.ClipDataConfig())
    np.testing.assert_array_equal(plain, frames)
    flipped = [
        data.augmented(frames, np.random.default_rng(seed), clip.ClipDataConfig(flip=True)) for seed in range(20)
    ]
    mirrored = [np.array_equal(f, frames[:, :, ::-1]) for f in flipped]
    assert 0 < sum(mirrored) < 20
    assert all(m or np.array_equal(f, frames) for f, m in zip(flipped, mirrored, strict=True))
    coordinates = np.stack(np.broadcast_arrays(np.arange(8)[:, None], np.arange(10), 0), -1)[None].repeat(2, 0)
    for seed in range(10):
        cut = data.augmented(coordinates.astype(np.uint8), np.random.default_rng(seed), clip.ClipDataConfig(crop=0.5))
        assert np.array_equal(cut[0], cut[1]) and 4 <= cut.shape[1] <= 8 and 5 <= cut.shape[2] <= 10
        assert np.array_equal(np.diff(cut[0, :, 0, 0]), np.ones(cut.shape[1] - 1))
    bright = data.augmented(frames, np.random.default_rng(1), clip.ClipDataConfig(brightness=0.5))
    ratio = bright.astype(float).sum() / frames.sum()
    assert 0.4 < ratio < 1.5 and ratio != 1


def record(**fields):
    return VideoRecord("a", "a", "list.csv:2", **fields)


def test_rows_follow_what_is_said_of_which_part():
    templates = ("a {}",)
    both = record(
        captions=(Caption("whole"), Caption("again"), Caption("part", 1.0, 2.0)),
        segments=(Segment(1.0, 2.0, "cut", 3), Segment(4.0, 5.5, "stir_up", 1)),
        narrations=(Narration(0.0, 1.0, "well"),),
    )  # fmt: skip
    found = {r.key: (r.span, r.texts, r.label) for r in data.rows_of(both, 0, templates)}
    assert found == {
        "a": (None, ("whole", "again"), -1),
        "a@1-2": ((1.0, 2.0), ("part",), 3),
        "a@4-5.5": ((4.0, 5.5), ("a stir up",), 1),
    }
    (only,) = data.rows_of(record(class_name="jump", label=0), 7, templates)
    assert (only.texts, only.label, only.index) == (("a jump",), 0, 7)
    (cut,) = data.rows_of(record(span=(1.0, 2.0), captions=(Caption("part", 1.0, 2.0),)), 0, templates)
    assert cut.span is None and cut.texts == ("part",)  # the source cuts a record's own span
    spoken = data.rows_of(record(narrations=(Narration(0.0, 1.0, "well"),)), 0, templates)
    assert [r.texts for r in spoken] == [("well",)]
    assert data.rows_of(record(), 0, templates) == []


class Named:
    """A source of records alone, two to a video."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def record(self, index):
        return dataclasses.replace(record(), id=str(index), video=f"v{index // 2}")


def test_a_folder_without_splits_is_divided_by_video():
    train, test = data.divided(Named(20), 0.2)
    assert len(test) == 4 and sorted(train + test) == list(range(20))
    assert not {i // 2 for i in train} & {i // 2 for i in test}
    with pytest.raises(VtjaxError, match="one video cannot be divided"):
        data.divided(Named(2), 0.5)


def test_unknown_split_names_the_nearest(videos):
    with pytest.raises(VtjaxError, match="did you mean 'train'"):
        videos.rows("trian")
