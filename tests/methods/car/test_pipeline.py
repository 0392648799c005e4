"""CAR's recipe: the task it builds, the same result on any mesh, and a run that is killed ten times."""

import dataclasses
import functools
import json
import os
import random
import signal
import time

import commands
import jax
import numpy as np
import pytest

from vtjax import methods
from vtjax.config import Experiment, Mesh, Optim, Train, load_config_file
from vtjax.errors import VtjaxError
from vtjax.methods.car import config as car
from vtjax.methods.car import pipeline
from vtjax.sharding.mesh import global_batch, make_mesh
from vtjax.sharding.partition import flatten
from vtjax.training import recipe
from vtjax.training.checkpoint import load_params
from vtjax.training.pipeline import check_example, train_batches
from vtjax.training.step import Trainer, params_of

SMOKE = f"{commands.ROOT}/configs/car.py:smoke"


def experiment(store, text=None, train=None, **loss):
    method = car.CarConfig(
        car.CarModelConfig(max_frames=40, latent=8, layers=1, heads=2, ff=16),
        car.CarTextConfig(**{"encoder": "builtin", "max_tokens": 16, "width": 8, "vocab_size": 64, **(text or {})}),
        car.CarLossConfig(**{"filter": "sequence", "sentence_width": 16, "motion_negatives": 1, **loss}),
        data=car.CarDataConfig(source=str(store.path)),
    )
    return Experiment("car", method, optim=Optim(), train=Train(**{"steps": 2, "batch_size": 8, **(train or {})}))


def test_the_task_is_whole(store, tmp_path):
    built = methods.get("car").recipe(experiment(store), tmp_path / "w")
    assert list(built) == ["train"] == [methods.get("car").last_stage]
    task = built["train"]()
    assert {p.name for p in (tmp_path / "w" / "assets").iterdir()} == {"mean.npy", "std.npy", "tokenizer"}
    assert task.fingerprint == store.fingerprint and len(task.source) == 5
    train = [i for i, key in enumerate(store.keys) if key != "four"]
    for name, values in zip(("mean", "std"), store.statistics(train), strict=True):
        np.testing.assert_array_equal(np.load(tmp_path / "w" / "assets" / f"{name}.npy"), values)
    batch = next(train_batches(task.source, task.transform, task.example_spec, seed=0, batch_size=8))
    spec = {k: (tuple(s.shape), np.dtype(s.dtype)) for k, s in task.batch_spec().items()}
    check_example(batch, spec)
    before = {p: p.read_bytes() for p in (tmp_path / "w" / "assets").rglob("*") if p.is_file()}
    methods.get("car").recipe(experiment(store), tmp_path / "w")["train"]()
    assert {p: p.read_bytes() for p in (tmp_path / "w" / "assets").rglob("*") if p.is_file()} == before


def test_the_abstract_task_is_the_task_without_data(store, tmp_path):
    settings = experiment(store)
    whole, bare = pipeline.build(settings, tmp_path / "w"), pipeline.abstract(settings)
    assert whole.batch_spec() == bare.batch_spec() and whole.rules == bare.rules and not len(bare.source)


def test_a_vocabulary_that_was_cut_off_is_made_again(store, tmp_path):
    pipeline.build(experiment(store), tmp_path / "w")
    words = tmp_path / "w" / "assets" / "tokenizer" / "word_tokenizer.json"
    before = words.read_bytes()
    words.unlink()  # killed after the folder was made
    pipeline.build(experiment(store), tmp_path / "w")
    assert words.read_bytes() == before


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda e: setattr(e.method.data, "train_split", "test1"), "no split 'test1': did you mean 'test'"),
        (lambda e: setattr(e.method.text, "vocab_size", 20), "vocab_size=20: the vocabulary has 2"),
        (lambda e: setattr(e.method.data, "source", "nowhere"), "nowhere: no file meta.json"),
        (lambda e: setattr(e.method.loss, "filter", "sentences"), "did you mean 'sentence'"),
        (lambda e: setattr(e.method.text, "encoder", "bert"), "distilbert-base-uncased"),
    ],
)
def test_what_cannot_be_built_is_named(store, tmp_path, change, message):
    settings = experiment(store)
    pipeline.build(settings, tmp_path / "w")  # the vocabulary of the run is there, as when settings change later
    change(settings)
    with pytest.raises(VtjaxError, match=message):
        methods.get("car").recipe(settings, tmp_path / "w")["train"]()


