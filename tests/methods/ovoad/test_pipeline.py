"""The recipe: its stages, what each starts from and what is frozen; one small run of both stages."""

import dataclasses
import re

import jax
import numpy as np
import pytest

import vtjax
from vtjax import methods
from vtjax.config import load_config_file
from vtjax.errors import VtjaxError
from vtjax.methods.ovoad import embed, encoder, pipeline
from vtjax.sharding.partition import flatten
from vtjax.training.recipe import stage_params


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    import commands

    work = tmp_path_factory.mktemp("ovoad") / "run"
    return vtjax.fit(load_config_file(f"{commands.ROOT}/configs/ovoad.py:smoke"), work)


def test_the_method_starts_from_the_stage_before(run):
    frozen = encoder.open_encoder(run.experiment, run.work)
    task = pipeline.build(run.experiment, run.work)
    shapes = jax.eval_shape(task.init, jax.random.key(0), task.batch_spec())
    start = task.start(jax.tree.map(lambda s: np.full(s.shape, 7, s.dtype), shapes))
    words = flatten(frozen.params["text"])
    for name, value in flatten(start["text"]).items():
        if "parallel_adapter" in name:
            assert (value == 7).all()
        else:
            np.testing.assert_array_equal(value, words[name])
    kernel = frozen.params["vision"]["projection"]["kernel"]
    np.testing.assert_array_equal(start["current_projection"]["kernel"], kernel)


def test_both_stages_trained_and_the_encoder_stayed(run):
    trained, before = run.params, stage_params(run.work, encoder.PRETRAIN)
    kernel = before["vision"]["projection"]["kernel"]
    assert not np.allclose(trained["current_projection"]["kernel"], kernel), "trained further"
    assert set(trained) >= {"visual", "text", "visual_projector", "text_projector", "logit_scale"}
    features = list((run.work / "features").glob("train-*.npy"))
    assert len(features) == 1 and np.load(features[0]).shape == (4, 160, 32)


def test_a_scorer_from_the_work_directory(run):
    scorer = embed.open_scorer(run.experiment, run.work)
    from vtjax.methods.ovoad.classes import named_classes

    classes = named_classes(["opening a box", "stirring"], run.experiment.method)
    bank = scorer.bank(run.params, classes, capacity=5)
    features = np.random.default_rng(0).normal(size=(37, 32)).astype(np.float32)
    found = scorer.video(run.params, features, bank)
    assert found.fused.shape == (37, 5) and (found.fused[:, 3:] == 0).all()
    np.testing.assert_allclose(found.fused.sum(1), 1, atol=1e-4)
    alone = scorer.video(run.params, features[:20], bank)
    np.testing.assert_allclose(alone.fused, found.fused[:20], atol=1e-6, err_msg="later frames change nothing")
    with pytest.raises(VtjaxError, match="exceed the 2"):
        scorer.bank(run.params, classes, capacity=2)


def test_stages_and_what_learns(run):
    experiment = run.experiment
    recipe = methods.get("ovoad").recipe
    assert list(recipe(experiment, run.work)) == ["pretrain", "train"]
    given = dataclasses.replace(experiment, method=dataclasses.replace(experiment.method))
    given.method.encoder = dataclasses.replace(given.method.encoder, weights=str(run.work / "pretrain"))
    assert list(recipe(given, run.work)) == ["train"]
    assert encoder.open_encoder(given, run.work).fingerprint == encoder.open_encoder(experiment, run.work).fingerprint
    given.method.text = dataclasses.replace(given.method.text, freeze=True)
    trainable = pipeline.abstract(given).train.trainable
    names = flatten(run.params)
    learns = {name for name in names if re.search(trainable, name)}
    assert {n for n in names if n.startswith("text/")} & learns == {n for n in names if "parallel_adapter" in n}
    assert {n for n in names if not n.startswith("text/")} <= learns


def test_features_of_another_width_are_told(run):
    wrong = dataclasses.replace(run.experiment, method=dataclasses.replace(run.experiment.method))
    wrong.method.model = dataclasses.replace(wrong.method.model, width=48)
    with pytest.raises(VtjaxError, match="width=48, but the encoder's features .* have 32 values"):
        methods.get("ovoad").recipe(wrong, run.work)
