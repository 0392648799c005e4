"""CAR's objective against its formulas in numpy, and what must not change it."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vtjax.config import from_dict, to_dict
from vtjax.errors import VtjaxError
from vtjax.methods.car import config as car
from vtjax.methods.car import task
from vtjax.methods.car.task import CarObjective
from vtjax.nn.bert import BertConfig

N, T, L, F, D = 8, 6, 5, 3, 8
# Compiling is most of the time here; the results are the same to rounding.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def settings(encoder="builtin", text=None, **loss):
    return car.CarConfig(
        car.CarModelConfig(motion_width=F, max_frames=T, latent=D, layers=1, heads=2, ff=16),
        car.CarTextConfig(encoder=encoder, max_tokens=L, width=8, vocab_size=20, **(text or {})),
        car.CarLossConfig(**{"sentence_width": 3, "text_negatives": 2, "motion_negatives": 1, **loss}),
    )


def random_batch(config, count=N):
    rng = np.random.default_rng(0)
    batch = {}
    for name, spec in CarObjective(config).example_spec().items():
        shape = (count, *spec.shape)
        if spec.dtype == jnp.int32:
            batch[name] = rng.integers(0, 20, shape).astype(np.int32)
        elif name.endswith("mask"):
            batch[name] = np.arange(shape[-1]) < rng.integers(1, shape[-1] + 1, shape[:-1])[..., None]
        elif spec.dtype == jnp.bool_:
            batch[name] = np.broadcast_to(np.arange(count) % 2 == 0, (*shape[1:], count)).T
        else:
            batch[name] = rng.normal(size=shape).astype(np.float32)
    batch["motion"] = np.where(batch["motion_mask"][..., None], batch["motion"], 0)
    return batch


CONFIG = settings()
BATCH = random_batch(CONFIG)


@functools.cache
def params():
    return jit(CarObjective(CONFIG).init)(jax.random.key(0), BATCH)


@functools.cache
def compiled(settings_json, train):
    config = from_dict(car.CarConfig, json.loads(settings_json))
    return jit(lambda p, b, rng: CarObjective(config).loss(p, b, rng, train))


def evaluate(config=CONFIG, batch=BATCH, train=False, seed=0, tree=None):
    run = compiled(json.dumps(to_dict(config)), train)
    return {k: np.array(v) for k, v in run(tree or params(), batch, jax.random.key(seed)).items()}


def mean(metrics, name):
    return metrics[name][0] / metrics[name][1]


def test_example_spec_follows_the_settings():
    shapes = {name: spec.shape for name, spec in CarObjective(CONFIG).example_spec().items()}
    assert shapes == {
        "motion": (T, F), "motion_mask": (T,), "text_ids": (L,), "text_mask": (L,), "sentence": (3,),
        "negative_ids": (2, L), "negative_mask": (2, L), "negative_valid": (2,),
        "negative_motion": (1, T, F), "negative_motion_mask": (1, T), "negative_motion_valid": (1,),
    }  # fmt: skip
    plain = CarObjective(settings("bert", text_negatives=0, motion_negatives=0, filter="none")).example_spec()
    assert set(plain) == {"motion", "motion_mask", "text_states", "text_mask"} and plain["text_states"].shape == (L, 8)
    assert "negative_states" in CarObjective(settings("bert")).example_spec()


def other_weights(pad_in_mean):
    return settings(pad_in_mean=pad_in_mean, kl=0.02, latent=0.3, contrastive=0.5, threshold=0.7)


@pytest.mark.parametrize("pad_in_mean", [True, False])
def test_objective_is_the_sheet_s_formula(pad_in_mean):
    """Sections 2.4 and 3.4 in numpy on the model's own outputs."""
    config = other_weights(pad_in_mean)
    model, tree = CarObjective(config).model, {"params": params()}
    b = BATCH

    def outputs(tree, b):
        encode = lambda ids, mask: model.apply(
            tree, model.apply(tree, ids, mask, method="text_states"), mask, method="encode_text"
        )
        motion = lambda x, mask: model.apply(tree, x, mask, method="encode_motion")
        t, m = encode(b["text_ids"], b["text_mask"]), motion(b["motion"], b["motion_mask"])
        negatives = [encode(b["negative_ids"][:, k], b["negative_mask"][:, k])[0] for k in range(2)]
        swapped = motion(b["negative_motion"][:, 0], b["negative_motion_mask"][:, 0])[0]
        decoded = [model.apply(tree, z, b["motion_mask"], method="decode") for z in (t[0], m[0])]
        return t, m, negatives, swapped, decoded

    t, m, negatives, swapped, decoded = jax.tree.map(np.float64, jit(outputs)(tree, b))
    huber = lambda e: np.where(abs(e) < 1, 0.5 * e * e, abs(e) - 0.5)
    counted = np.ones((N, T), bool) if pad_in_mean else b["motion_mask"]
    recons = sum(huber(y - b["motion"])[counted].mean() for y in decoded)
    kl = lambda q, p: np.mean(
        0.5 * (np.exp(q[1] - p[1]) + (p[0] - q[0]) ** 2 / np.exp(p[1]) - 1 - (q[1] - p[1]))
    )
    normal = (np.zeros((N, D)), np.zeros((N, D)))
    divergence = kl(t, m) + kl(m, t) + kl(m, normal) + kl(t, normal)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    e = unit(b["sentence"])
    logits = unit(t[0]) @ unit(m[0]).T / 0.1
    logits[(e @ e.T > 0.4) & ~np.eye(N, dtype=bool)] = -np.inf
    assert np.isinf(logits).any()
    extra_text = np.concatenate([unit(x)[b["negative_valid"][:, k]] for k, x in enumerate(negatives)])
    extra_motion = unit(swapped)[b["negative_motion_valid"][:, 0]]
    assert len(extra_text) == 8 and len(extra_motion) == 4
    rows = np.concatenate([logits, unit(t[0]) @ extra_motion.T / 0.1], axis=1)
    columns = np.concatenate([logits.T, unit(m[0]) @ extra_text.T / 0.1], axis=1)
    nce = 0.5 * sum(np.mean(np.log(np.exp(x).sum(1)) - logits.diagonal()) for x in (rows, columns))
    latent = huber(t[0] - m[0]).mean()

    got = evaluate(config)
    for name, value in (("reconstruction", recons), ("kl", divergence), ("latent", latent), ("contrastive", nce)):
        assert mean(got, name) == pytest.approx(value, rel=1e-4), name
    total = recons + 0.02 * divergence + 0.3 * latent + 0.5 * nce
    np.testing.assert_allclose(got["loss"], [N * total, N], rtol=1e-4)
    own = (unit(t[0]) * unit(m[0])).sum(1)
    right = [(own > (unit(x) * unit(m[0])).sum(1))[b["negative_valid"][:, k]] for k, x in enumerate(negatives)]
    np.testing.assert_array_equal(got["chronology"], [np.concatenate(right).sum(), 8])
    right = (own > (unit(t[0]) * unit(swapped)).sum(1))[b["negative_motion_valid"][:, 0]]
    np.testing.assert_array_equal(got["chronology_motion"], [right.sum(), 4])