def test_text_negatives_need_two_different_events(store, tmp_path):
    from vtjax.data.motion.store import write_store

    plain = [c for c in store if c.key in ("same", "two")]
    plain = [dataclasses.replace(c, captions=(dataclasses.replace(c.captions[0], events=("a", "a")),)) for c in plain]
    write_store(tmp_path / "s", plain, splits={"same": "test", "two": "train"})
    settings = experiment(store)
    settings.method.data.source = str(tmp_path / "s")
    with pytest.raises(VtjaxError, match=r"no caption of split 'train' has two different events(.|\n)*text_negatives=0"):
        pipeline.build(settings, tmp_path / "w")
    settings.method.loss.text_negatives = 0
    pipeline.build(settings, tmp_path / "w")


def test_validation_takes_the_test_split_where_there_is_no_other(store):
    config = experiment(store).method
    assert len(pipeline.validation_clips(store, config)) == 1
    config.data.val_split, config.data.val_size = "train", 3
    assert len(pipeline.validation_clips(store, config)) == 3


@pytest.mark.parametrize("mode", ["cached", "tuned", "dropout"])
def test_language_models(store, tmp_path, language_model, mode):
    """Frozen with cached states, tuned in the graph, and frozen in the graph with dropout (quirk 3.8.1)."""
    text = {"encoder": "bert", "path": str(language_model)} | {"tuned": {"trainable": True}, "dropout": {"frozen_dropout": True}}.get(mode, {})
    settings = experiment(store, text, train={"checkpoint_every": 1})
    task = pipeline.build(settings, tmp_path / "w")
    trainer = Trainer(task, make_mesh(Mesh(2, 2, 2)), seed=0)
    names = {part: set(flatten(trainer.abstract_state[part])) for part in ("trainable", "frozen")}
    tuned = {n for n in names["trainable"] if n.startswith("language_model/")}
    frozen = {n for n in names["frozen"] if n.startswith("language_model/")}
    assert bool(tuned) == (mode == "tuned") and bool(frozen) == (mode == "dropout") and names["frozen"] == frozen
    assert ("text_states" in task.example_spec) == (mode == "cached")
    if mode == "cached":
        assert list((tmp_path / "cache").iterdir()), "states are kept beside the work directory"
        return
    from vtjax.weights.bert import load_bert

    published = flatten(load_bert(str(language_model))[1])
    abstract = {**trainer.abstract_state["trainable"], **trainer.abstract_state["frozen"]}
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)
    started = flatten(task.start(zeros))
    for name, value in published.items():
        np.testing.assert_array_equal(started[f"language_model/{name}"], value)
    assert not any(np.any(v) for n, v in started.items() if not n.startswith("language_model/"))


@pytest.fixture(scope="module")
def smoke_batches():
    """Three batches of the smoke configuration's shapes."""
    spec = pipeline.abstract(load_config_file(SMOKE)).batch_spec()
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(3):
        batch = {}
        for name, s in spec.items():
            if s.dtype == np.int32:
                batch[name] = rng.integers(1, 400, s.shape).astype(np.int32)
            elif name.endswith("mask"):
                batch[name] = np.arange(s.shape[-1]) < rng.integers(1, s.shape[-1] + 1, s.shape[:-1])[..., None]
            elif s.dtype == bool:
                batch[name] = rng.random(s.shape) < 0.8
            else:
                batch[name] = rng.normal(size=s.shape).astype(np.float32)
        batches.append(batch)
    return batches


@functools.cache
def smoke_on(*shape):
    # The default eps of 1e-8 turns gradients that are zero but for rounding (attention's key biases) into full steps of
    # random sign: those parameters could not agree between any two orders of summation.
    settings = load_config_file(SMOKE)
    settings.optim.eps = 1e-4
    settings.method.model.dropout, settings.method.loss.sample_scale = 0.1, 1.0
    devices = jax.devices()[: int(np.prod(shape))]
    return Trainer(pipeline.abstract(settings), make_mesh(Mesh(*shape), devices), seed=0)


@functools.cache
def compiled_on(*shape):
    return smoke_on(*shape).lower().compile()


def three_steps(batches, *shape):
    trainer = smoke_on(*shape)
    state, losses = trainer.init_state(), []
    for batch in batches:
        state, metrics = compiled_on(*shape)(state, global_batch(batch, trainer.batch_sharding))
        metrics = jax.device_get(metrics)
        losses.append(metrics["loss"][0] / metrics["loss"][1])
    return losses, jax.device_get(params_of(state))


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)])
def test_the_same_steps_on_one_and_on_eight_devices(smoke_batches, shape):
    """Loss and parameters after three steps, with dropout and sampling, to 1e-5; the step was compiled once."""
    losses, params = three_steps(smoke_batches, 1, 1, 1)
    other_losses, other = three_steps(smoke_batches, *shape)
    np.testing.assert_allclose(other_losses, losses, rtol=1e-5)
    params, other = flatten(params), flatten(other)
    first = flatten(jax.device_get(params_of(smoke_on(*shape).init_state())))
    moved = 0
    for name, value in params.items():
        np.testing.assert_allclose(other[name], value, rtol=0, atol=1e-5, err_msg=name)
        moved += np.abs(value - first[name]).max() > 1e-4
    assert moved > 0.8 * len(params), "training moved most parameters by far more than the tolerance"


