"""Windows over features: rasterised parts, cold start, balance, examples, prepared folders."""

import types

import numpy as np
import pytest

from vtjax.errors import MissingSplit, VtjaxError
from vtjax.methods.ovoad import data
from vtjax.methods.ovoad.config import OvoadConfig, OvoadDataConfig, OvoadModelConfig
from vtjax.methods.ovoad.task import OvoadObjective
from vtjax.text.tokenizer import WordTokenizer


@pytest.mark.parametrize(
    "start, end, lstr, early",
    [
        (1.0, 2.0, (4, 8), (3, 8)),  # floor(4 s) to ceil(4 e) - 1; one row earlier
        (1.1, 2.1, (4, 9), (3, 9)),
        (0.0, 0.5, (0, 2), (0, 2)),
        (9.0, 12.0, (36, 40), (35, 40)),  # 40 rows
        (11.0, 12.0, (40, 40), (43, 40)),
    ],
)
def test_rasterise(start, end, lstr, early):
    assert data.rasterise(start, end, 40, 4.0, "lstr") == lstr
    assert data.rasterise(start, end, 40, 4.0, "early") == early


def video(length=40, width=4, key="v"):
    rng = np.random.default_rng(0)
    parts = [(4, 10, ("a hand opens the box", "open it"), 1), (8, 14, ("someone wipes the bowl",), 2), (20, 24, (), 3)]
    return data.feature_video(key, rng.normal(size=(length, width)).astype(np.float16), parts, 4.0)


def test_targets_and_what_is_said():
    v = video()
    table = v.targets(4)
    assert table[:, 1].nonzero()[0].tolist() == list(range(4, 10))
    assert table[:, 2].nonzero()[0].tolist() == list(range(8, 14)), "both where they overlap"
    assert table[:, 3].sum() == 4 and (table[:, 0] == (table[:, 1:].sum(1) == 0)).all()
    assert v.frame_span[[3, 4, 7, 8, 13, 14, 21]].tolist() == [-1, 0, 0, 1, 1, -1, -1], "the later part is said"


def test_windows_end_at_every_frame_that_has_one():
    config = OvoadConfig(model=OvoadModelConfig(past=6, near=4))
    places = lambda **kw: data.Windows(
        [video(), video(12)], OvoadConfig(model=config.model, data=OvoadDataConfig(**kw))
    ).places
    assert places() == [(0, r) for r in range(9, 40)] + [(1, r) for r in range(9, 12)]
    assert places(stride=10) == [(0, 9), (0, 19), (0, 29), (0, 39), (1, 9)]
    assert len(places(cold_start=True)) == 52
    balanced = places(balance=True)
    actions = [video().frame_span[r] >= 0 for _, r in balanced]
    assert sum(actions) * 2 == len(balanced) and set(balanced) == set(places())
    with pytest.raises(VtjaxError, match="whole window of 10 frames; the longest has 5"):
        data.Windows([video(5)], config)


def test_the_cold_start_repeats_the_first_frame():
    v = video()
    x, valid = data.window_at(v.features, 2, 6)
    assert valid.tolist() == [False] * 3 + [True] * 3
    np.testing.assert_array_equal(x[:4], np.tile(v.features[:1].astype(np.float32), (4, 1)))
    np.testing.assert_array_equal(x[3:], v.features[:3].astype(np.float32))
    x, valid = data.window_at(v.features, 20, 6)
    assert valid.all()
    np.testing.assert_array_equal(x, v.features[15:21].astype(np.float32))


def test_an_example():
    from ovoad_toy import SMALL

    config = OvoadConfig(model=OvoadModelConfig(width=4, heads=2, past=6, near=4))
    tokenizer = WordTokenizer.from_texts(["a hand opens the box", "this is background", "someone wipes the bowl"])
    transform = data.TrainTransform(config, tokenizer, 6)
    v = video()
    for row in (3, 9, 12, 30):
        example = transform((v, row), np.random.default_rng(row))
        spec = OvoadObjective(config, SMALL).example_spec()
        assert {k: (e.shape, e.dtype) for k, e in example.items()} == {
            k: (tuple(s.shape), np.dtype(s.dtype)) for k, s in spec.items()
        }
        rows = np.arange(row - 9, row + 1)
        said = [r >= 0 and v.frame_span[r] >= 0 for r in rows]
        np.testing.assert_array_equal(example["action"], said)
        np.testing.assert_array_equal(example["valid"], rows >= 0)
    quiet = tokenizer.encode(["this is background"], 6)[0][0]
    np.testing.assert_array_equal(transform((v, 30), np.random.default_rng(0))["current_ids"], quiet)
    wiped = tokenizer.encode(["someone wipes the bowl"], 6)[0][0]
    np.testing.assert_array_equal(transform((v, 12), np.random.default_rng(0))["current_ids"], wiped)


def test_nothing_is_said_of_the_long_memory():
    tokenizer = WordTokenizer.from_texts(["a hand opens the box", "this is background", "someone wipes the bowl"])
    v, quiet = video(), tokenizer.encode(["this is background"], 6)[0][0]
    said = v.frame_span >= 0
    row = next(r for r in range(10, len(v)) if said[:r].any() and not said[r - 3 : r + 1].any())
    for long, only_quiet in ((6, True), (0, False)):
        model = OvoadModelConfig(width=4, heads=2, past=2 if long else 8, near=2, long=long)
        example = data.TrainTransform(OvoadConfig(model=model), tokenizer, 6)((v, row), np.random.default_rng(0))
        assert example["features"].shape == (10, 4) and example["action"].any()
        assert (example["text_ids"] == quiet).all() == only_quiet