def test_no_negatives_wanted_none_valid_and_none_given_are_the_same():
    plain = evaluate(settings(text_negatives=0, motion_negatives=0))
    invalid = {**BATCH, "negative_valid": np.zeros((N, 2), bool), "negative_motion_valid": np.zeros((N, 1), bool)}
    absent = {k: v for k, v in BATCH.items() if not k.startswith("negative")}
    for other in (evaluate(batch=invalid), evaluate(batch=absent)):
        for name in plain:
            np.testing.assert_allclose(other[name], plain[name], rtol=1e-5, err_msg=name)
    assert "chronology" not in plain
    assert evaluate()["contrastive"][0] > plain["contrastive"][0] + 0.1


def test_invalid_negatives_and_padding_may_hold_anything():
    batch = dict(BATCH)
    invalid = ~BATCH["negative_valid"]
    batch["negative_ids"] = np.where(invalid[..., None], 3, np.where(BATCH["negative_mask"], BATCH["negative_ids"], 1))
    batch["motion"] = np.where(BATCH["motion_mask"][..., None], BATCH["motion"], np.nan).astype(np.float32)
    batch["negative_motion"] = np.where(BATCH["negative_motion_mask"][..., None], BATCH["negative_motion"], np.nan)
    expected, got = evaluate(), evaluate(batch=batch)
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, err_msg=name)


def test_more_padding_changes_only_the_mean_over_padded_frames():
    widen = lambda x: np.concatenate([x, np.zeros((N, *x.shape[1:-2], T, F), x.dtype)], axis=-2)
    batch = {**BATCH, "motion": widen(BATCH["motion"]), "negative_motion": widen(BATCH["negative_motion"])}
    for name in ("motion_mask", "negative_motion_mask"):
        batch[name] = np.concatenate([BATCH[name], np.zeros_like(BATCH[name])], axis=-1)
    for pad_in_mean, factor in ((True, 0.5), (False, 1.0)):
        config = other_weights(pad_in_mean)
        expected, got = evaluate(config), evaluate(config, batch)
        for name in ("contrastive", "kl", "latent"):
            np.testing.assert_allclose(got[name], expected[name], rtol=1e-4, err_msg=name)
        assert mean(got, "reconstruction") == pytest.approx(factor * mean(expected, "reconstruction"), rel=1e-4)


