"""The recipe: one stage, contrastive training, on the workshop world or on prepared videos."""

from __future__ import annotations

import dataclasses
import functools
import pathlib

from vtjax.config import Experiment
from vtjax.encoders.sizes import published_params, save_sizes, sizes_of
from vtjax.methods.clip import data
from vtjax.methods.clip.embed import Embedder
from vtjax.methods.clip.evaluate import quick_results
from vtjax.methods.clip.model import RULES
from vtjax.methods.clip.task import ClipObjective
from vtjax.methods.clip.text import open_tokenizer
from vtjax.training.initial import from_checkpoint
from vtjax.training.precision import compute_dtype
from vtjax.training.task import Task
from vtjax.worlds.drawn import cache_folder

_FROZEN = {"vision": r"^(?!vision/)", "text": r"^(?!text/)", "both": r"^(?!(?:vision|text)/)"}


def build(experiment: Experiment, work: pathlib.Path) -> Task:
    """Builds the training stage; writes the run's assets (sizes, tokenizer) on the way.

    Raises:
      VtjaxError: data, model or settings that cannot work.
    """
    config, objective = experiment.method, objective_of(experiment)
    sizes, assets = objective.sizes, work / "assets"
    videos = data.open_videos(config, sizes.vision.image_size, cache_folder(experiment, work))
    train = videos.rows(config.data.train_split, log=work / "bad_videos.jsonl")
    save_sizes(sizes, config.data.resize, assets)
    corpus = [*train.texts(), *config.text.also]
    tokenizer = open_tokenizer(config, sizes, assets, corpus=corpus, initial=experiment.train.initial)
    embedder = Embedder(objective, tokenizer)
    return dataclasses.replace(
        abstract(experiment),
        source=train,
        transform=data.TrainTransform(config, sizes.vision.image_size, tokenizer, sizes.text.context_length),
        evaluate=functools.partial(quick_results, embedder, validation_rows(videos), videos.classes),
        start=functools.partial(_start, experiment),
        fingerprint=videos.fingerprint,
    )


def abstract(experiment: Experiment) -> Task:
    """Builds the training stage without its data: all that shapes, compilation and benchmarks depend on."""
    objective, train = objective_of(experiment), experiment.train
    freeze = experiment.method.model.freeze
    if freeze != "none":
        train = dataclasses.replace(train, trainable=rf"{_FROZEN[freeze]}(?:{train.trainable})")
    return Task(
        name="clip",
        train=train,
        optim=experiment.optim,
        example_spec=objective.example_spec(),
        init=objective.init,
        loss=objective.loss,
        rules=RULES,
    )


def objective_of(experiment: Experiment) -> ClipObjective:
    """Binds the objective of an experiment to its model."""
    config = experiment.method
    return ClipObjective(config, sizes_of(config), compute_dtype(experiment), experiment.mesh.slices)


def validation_rows(videos: data.Videos) -> data.Rows:
    """The validation split, or the first clips of the test split where the data has none."""
    config = videos.config
    if config.source == "world":
        return videos.rows(config.val_split)
    name = config.val_split if videos.has_split(config.val_split) else config.test_split
    return videos.rows(name, config.val_size)


def _start(experiment: Experiment, params: dict) -> dict:
    """Published weights, and the parameters of config.train.initial, in place of random ones."""
    if experiment.method.model.pretrained:
        params = published_params(experiment.method, params)
    return from_checkpoint(experiment.train.initial, params) if experiment.train.initial else params