def test_several_windows_of_one_video():
    model = OvoadModelConfig(width=4, heads=2, past=6, near=4)
    tokenizer = WordTokenizer.from_texts(["a hand opens the box it this is background someone wipes bowl"])
    make = lambda windows: data.TrainTransform(
        OvoadConfig(model=model, data=OvoadDataConfig(windows=windows, cold_start=True)), tokenizer, 7
    )
    one, three = make(1), make(3)
    v = video()
    said = lambda example: [bytes(row) for row in example["current_ids"]]
    for seed in range(6):
        example = three((v, 12), np.random.default_rng(seed))
        assert {k: e.shape[0] for k, e in example.items()} == dict.fromkeys(example, 3)
        assert len(set(said(example))) == 3, "the background and both parts that are said"
        first = one((v, 12), np.random.default_rng(seed))
        np.testing.assert_array_equal(example["features"][0], first["features"])
        np.testing.assert_array_equal(example["current_ids"][0], first["current_ids"])
    more = make(5)((v, 12), np.random.default_rng(0))
    assert len(more["valid"]) == 5 and len(set(said(more))) == 3, "one wording of a part in an example"


def features(frames):
    """A tower for vtjax.prepare: mean colour."""
    return np.asarray(frames, np.float32).mean((1, 2)) / 255


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Two videos of 6 s, an action and a caption each, as features at 4 a second."""
    import sys
    import types

    av = pytest.importorskip("av")
    from vtjax.data.video.prepare import Options, prepare
    from vtjax.data.video.shards import Making

    folder = tmp_path_factory.mktemp("prepared")
    for name in ("one", "two"):
        with av.open(str(folder / f"{name}.mp4"), "w") as out:
            stream = out.add_stream("mpeg4", rate=8)
            stream.width = stream.height = 32
            for i in range(48):
                picture = np.full((32, 32, 3), i * 5, np.uint8)
                for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                    out.mux(packet)
            for packet in stream.encode():
                out.mux(packet)
    lines = ["video,start,end,label,caption,split"]
    lines += ["one.mp4,1.0,2.5,jump,a person jumps,train", "two.mp4,2.0,4.0,run,a person runs,train"]
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    module = types.ModuleType("ovoad_test_tower")
    module.tower = features
    sys.modules["ovoad_test_tower"] = module
    making = Making(fps=4.0, features="ovoad_test_tower:tower")
    options = Options(str(folder / "out"), str(folder / "list.csv"), making=making, processes=0)
    prepare(options)
    return folder / "out"


def test_a_prepared_folder(prepared, tmp_path):
    from vtjax.config import Experiment

    model = OvoadModelConfig(width=3, heads=1)
    for captions, said in (("sentences", ("a person jumps",)), ("labels", ("jump",))):
        config = OvoadConfig(model=model, data=OvoadDataConfig(source=str(prepared), captions=captions))
        videos, classes, _ = data.open_split(Experiment("ovoad", config), tmp_path, "train", None)
        assert classes.names == ("background", "jump", "run") and len(videos) == 2
        first = videos[0]
        assert first.features.shape == (24, 3) and said in first.spans
        table = first.targets(3)
        assert table[:, 1].nonzero()[0].tolist() == list(range(4, 10)) and table[:, 2].sum() == 0
    config.model = OvoadModelConfig(width=5, heads=1)
    with pytest.raises(VtjaxError, match=r"features of \(3,\) values, but config.method.model.width=5"):
        data.open_split(Experiment("ovoad", config), tmp_path, "train", None)
    config.data.fps = 2.0
    with pytest.raises(VtjaxError, match="prepare with --fps=2"):
        data.open_split(Experiment("ovoad", config), tmp_path, "train", None)


def test_only_a_missing_split_leaves_training_without_evaluation(prepared, tmp_path):
    from vtjax.config import Experiment
    from vtjax.methods.ovoad import pipeline

    model = OvoadModelConfig(width=3, heads=1)
    config = OvoadConfig(model=model, data=OvoadDataConfig(source=str(prepared)))
    with pytest.raises(MissingSplit, match="no split 'val'"):
        data.open_split(Experiment("ovoad", config), tmp_path, "val", None)
    scorer = types.SimpleNamespace(encoder=None)
    assert pipeline._evaluation(Experiment("ovoad", config), tmp_path, scorer) is None
    config.data.val_split = "train"
    evaluate = pipeline._evaluation(Experiment("ovoad", config), tmp_path, scorer)
    assert [video.key for video in evaluate.args[1]] == ["one", "two"]
    config.data.fps = 2.0
    with pytest.raises(VtjaxError, match="prepare with --fps=2"):
        pipeline._evaluation(Experiment("ovoad", config), tmp_path, scorer)


def test_the_world_has_its_splits_alone(tmp_path):
    from vtjax.config import Experiment

    with pytest.raises(MissingSplit, match="no split 'tset': did you mean 'test'"):
        data.open_split(Experiment("ovoad", OvoadConfig()), tmp_path, "tset", None)