def test_training_samples_and_drops_evaluation_does_neither():
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, dropout=0.0))
    still = dataclasses.replace(config, loss=dataclasses.replace(config.loss, sample_scale=0.0))
    same = lambda a, b: np.array_equal(a["contrastive"], b["contrastive"])
    assert same(evaluate(seed=1), evaluate(seed=2))
    assert same(evaluate(config, train=True, seed=1), evaluate(config, train=True, seed=1))
    sampled = [evaluate(config, train=True, seed=s) for s in (1, 2)]
    assert not same(*sampled)
    np.testing.assert_array_equal(sampled[0]["kl"], sampled[1]["kl"])  # of the distributions, not of the samples
    np.testing.assert_allclose(evaluate(still, train=True)["loss"], evaluate()["loss"], rtol=1e-5)
    assert not np.array_equal(evaluate(train=True, seed=1)["kl"], evaluate(train=True, seed=2)["kl"])


def test_text_and_motion_latents_get_different_noise():
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, dropout=0.0))
    assert evaluate(config, train=True)["latent"][0] > 0
    tree = {**params(), "text_encoder": {**params()["motion_encoder"]}}
    tree["text_encoder"]["projection"] = {"kernel": jnp.zeros((8, D)), "bias": jnp.zeros(D)}
    tree["motion_encoder"] = {
        **tree["motion_encoder"],
        "projection": {"kernel": jnp.zeros((F, D)), "bias": jnp.zeros(D)},
    }
    batch = {**BATCH, "text_mask": np.zeros((N, L), bool), "motion_mask": np.zeros((N, T), bool)}
    assert evaluate(batch=batch, tree=tree)["latent"][0] == pytest.approx(0, abs=1e-6)
    assert evaluate(config, batch, train=True, tree=tree)["latent"][0] > 1


def test_equal_texts_are_no_negatives_when_asked():
    batch = dict(BATCH)
    batch["negative_ids"], batch["negative_mask"] = BATCH["negative_ids"].copy(), BATCH["negative_mask"].copy()
    batch["negative_ids"][0, 0], batch["negative_mask"][0, 0] = BATCH["text_ids"][1], BATCH["text_mask"][1]
    batch["negative_ids"][0, 0][~BATCH["text_mask"][1]] = 19  # padding does not count
    exclude = np.asarray(task._equal_texts(batch))
    assert exclude.shape == (N, 2, N) and exclude.sum() == 1 and exclude[0, 0, 1]
    loose, strict = (evaluate(settings(exclude_equal_texts=flag), batch)["contrastive"][0] for flag in (False, True))
    assert loose > strict + 1e-3


def test_gradients_reach_every_parameter_that_matters():
    grads = jit(jax.grad(lambda p: CarObjective(CONFIG).loss(p, BATCH, jax.random.key(0), True)["loss"][0]))(params())
    # One memory token: its attention weight is 1 whatever query and key are (but for dropout, which they do not steer).
    dead = {jax.tree_util.keystr(path) for path, g in jax.tree_util.tree_leaves_with_path(grads) if not np.any(g)}
    assert dead and all("cross_attention" in name and ("query" in name or "key" in name) for name in dead)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_without_reconstruction_the_decoder_is_left_alone():
    config = settings(reconstruction=0.0)
    unusable = jax.tree.map(lambda x: x * np.nan, params()["motion_decoder"])
    metrics = evaluate(config, tree={**params(), "motion_decoder": unusable})
    assert "reconstruction" not in metrics and np.isfinite(metrics["loss"]).all()


def test_the_same_on_eight_devices():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(BATCH, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    expected, got = evaluate(train=True), evaluate(batch=spread, train=True)
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, err_msg=name)


def test_language_model_in_the_graph():
    """Tuned: gradients and dropout. Frozen: cached states, or, with the released code's quirk, dropout all the same."""
    bert = BertConfig(vocab_size=20, width=8, layers=1, heads=2, ffn_width=16, positions=16, dropout=0.3)
    base = {"text_negatives": 0, "motion_negatives": 0, "reconstruction": 0.0, "sample_scale": 0.0}
    tree = None
    for text in ({"trainable": True}, {"frozen_dropout": True}):
        config = settings("bert", text, **base)
        config.model.dropout = 0.0
        tree = tree or jit(lambda b, c=config: CarObjective(c, bert).init(jax.random.key(0), b))(BATCH)

        def latent(p, seed, config=config):
            return CarObjective(config, bert).loss(p, BATCH, jax.random.key(seed), True)["latent"][0]

        if config.text.trainable:
            grads = jit(jax.grad(latent))(tree, 1)["language_model"]
            assert any(np.any(g) for g in jax.tree.leaves(grads))
        run = jit(latent)
        assert float(run(tree, 1)) != float(run(tree, 2))
    cached = settings("bert", text_negatives=0, motion_negatives=0)
    assert "text_states" in CarObjective(cached).example_spec() and "text_ids" not in CarObjective(cached).example_spec()


