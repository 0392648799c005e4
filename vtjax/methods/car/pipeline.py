"""CAR's recipe: one stage, the contrastive VAE, on the embedded motion world or on prepared motions."""

from __future__ import annotations

import dataclasses
import functools
import pathlib

import numpy as np
from absl import logging

from vtjax.config import Experiment
from vtjax.errors import VtjaxError
from vtjax.methods.car import data
from vtjax.methods.car.config import CarConfig
from vtjax.methods.car.embed import Embedder
from vtjax.methods.car.evaluate import quick_results
from vtjax.methods.car.model import rules
from vtjax.methods.car.task import CarObjective
from vtjax.methods.car.text import language_model_config, open_text
from vtjax.text.shuffle import has_wrong_order
from vtjax.training.precision import compute_dtype
from vtjax.training.task import Task
from vtjax.worlds.drawn import cache_folder


def build(experiment: Experiment, work: pathlib.Path) -> Task:
    """The training stage; writes the run's assets (statistics, vocabulary) on the way.

    Raises:
      VtjaxError: data, language model or settings that cannot work.
    """
    config, cache = experiment.method, cache_folder(experiment, work)
    store = data.open_store(config.data, cache)
    train = data.split_clips(store, config.data.train_split)
    assets = work / "assets"
    assets.mkdir(parents=True, exist_ok=True)
    normalizer = data.Normalizer(*store.statistics(train.indices), config.model.max_frames)
    normalizer.save(assets)

    captions, first = data.sentence_rows(train)
    mode = config.loss.positive_text
    for name in (config.data.train_split, config.data.test_split):
        if name in store.splits:
            logging.info("%s: %s", name, data.survey(data.split_clips(store, name), config.model.max_frames))
    if config.loss.text_negatives and not any(has_wrong_order(data.events_of(c)) for c in captions):
        raise VtjaxError(
            f"{store.path}: no caption of split {config.data.train_split!r} has two different events, so there are no "
            "text negatives; prepare with --events, or set config.method.loss.text_negatives=0"
        )
    corpus = [data.positive_text(c, form) for c in captions for form in ("events", "caption")]
    text = open_text(config.text, assets, corpus, cache)
    if text.kind == "states":
        text.prepare(data.all_texts(train, mode, config.data.orders if config.loss.text_negatives else 0), cache)
    if config.text.encoder == "builtin" and text.tokenizer.vocab_size > config.text.vocab_size:
        size = f"config.method.text.vocab_size={config.text.vocab_size}"
        raise VtjaxError(f"{size}: the vocabulary has {text.tokenizer.vocab_size}")
    sentence = data.sentence_embeddings(captions, config) if config.loss.filter != "none" else None

    objective = CarObjective(config, language_model_config(config.text), compute_dtype(experiment))
    embedder = Embedder(objective, normalizer, text)
    return dataclasses.replace(
        abstract(experiment),
        source=train,
        transform=data.TrainTransform(config, normalizer, text, sentence, np.asarray(first)),
        evaluate=functools.partial(quick_results, embedder, validation_clips(store, config)),
        start=functools.partial(_pretrained, experiment),
        fingerprint=store.fingerprint,
    )


def abstract(experiment: Experiment) -> Task:
    """Builds the training stage without its data: all that shapes, compilation and benchmarks depend on."""
    config, train = experiment.method, experiment.train
    objective = CarObjective(config, language_model_config(config.text), compute_dtype(experiment))
    if config.text.in_graph and config.text.encoder == "bert" and not config.text.trainable:
        train = dataclasses.replace(train, trainable=rf"^(?!language_model/)(?:{train.trainable})")
    return Task(
        name="car",
        train=train,
        optim=experiment.optim,
        example_spec=objective.example_spec(),
        init=objective.init,
        loss=objective.loss,
        rules=rules(config.text),
    )


def validation_clips(store: data.MotionStore, config: CarConfig) -> data.Clips:
    """The validation split, or the first clips of the test split where a prepared folder has none."""
    name = config.data.val_split if config.data.val_split in store.splits else config.data.test_split
    return data.split_clips(store, name, config.data.val_size)


def _pretrained(experiment: Experiment, params: dict) -> dict:
    """Published language-model weights, and the parameters of config.train.initial, in place of random ones."""
    from vtjax.training.initial import from_checkpoint

    text = experiment.method.text
    if text.encoder == "bert" and text.in_graph:
        from vtjax.nn.vit import stack_layers
        from vtjax.weights.bert import load_bert

        weights = load_bert(text.path)[1]
        params = {**params, "language_model": stack_layers(weights) if experiment.method.model.scan else weights}
    return from_checkpoint(experiment.train.initial, params) if experiment.train.initial else params
