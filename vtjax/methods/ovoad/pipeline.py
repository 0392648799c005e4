"""OV-OAD's recipe: the encoder's pretraining, where it is not given, then the method on windows of its features."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable

import jax.numpy as jnp
from absl import logging

from vtjax.config import Experiment, Stages
from vtjax.encoders.frames import FrameEncoder
from vtjax.encoders.sizes import sizes_of
from vtjax.errors import VtjaxError
from vtjax.methods.clip import pipeline as clip_pipeline
from vtjax.methods.clip.data import open_videos
from vtjax.methods.clip.text import open_tokenizer
from vtjax.methods.ovoad import config as settings
from vtjax.methods.ovoad import data, task
from vtjax.methods.ovoad.captions import FILLER, NOTHING
from vtjax.methods.ovoad.embed import TOKENIZER, Scorer
from vtjax.methods.ovoad.encoder import PRETRAIN, encoder_sizes, has_stage, open_encoder, tokenizer_of
from vtjax.methods.ovoad.model import RULES
from vtjax.nn.vit import unstack_layers
from vtjax.training.precision import compute_dtype
from vtjax.training.task import Task
from vtjax.worlds.drawn import cache_folder

LAST_STAGE = "train"
_FROZEN_TEXT = r"^(?!text/(?!.*parallel_adapter/))"


def stages(experiment: Experiment, work: pathlib.Path) -> dict[str, Callable[[], Task]]:
    """The stages of a run, in order."""
    settings.check(experiment.method)
    encoder_sizes(experiment.method)
    own = {PRETRAIN: functools.partial(build_pretrain, experiment, work)} if has_stage(experiment.method) else {}
    return {**own, LAST_STAGE: functools.partial(build, experiment, work)}


def pretrain_experiment(experiment: Experiment, work: pathlib.Path | None = None) -> Experiment:
    """The clip experiment that the stage `pretrain` is."""
    config = experiment.method.encoder.clip
    if work is not None:
        cache = str(cache_folder(experiment, work))
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, cache=cache))
    stage = experiment.stages.pretrain
    return dataclasses.replace(
        experiment, name="clip", method=config, optim=stage.optim, train=stage.train, stages=Stages()
    )


def build_pretrain(experiment: Experiment, work: pathlib.Path) -> Task:
    """Contrastive training of the encoder on trimmed clips, none of them with a held-out verb-object pair."""
    clip, folder = pretrain_experiment(experiment, work), work / PRETRAIN
    sizes = sizes_of(clip.method)
    videos = open_videos(clip.method, sizes.vision.image_size, cache_folder(experiment, work))
    train = videos.rows(clip.method.data.train_split)
    # The words of prompts and of the background get ids of their own, though this stage never shows them.
    later = [NOTHING, FILLER, *(t.replace("{}", "") for t in experiment.method.text.train_templates)]
    later += [t.replace("{}", experiment.method.text.background) for t in experiment.method.text.test_templates]
    open_tokenizer(clip.method, sizes, folder / "assets", corpus=[*train.texts(), *later])
    return dataclasses.replace(clip_pipeline.build(clip, folder), name=PRETRAIN)


def build(experiment: Experiment, work: pathlib.Path) -> Task:
    """The method's stage; writes the run's assets on the way.

    Raises:
      VtjaxError: data, encoder or settings that cannot work.
    """
    config, dtype = experiment.method, compute_dtype(experiment)
    planned = abstract(experiment)
    encoder = open_encoder(experiment, work, dtype)
    sizes = encoder.sizes if encoder is not None else encoder_sizes(config)
    videos, _, fingerprint = data.open_split(experiment, work, config.data.train_split, encoder)
    tokenizer = _tokenizer(config, encoder, work)
    windows = data.Windows(videos, config)
    logging.info("ovoad: %d windows of %d videos", len(windows), len(videos))
    return dataclasses.replace(
        planned,
        source=windows,
        transform=data.TrainTransform(config, tokenizer, task.text_length(config, sizes)),
        evaluate=_evaluation(experiment, work, Scorer(config, sizes, tokenizer, encoder, dtype)),
        start=functools.partial(_start, experiment, encoder),
        fingerprint=fingerprint,
    )


def abstract(experiment: Experiment) -> Task:
    """The method's stage without its data: all that shapes, compilation and benchmarks depend on."""
    config = experiment.method
    settings.check(config)
    sizes, dtype = encoder_sizes(config), compute_dtype(experiment)
    train = experiment.train
    if config.text.freeze:
        train = dataclasses.replace(train, trainable=rf"{_FROZEN_TEXT}(?:{train.trainable})")
    return Task(
        name="ovoad",
        train=train,
        optim=experiment.optim,
        example_spec=task.example_spec(config, sizes),
        init=lambda rng, batch: task.init(config, sizes, rng, batch, dtype),
        loss=lambda params, batch, rng, training: task.loss(config, sizes, params, batch, rng, training, dtype),
        rules=RULES,
    )


def _tokenizer(config: settings.OvoadConfig, encoder: FrameEncoder | None, work: pathlib.Path):
    """The encoder's tokenizer, or CLIP's by config.encoder.clip.text.vocabulary, kept in the run's assets."""
    if encoder is not None:
        tokenizer = tokenizer_of(encoder)
    else:
        from vtjax.text.clip_tokenizer import ClipTokenizer

        name = config.encoder.clip.text.vocabulary
        if not name:
            raise VtjaxError(
                "config.method.encoder.weights names no encoder, so there is no tokenizer: name weights, or CLIP's "
                "vocabulary by config.method.encoder.clip.text.vocabulary"
            )
        tokenizer = ClipTokenizer.load(name)
    folder = work / "assets" / TOKENIZER
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.save(folder)
    return tokenizer


def _evaluation(experiment: Experiment, work: pathlib.Path, scorer: Scorer) -> Callable | None:
    """What is evaluated while training: the validation split, where there is one with classes."""
    from vtjax.methods.ovoad.evaluate import quick_results

    config = experiment.method
    try:
        videos, classes, _ = data.open_split(experiment, work, config.data.val_split, scorer.encoder)
    except VtjaxError as error:
        if config.data.source == "world":
            raise
        logging.warning("nothing is evaluated while training: %s", error)
        return None
    videos = videos[: config.data.val_size]
    if not any(label > 0 for video in videos for label in video.labels):
        logging.warning("nothing is evaluated while training: no video of %r has a class", config.data.val_split)
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
