"""The recipe: one stage, contrastive training, on the workshop world or on prepared videos."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable

from vtjax.config import Experiment
from vtjax.encoders import clip_config as settings
from vtjax.encoders.sizes import STAGE, published_params, save_sizes, sizes_of
from vtjax.methods.clip import data, task
from vtjax.methods.clip.embed import Embedder
from vtjax.methods.clip.evaluate import quick_results
from vtjax.methods.clip.model import RULES
from vtjax.methods.clip.text import open_tokenizer
from vtjax.nn.stack import CHEAPEST_FIRST
from vtjax.training.precision import compute_dtype
from vtjax.training.task import Task
from vtjax.worlds.drawn import cache_folder

LAST_STAGE = STAGE
# Not micro-batches: the negatives are those of the whole batch, which `parts` keeps.
LEVERS = {"method.model.remat": CHEAPEST_FIRST, "method.model.parts": (1, 4, 16, 64)}
_FROZEN = {"vision": r"^(?!vision/)", "text": r"^(?!text/)", "both": r"^(?!(?:vision|text)/)"}


def stages(experiment: Experiment, work: pathlib.Path) -> dict[str, Callable[[], Task]]:
    """The stages of a run, in order."""
    settings.check(experiment.method)
    return {LAST_STAGE: functools.partial(build, experiment, work)}


def build(experiment: Experiment, work: pathlib.Path) -> Task:
    """The training stage; writes the run's assets (sizes, tokenizer) on the way.

    Raises:
      VtjaxError: data, model or settings that cannot work.
    """
    config = experiment.method
    planned = abstract(experiment)
    sizes, assets = sizes_of(config), work / "assets"
    videos = data.open_videos(config, sizes.vision.image_size, cache_folder(experiment, work))
    train = videos.rows(config.data.train_split, log=work / "bad_videos.jsonl")
    save_sizes(sizes, config.data.resize, assets)
    tokenizer = open_tokenizer(config, sizes, assets, corpus=train.texts(), initial=experiment.train.initial)
    embedder = Embedder(config, sizes, tokenizer, compute_dtype(experiment))
    return dataclasses.replace(
        planned,
        source=train,
        transform=data.TrainTransform(config, sizes.vision.image_size, tokenizer, sizes.text.context_length),
        evaluate=functools.partial(quick_results, embedder, validation_rows(videos), videos.classes),
        start=functools.partial(_start, experiment),
        fingerprint=videos.fingerprint,
    )


def abstract(experiment: Experiment) -> Task:
    """The training stage without its data: all that shapes, compilation and benchmarks depend on."""
    config = experiment.method
    settings.check(config)
    sizes, dtype = sizes_of(config), compute_dtype(experiment)
    train = experiment.train
    if config.model.freeze != "none":
        train = dataclasses.replace(train, trainable=rf"{_FROZEN[config.model.freeze]}(?:{train.trainable})")
    return Task(
        name="clip",
        train=train,
        optim=experiment.optim,
        example_spec=task.example_spec(config, sizes),
        init=lambda rng, batch: task.init(config, sizes, rng, batch, dtype),
        loss=lambda params, batch, rng, training: task.loss(
            config, sizes, params, batch, rng, training, dtype, experiment.mesh.slices
        ),
        rules=RULES,
    )


def validation_rows(videos: data.Videos) -> data.Rows:
    """The validation split, or the first clips of the test split where the data has none."""
    config = videos.config
    if videos.config.source == "world":
        return videos.rows(config.val_split)
    name = config.val_split if videos.has_split(config.val_split) else config.test_split
    return videos.rows(name, config.val_size)


def _start(experiment: Experiment, params: dict) -> dict:
    """Published weights, and the parameters of config.train.initial, in place of random ones."""
    from vtjax.training.initial import from_checkpoint

    if experiment.method.model.pretrained:
        params = published_params(experiment.method, params)
    return from_checkpoint(experiment.train.initial, params) if experiment.train.initial else params