def test_order_is_learned():
    """Two words and two poses per item, the negatives their reversal: all right after training, sampling and all."""
    config = settings(text_negatives=1, filter="none", contrastive=1.0, reconstruction=0.0, sample_scale=0.3)
    config.model.latent, config.model.dropout = 16, 0.0
    rng = np.random.default_rng(0)
    words, poses = rng.permutation(np.arange(1, 17)).reshape(8, 2), rng.normal(size=(8, 2, F))
    ids = np.zeros((8, L), np.int32)
    ids[:, :2] = words
    swapped_ids = np.zeros((8, 1, L), np.int32)
    swapped_ids[:, 0, :2] = words[:, ::-1]
    batch = {
        "motion": np.repeat(poses, 3, axis=1).astype(np.float32),
        "motion_mask": np.ones((8, T), bool),
        "text_ids": ids,
        "text_mask": ids > 0,
        "negative_ids": swapped_ids,
        "negative_mask": swapped_ids > 0,
        "negative_valid": np.ones((8, 1), bool),
        "negative_motion": np.repeat(poses[:, ::-1], 3, axis=1).astype(np.float32)[:, None],
        "negative_motion_mask": np.ones((8, 1, T), bool),
        "negative_motion_valid": np.ones((8, 1), bool),
    }
    optimizer = optax.adam(5e-3)
    tree = jit(CarObjective(config).init)(jax.random.key(0), batch)

    def step(carry, index):
        tree, state = carry
        rng = jax.random.fold_in(jax.random.key(1), index)
        grads = jax.grad(lambda p: CarObjective(config).loss(p, batch, rng, True)["loss"][0])(tree)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(tree, updates), state), None

    before = evaluate(config, batch, tree=tree)
    (tree, _), _ = jit(lambda c: jax.lax.scan(step, c, jnp.arange(250)))((tree, optimizer.init(tree)))
    after = evaluate(config, batch, tree=tree)
    assert mean(before, "accuracy_t2m") < 1
    for name in ("accuracy_t2m", "accuracy_m2t", "chronology", "chronology_motion"):
        assert mean(after, name) == 1, name


def test_a_missing_field_is_named():
    batch = {k: v for k, v in BATCH.items() if k != "sentence"}
    with pytest.raises(VtjaxError, match="batch has no 'sentence'"):
        evaluate(batch=batch)
    batch = {k: v for k, v in BATCH.items() if k != "negative_valid"}
    with pytest.raises(VtjaxError, match="batch has no 'negative_valid'"):
        evaluate(batch=batch, train=True)


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("text", "encoder", "bart", "did you mean 'bert'"),
        ("loss", "negatives_scope", "global", "known: batch, own"),
        ("model", "patch", 4, "max_frames=6 is not a multiple of patch=4"),
        ("model", "heads", 3, "latent=8: must be even and a multiple of heads=3"),
        ("model", "layers", 0, "layers=0: must be positive"),
        ("model", "dropout", 1.0, r"dropout=1.0: lies in \[0, 1\)"),
        ("loss", "temperature", 0.0, "temperature=0.0: must be positive"),
        ("loss", "kl", -1.0, "kl=-1.0: must not be negative"),
        ("text", "trainable", True, "settings of encoder=bert"),
    ],
)
def test_settings_that_cannot_work_are_named(section, field, value, message):
    config = settings()
    setattr(getattr(config, section), field, value)
    with pytest.raises(VtjaxError, match=message):
        CarObjective(config)


def test_defaults_are_the_released_settings_and_survive_json():
    config = car.CarConfig()
    CarObjective(config)
    assert (config.model.latent, config.model.layers, config.model.heads, config.model.ff) == (256, 6, 4, 1024)
    weights = config.loss
    assert (weights.reconstruction, weights.kl, weights.latent, weights.contrastive) == (1.0, 1e-5, 1e-5, 0.1)
    assert (weights.temperature, weights.threshold, weights.text_negatives) == (0.1, 0.8, 1)
    assert CarObjective(config).example_spec()["motion"].shape == (224, 263) and config.text.max_tokens == 128
    assert not any(dataclasses.asdict(config.quirks).values())
    assert from_dict(car.CarConfig, to_dict(config)) == config
