"""The objective against a float64 loop, on one device and on eight, and inside the train step."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from vtjax.config import Experiment, Optim, Train, check_fields
from vtjax.encoders import clip_config as clip
from vtjax.encoders.sizes import sizes_of
from vtjax.errors import VtjaxError
from vtjax.losses.scale import clipped
from vtjax.methods.clip import pipeline
from vtjax.methods.clip.task import ClipObjective
from vtjax.sharding.mesh import AXES, global_batch
from vtjax.sharding.partition import partition
from vtjax.training.step import Trainer

N, T, L = 8, 3, 6


def settings(**changes):
    """Tiny; changes: "section.field" with a double underscore for the dot."""
    config = clip.ClipConfig(
        clip.ClipModelConfig(
            embed_dim=8, vision=clip.VisionSizes(8, 4, 8, 1, 2, 16), text=clip.TextSizes(8, 1, 2, 16), frames=T,
            temporal_layers=1, temporal_heads=2,
        ),
        clip.ClipTextConfig(max_tokens=L, vocab_size=32),
        clip.ClipLossConfig(tile=3),
    )  # fmt: skip
    for path, value in changes.items():
        section, field = path.split("__")
        setattr(getattr(config, section), field, value)
    return config


def random_batch(config, count=N):
    rng = np.random.default_rng(0)
    batch = {}
    for name, spec in ClipObjective(config, sizes_of(config)).example_spec().items():
        shape = (count, *spec.shape)
        batch[name] = np.zeros(shape, bool)
        if spec.dtype == jnp.uint8:
            batch[name] = rng.integers(0, 256, shape).astype(np.uint8)
        elif spec.dtype == jnp.int32:
            batch[name] = rng.integers(4, 32, shape).astype(np.int32)
            batch[name][:, -1] = 3  # [SEP]
    batch["frame_mask"] = np.arange(T) < rng.integers(1, T + 1, count)[:, None]
    if "backwards_valid" in batch:
        batch["backwards_valid"] = np.arange(count) % 3 != 1
    return batch


@functools.cache
def ready(backwards=False, temporal="transformer", loss="infonce"):
    config = settings(loss__backwards=backwards, model__temporal=temporal, loss__name=loss)
    objective, batch = ClipObjective(config, sizes_of(config)), random_batch(config)
    params = jax.jit(objective.init)(jax.random.key(0), batch)
    # Its last kernel starts at zero, which would hide the temporal transformer from every test.
    params = jax.tree.map(lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), params)
    return objective, batch, params


@functools.cache
def programs(temporal="transformer"):
    """Compiled once: (params, frames, mask) -> both clip embeddings, (params, ids) -> text embeddings."""
    objective, _, _ = ready(temporal=temporal)
    return jax.jit(objective.embed_videos), jax.jit(objective.embed_texts)


def numbers(metrics):
    return {name: float(total) / max(float(weight), 1e-9) for name, (total, weight) in metrics.items()}


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("backwards, loss", [(False, "infonce"), (True, "infonce"), (True, "sigmoid")])
def test_objective_equals_a_loop_over_rows(backwards, loss):
    objective, batch, params = ready(backwards, loss=loss)
    found = numbers(jax.jit(functools.partial(objective.loss, train=False))(params, batch, jax.random.key(0)))
    videos_of, texts_of = programs()
    shared = {k: v for k, v in params.items() if k != "logit_bias"}
    forwards, turned = videos_of(shared, batch["frames"], batch["frame_mask"])
    texts = np.asarray(texts_of(shared, batch["text_ids"]))
    forwards, turned = np.float64(forwards), np.float64(turned)
    rows = list(zip(forwards, np.float64(texts), strict=True))
    if backwards:
        other = np.float64(texts_of(shared, batch["backwards_ids"]))
        rows += [(turned[i], other[i]) for i in range(N) if batch["backwards_valid"][i]]
        right = [forwards[i] @ texts[i] > forwards[i] @ other[i] for i in range(N) if batch["backwards_valid"][i]]
        assert found["order"] == pytest.approx(np.mean(right), abs=1e-6)
    scale = np.exp(float(params["logit_scale"]))
    total = 0.0
    for i, (v, t) in enumerate(rows):
        to_texts = np.array([scale * v @ other for _, other in rows])
        to_videos = np.array([scale * t @ other for other, _ in rows])
        if loss == "infonce":
            for logits in (to_texts, to_videos):
                total += 0.5 * (np.log(np.exp(logits).sum()) - logits[i])
        else:
            sign = np.where(np.arange(len(rows)) == i, 1, -1)
            total += np.log1p(np.exp(-sign * (to_texts + float(params["logit_bias"])))).sum()
    assert found["loss"] == pytest.approx(total / len(rows), rel=1e-5)
    assert found["logit_scale"] == pytest.approx(scale, rel=1e-6) and found["substituted"] == 0


def test_mean_pooling_is_blind_to_order_and_the_transformer_is_not():
    for temporal in ("mean", "transformer"):
        _, batch, params = ready(temporal=temporal)
        videos_of, mask = programs(temporal)[0], np.ones((N, T), bool)
        forwards, backwards = videos_of(params, batch["frames"], mask)
        gap = np.abs(np.asarray(forwards - backwards)).max()
        assert gap < 1e-6 if temporal == "mean" else gap > 1e-3
        turned, _ = videos_of(params, batch["frames"][:, ::-1], mask)
        np.testing.assert_allclose(turned, backwards, atol=1e-5)


def test_training_starts_at_the_mean_of_the_frames():
    _, batch, params = ready()
    start = {**params, "temporal": {**params["temporal"], "project": {"kernel": jnp.zeros((8, 8))}}}
    without = {k: v for k, v in params.items() if k != "temporal"}
    frames, mask = batch["frames"], batch["frame_mask"]
    both = programs()[0](start, frames, mask)[0], programs("mean")[0](without, frames, mask)[0]
    np.testing.assert_allclose(*both, atol=1e-6)
    objective, batch, _ = ready()
    made = jax.jit(lambda key: objective.init(key, batch)["temporal"]["project"])(jax.random.key(1))
    assert not np.any(made["kernel"])


def test_frames_that_only_fill_up_are_not_seen():
    _, batch, params = ready()
    noisy = np.where(batch["frame_mask"][..., None, None, None], batch["frames"], 7).astype(np.uint8)
    seen, same = (programs()[0](params, frames, batch["frame_mask"])[0] for frames in (batch["frames"], noisy))
    np.testing.assert_allclose(seen, same, atol=1e-6)


def test_scale_stops_at_its_limit_and_can_come_back():
    grad = lambda x, sign: float(jax.grad(lambda p: sign * clipped(p, 2.0))(jnp.float32(x)))
    assert float(clipped(jnp.float32(3.0), 2.0)) == 2.0
    assert grad(1.0, 1) == 1 and grad(1.0, -1) == -1
    assert grad(3.0, 1) == 1 and grad(3.0, -1) == 0  # descent may lower it, never raise it


def experiment(impl, **changes):
    config = settings(loss__impl=impl, loss__backwards=True, **changes)
    return Experiment("clip", config, optim=Optim("sgd", 0.1), train=Train(steps=1, batch_size=N))


def stepped(impl, devices):
    shape = (devices // 2, 2, 1) if devices > 1 else (1, 1, 1)
    mesh = Mesh(np.asarray(jax.devices()[:devices]).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 3)
    trainer = Trainer(pipeline.abstract(experiment(impl)), mesh, 0)
    compiled = trainer.lower().compile()
    batch = global_batch(random_batch(experiment(impl).method), trainer.batch_sharding)
    state, metrics = compiled(trainer.init_state(), batch)
    return jax.device_get(state["trainable"]), numbers(jax.device_get(metrics)), compiled.as_text()


def test_train_step_is_the_same_on_one_device_and_on_eight():
    params, metrics, _ = stepped("plain", 1)
    other, same, text = stepped("ring", 8)
    assert "collective-permute" in text, "the loss found the mesh"
    assert same == pytest.approx(metrics, rel=1e-5, abs=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), params, other)


def test_rules_cover_every_parameter_and_frozen_towers_stay_out():
    mesh = Mesh(np.asarray(jax.devices()).reshape(2, 2, 2), AXES, axis_types=(AxisType.Auto,) * 3)
    planned = pipeline.abstract(experiment("auto", loss__name="sigmoid", model__freeze="vision"))
    params = jax.eval_shape(planned.init, jax.random.key(0), planned.batch_spec())
    sharded = partition(params, planned.rules, mesh)
    assert set(params) == {"vision", "text", "temporal", "logit_scale", "logit_bias"}
    assert sharded.replicated_bytes < sharded.total_bytes / 2
    trainer = Trainer(planned, mesh, 0)
    assert set(trainer.abstract_state["frozen"]) == {"vision"} and "text" in trainer.abstract_state["trainable"]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"model__temporal": "lstm"}, "model.temporal='lstm'"),
        ({"loss__impl": "rnig"}, "did you mean 'ring'"),
        ({"model__preset": "ViT-B/32"}, "text.vocabulary is needed"),
        ({"data__crop": 0.0}, "data.crop=0.0: lies in (0, 1]"),
        ({"data__templates": ("a video",)}, "each needs one {}"),
        ({"data__source": "prepared", "loss__backwards": True}, "only the world knows"),
        ({"model__temporal_heads": 3}, "temporal_heads=3"),
        ({"model__preset": "ViT-B/33", "text__tokenizer": "words"}, "did you mean"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, words):
    config = copy.deepcopy(settings(**changes))
    with pytest.raises(VtjaxError) as caught:
        check_fields(config, "config.method")
        clip.check(config)
        sizes_of(config)
    assert words in str(caught.value)
