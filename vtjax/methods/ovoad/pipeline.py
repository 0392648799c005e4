"""OV-OAD's recipe: the encoder's pretraining, where it is not given, then the method on windows of its features."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable

import jax.numpy as jnp
from absl import logging

from vtjax import methods
from vtjax.config import Experiment, Stages
from vtjax.encoders.frames import FrameEncoder
from vtjax.errors import MissingSplit, VtjaxError
from vtjax.methods.method import Stage
from vtjax.methods.ovoad import config as settings
from vtjax.methods.ovoad import data
from vtjax.methods.ovoad.captions import FILLER, NOTHING
from vtjax.methods.ovoad.embed import Scorer
from vtjax.methods.ovoad.encoder import PRETRAIN, encoder_sizes, open_encoder
from vtjax.methods.ovoad.evaluate import quick_results
from vtjax.methods.ovoad.model import RULES
from vtjax.methods.ovoad.task import OvoadObjective
from vtjax.nn.vit import unstack_layers
from vtjax.text.assets import kept_tokenizer
from vtjax.text.clip_tokenizer import ClipTokenizer
from vtjax.text.tokenizer import Tokenizer
from vtjax.training.precision import compute_dtype
from vtjax.training.task import Task
from vtjax.worlds.drawn import cache_folder

_FROZEN_TEXT = r"^(?!text/(?!.*parallel_adapter/))"


def check(config: settings.OvoadConfig) -> None:
    """Refuses settings that cannot work together, and features of another width than the model's.

    Raises:
      VtjaxError: naming the field, its value and what would be right.
    """
    settings.check(config)
    encoder_sizes(config)


def _pretraining() -> Stage:
    """The stage of the method that pretrains encoders."""
    return methods.get("clip").stages["train"]


def pretrain_experiment(experiment: Experiment, work: pathlib.Path | None = None) -> Experiment:
    """Makes the experiment that the stage `pretrain` is; its clips are kept beside the run's streams in `work`."""
    config, text, stage = experiment.method.encoder.clip, experiment.method.text, experiment.stages.pretrain
    # The words of prompts and of the background get ids of their own, though this stage never shows them.
    words = [NOTHING, FILLER, *(t.replace("{}", "") for t in text.train_templates)]
    words += [t.replace("{}", text.background) for t in text.test_templates]
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, also=(*config.text.also, *words)))
    if work is not None:
        cache = str(cache_folder(experiment, work))
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, cache=cache))
    return dataclasses.replace(
        experiment, name="clip", method=config, optim=stage.optim, train=stage.train, stages=Stages()
    )


def build_pretrain(experiment: Experiment, work: pathlib.Path) -> Task:
    """Builds the encoder's training on trimmed clips, none of them with a held-out verb-object pair."""
    task = _pretraining().build(pretrain_experiment(experiment, work), work / PRETRAIN)
    return dataclasses.replace(task, name=PRETRAIN)


def abstract_pretrain(experiment: Experiment) -> Task:
    """Builds the encoder's training without its data."""
    return _pretraining().abstract(pretrain_experiment(experiment))


def build(experiment: Experiment, work: pathlib.Path) -> Task:
    """Builds the method's stage; writes the run's assets on the way.

    Raises:
      VtjaxError: data, encoder or settings that cannot work.
    """
    config, dtype = experiment.method, compute_dtype(experiment)
    encoder = open_encoder(experiment, work, dtype)
    sizes = encoder.sizes if encoder is not None else encoder_sizes(config)
    objective = OvoadObjective(config, sizes, dtype)
    videos, _, fingerprint = data.open_split(experiment, work, config.data.train_split, encoder)
    tokenizer = kept_tokenizer(work / "assets", functools.partial(_tokenizer, config, encoder))
    windows = data.Windows(videos, config)
    logging.info("ovoad: %d windows of %d videos", len(windows), len(videos))
    return dataclasses.replace(
        _task(experiment, objective),
        source=windows,
        transform=data.TrainTransform(config, tokenizer, objective.text_length),
        evaluate=_evaluation(experiment, work, Scorer(objective, tokenizer, encoder)),
        start=functools.partial(_start, experiment, encoder),
        fingerprint=fingerprint,
    )


def abstract(experiment: Experiment) -> Task:
    """Builds the method's stage without its data: all that shapes, compilation and benchmarks depend on."""
    config = experiment.method
    return _task(experiment, OvoadObjective(config, encoder_sizes(config), compute_dtype(experiment)))


def _task(experiment: Experiment, objective: OvoadObjective) -> Task:
    train = experiment.train
    if experiment.method.text.freeze:
        train = dataclasses.replace(train, trainable=rf"{_FROZEN_TEXT}(?:{train.trainable})")
    return Task(
        name="ovoad",
        train=train,
        optim=experiment.optim,
        example_spec=objective.example_spec(),
        init=objective.init,
        loss=objective.loss,
        rules=RULES,
    )


def _tokenizer(config: settings.OvoadConfig, encoder: FrameEncoder | None) -> Tokenizer:
    """The tokenizer of the encoder's text tower, or CLIP's by config.encoder.clip.text.vocabulary."""
    if encoder is not None:
        if encoder.encoder.tokenizer is None:
            raise VtjaxError(f"{encoder.encoder.why_none}; name one by config.method.encoder.clip.text.vocabulary")
        return encoder.encoder.tokenizer
    name = config.encoder.clip.text.vocabulary
    if not name:
        raise VtjaxError(
            "config.method.encoder.weights names no encoder, so there is no tokenizer: name weights, or CLIP's "
            "vocabulary by config.method.encoder.clip.text.vocabulary"
        )
    return ClipTokenizer.load(name)


def _evaluation(experiment: Experiment, work: pathlib.Path, scorer: Scorer) -> Callable | None:
    """What is evaluated while training: the validation split, where there is one with classes."""
    config = experiment.method.data
    try:
        videos, classes, _ = data.open_split(experiment, work, config.val_split, scorer.encoder)
    except MissingSplit as error:
        if config.source == "world":
            raise
        logging.warning("nothing is evaluated while training: %s", error)
        return None
    videos = videos[: config.val_size]
    if not data.annotated(videos):
        logging.warning("nothing is evaluated while training: no video of %r has a class", config.val_split)
        return None
    return functools.partial(quick_results, scorer, videos, classes)


def _start(experiment: Experiment, encoder: FrameEncoder | None, params: dict) -> dict:
    """The encoder's text tower and projection, and the parameters of config.train.initial, in place of random ones."""
    from vtjax.training.initial import from_checkpoint

    if encoder is not None:
        params = {**params, "text": _filled(params["text"], unstack_layers(encoder.params["text"]))}
        projection = params["current_projection"]["kernel"]
        if encoder.projection.shape == projection.shape:
            params["current_projection"] = {"kernel": jnp.asarray(encoder.projection)}
    return from_checkpoint(experiment.train.initial, params) if experiment.train.initial else params


def _filled(params: dict, source: dict) -> dict:
    """`params` with every leaf that `source` has; the adapters, which it has not, stay."""
    return {
        name: (_filled(value, source[name]) if isinstance(value, dict) else source[name]) if name in source else value
        for name, value in params.items()
    }