def test_checkpoints_of_another_shape(trained, tmp_path):
    """As parameters to start from, and in the same work directory with other settings."""
    common = ("-m", "vtjax.train", f"--config={SMOKE}", "--config.method.model.latent=16")
    cache = f"--config.method.data.cache={trained.parent / 'cache'}"
    result = commands.run(*common, cache, f"--config.train.initial={trained}", f"--work_directory={tmp_path / 'x'}")
    commands.refused(result, "config.train.initial=", "does not fit this model", "other shape: motion_encoder/tokens is (2, 32)")
    result = commands.run(*common, f"--work_directory={trained}")
    commands.refused(result, "holds a run with other settings", "method.model.latent: 32 there, 16 now", "--allow_config_change")
    kept = (trained / "config.json").read_text()
    try:
        for steps in (12, 14):  # finished, and to be gone on with
            changed = (f"--work_directory={trained}", "--allow_config_change", f"--config.train.steps={steps}")
            result = commands.run(*common, *changed)
            commands.refused(result, "checkpoints/12 does not fit", "motion_encoder/tokens is (2, 32) in the checkpoint, (2, 16)")
    finally:
        (trained / "config.json").write_text(kept)


@pytest.mark.slow
def test_killed_ten_times_and_resumed_bitwise(tmp_path):
    """SIGKILL at ten random moments, wherever they fall: starting, compiling, training, evaluating or saving."""
    arguments = (
        "-m", "vtjax.train", f"--config={SMOKE}", "--noreport", "--config.train.steps=120", "--config.train.eval_every=20",
        "--config.train.checkpoint_every=5", "--config.train.log_every=10", f"--config.method.data.cache={tmp_path / 'cache'}",
        "--config.train.best=car/2-way/event-to-event/CAR",
    )  # fmt: skip
    began = time.monotonic()
    whole = commands.run(*arguments, f"--work_directory={tmp_path / 'whole'}", timeout=1200)
    seconds = time.monotonic() - began
    assert whole.returncode == 0, whole.stderr
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}, uninterrupted in {seconds:.1f} s")
    rng, kills, steps = random.Random(seed), 0, []
    metrics = tmp_path / "parts" / "train" / "metrics.jsonl"
    while kills < 10:
        process = commands.start(*arguments, f"--work_directory={tmp_path / 'parts'}")
        # Half of the kills count from the first line that this process logs, so that steps and saves are hit too.
        if kills % 2 and (wanted := metrics.stat().st_mtime_ns if metrics.exists() else 0) is not None:
            while process.poll() is None and not (metrics.exists() and metrics.stat().st_mtime_ns > wanted):
                time.sleep(0.01)
        time.sleep(rng.uniform(0, seconds * (0.05 if kills % 2 else 0.5)))
        if process.poll() is not None:
            assert process.returncode == 0, process.stdout.read()
            break  # it finished before it could be killed again
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        kills += 1
        saved = [int(p.name) for p in (tmp_path / "parts/train/checkpoints").glob("*") if p.name.isdigit()]
        steps.append(max(saved, default=0))
    print(f"killed {kills} times, after checkpoints of steps {steps}")
    last = commands.run(*arguments, f"--work_directory={tmp_path / 'parts'}", timeout=1200)
    assert last.returncode == 0, last.stderr
    assert kills == 10 and steps == sorted(steps) and steps[-1] > 0
    for folder in ("checkpoints", "best_car_2_way_event_to_event_CAR"):
        a, b = (flatten(load_params(tmp_path / name / "train" / folder)) for name in ("whole", "parts"))
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    times = ("time", "examples_per_second", "data_wait")
    curves = [
        [{k: v for k, v in json.loads(line).items() if k not in times} for line in (tmp_path / n / "train/metrics.jsonl").read_text().splitlines()]
        for n in ("whole", "parts")
    ]  # fmt: skip
    assert curves[0] == curves[1]


def test_the_smoke_run_can_be_reached_from_python(trained):
    assert recipe.stage_params(trained, "train", "12").keys() == recipe.stage_params(trained, "train").keys()
    lines = [json.loads(line) for line in (trained / "train" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    assert len(losses) == 3 and all(np.isfinite(losses))
    assert [(line["step"], line["split"]) for line in lines] == [
        (4, "train"), (6, "eval"), (8, "train"), (12, "train"), (12, "eval"),
    ]  # fmt: skip
