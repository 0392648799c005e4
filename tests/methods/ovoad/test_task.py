"""OV-OAD's objective against numpy, and its switches."""

import dataclasses

import jax
import numpy as np
import pytest
from ovoad_toy import SMALL, batch_of, encode, loss, params_of, small, texts

from vtjax.errors import VtjaxError
from vtjax.methods.ovoad import task
from vtjax.methods.ovoad.config import OvoadLossConfig
from vtjax.methods.ovoad.task import OvoadObjective


def example(config, count=4, seed=2):
    rng = np.random.default_rng(seed)
    batch = batch_of(config, SMALL, count)
    batch["features"] = rng.normal(size=batch["features"].shape).astype(np.float32)
    batch["valid"] = np.arange(10)[None] >= np.array([0, 0, 3, 7])[:count, None]
    batch["action"] = (rng.random((count, 10)) < 0.5) & batch["valid"]
    for name in ("text_ids", "current_ids"):
        ids = rng.integers(1, 28, batch[name].shape).astype(np.int32)
        ids[..., -1] = 29
        batch[name] = ids
    return batch


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def log_softmax(x, axis):
    x = x - x.max(axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


def nce(a, b, scale, exclude=None):
    logits = scale * unit(a) @ unit(b).T
    if exclude is not None:
        logits = np.where(exclude, -np.inf, logits)
    return -0.5 * (np.diagonal(log_softmax(logits, 1)) + np.diagonal(log_softmax(logits, 0))).mean()


def dice(p, g):
    return 1 - (2 * (p * g).sum() + 1) / (p.sum() + g.sum() + 1)


def stretched(x):
    return (x - x.min()) / (x.max() - x.min())


def parts_by_hand(config, params, batch):
    """Every part of the loss from the model's outputs, in float64 and one item at a time."""
    out = encode(config, params, batch["features"], batch["valid"])
    ids = np.concatenate([batch["text_ids"], batch["current_ids"][:, None]], 1)
    joint, state = (v.reshape(*ids.shape[:2], -1) for v in texts(config, params, ids))
    state = state[:, -1]
    scale, several = (min(np.exp(float(params[n])), 100.0) for n in ("logit_scale", "multi_label_scale"))
    clip, current = np.asarray(out.clip, np.float64), np.asarray(out.current, np.float64)
    parts = {"itc": nce(joint[:, 0], clip, scale), "current": nce(state, current, scale)}
    count, extra = len(clip), config.loss.extra
    if extra:
        logits = several * np.einsum("id,jmd->ijm", clip, unit(joint[:, 1:-1]))
        flat = log_softmax(logits.reshape(count, -1), 1).reshape(logits.shape)
        own = np.stack([flat[i, i] for i in range(count)])
        to_texts = -np.log(np.exp(own).sum(1)) if config.loss.multi_positive == "logsumexp" else -own.mean(1)
        to_video = -np.stack([log_softmax(logits, 0)[i, i].mean() for i in range(count)])
        parts["multi"] = 0.5 * (to_texts + to_video).mean()
    masks = []
    for i in range(count):
        seen = np.asarray(out.valid[i])
        if config.loss.mask_from == "logits":
            raw = np.where(seen, np.asarray(out.logits[i], np.float64).mean(0), 0)
            p = stretched(unit(raw)[seen])
        else:
            share = np.asarray(out.assignment[i], np.float64)[:, seen]
            m = share.T @ np.asarray(out.groups[i], np.float64) @ unit(joint[i, 0])
            p = 1 / (1 + np.exp(-scale * m)) if config.loss.mask_squash == "sigmoid" else stretched(m)
        masks.append(dice(p, batch["action"][i, -out.valid.shape[1] :][seen]))
    parts["mask"] = np.mean(masks)
    return parts


VARIANTS = {
    "paper": {},
    "mean of logs": {"multi_positive": "mean_log"},
    "sigmoid": {"mask_squash": "sigmoid"},
    "logits": {"mask_from": "logits"},
    "single caption": {"extra": 0},
}


@pytest.mark.parametrize("variant, dntr", [(v, "decoder") for v in VARIANTS] + [("logits", "encoder_xattn")])
def test_parts_and_objective(variant, dntr):
    config = small(dntr=dntr)
    config.loss = OvoadLossConfig(contrast=0.8, current=0.3, mask=1.7, **VARIANTS[variant])
    params, batch = params_of(config), example(config)
    metrics = loss(config, params, batch)
    expected = parts_by_hand(config, params, batch)
    for name, value in expected.items():
        total, weight = metrics[name]
        np.testing.assert_allclose(total / weight, value, rtol=2e-4, atol=1e-5, err_msg=name)
    assert ("multi" in metrics) == ("multi" in expected)
    objective = 0.8 * (expected["itc"] + expected.get("multi", 0)) + 0.3 * expected["current"] + 1.7 * expected["mask"]
    np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], objective, rtol=2e-4)


def test_the_released_mean_of_the_mask_is_over_frames():
    """In the released code: the sum over the batch over the number of frames, worth B / 32 of a mean over the batch."""
    config = small(dntr="encoder_xattn")
    params, batch = params_of(config), example(config)
    values = {}
    for how in ("batch", "frames"):
        config.loss = OvoadLossConfig(contrast=0.0, current=0.0, mask=1.0, mask_mean=how)
        total, weight = loss(config, params, batch)["loss"]
        values[how] = float(total / weight)
    np.testing.assert_allclose(values["frames"], values["batch"] * 4 / 10, rtol=1e-5)


def test_equal_texts_can_be_left_out():
    config = small()
    params, batch = params_of(config), example(config)
    batch["text_ids"][1] = batch["text_ids"][0]
    batch["current_ids"][3] = batch["current_ids"][2]
    config.loss = OvoadLossConfig(equal_texts="left_out")
    metrics = loss(config, params, batch)
    out = encode(config, params, batch["features"], batch["valid"])
    joint, _ = texts(config, params, batch["text_ids"][:, 0])
    same = np.zeros((4, 4), bool)
    same[0, 1] = same[1, 0] = True
    expected = nce(joint, np.asarray(out.clip, np.float64), np.exp(params["logit_scale"]), same)
    np.testing.assert_allclose(metrics["itc"][0] / 4, expected, rtol=1e-4)
    multi = task._shared(batch["text_ids"][:, 1:])
    assert np.array_equal(np.asarray(multi)[..., 0], same) and np.array_equal(np.asarray(multi)[..., 1], same)
    _, state = texts(config, params, batch["current_ids"])
    same = same[::-1, ::-1]
    expected = nce(state, np.asarray(out.current, np.float64), np.exp(params["logit_scale"]), same)
    np.testing.assert_allclose(metrics["current"][0] / 4, expected, rtol=1e-4)


def test_a_flat_mask_is_one_half_and_has_no_nan():
    config = small()
    params, batch = params_of(config), example(config)
    assign = params["visual"]["unit"]["assign"]
    assign["query"] = jax.tree.map(np.zeros_like, assign["query"])
    config.loss = OvoadLossConfig(mask_from="logits")
    out = encode(config, params, batch["features"], batch["valid"])
    mask = OvoadObjective(config, SMALL).background_mask(out, out.clip, 1.0)
    np.testing.assert_array_equal(mask, 0.5)
    f = lambda p: OvoadObjective(config, SMALL).loss(p, batch, jax.random.key(0), True)["loss"][0]
    gradient = jax.jit(jax.grad(f))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_the_scale_is_limited():
    config = small()
    params, batch = params_of(config), example(config)
    params["logit_scale"] = np.float32(9.0)
    metrics = loss(config, params, batch)
    np.testing.assert_allclose(metrics["logit_scale"][0] / metrics["logit_scale"][1], 100, rtol=1e-5)


def test_training_draws_by_key_alone():
    config = small()
    params, batch = params_of(config), example(config)
    run = lambda seed: float(loss(config, params, batch, seed, train=True)["loss"][0])
    assert run(0) == run(0) != run(1)


def test_a_mesh_changes_nothing():
    """The same loss on one device and on a batch split over two (the released dice loss does not have this)."""
    config = small()
    params, batch = params_of(config), example(config)
    f = jax.jit(lambda p, b: OvoadObjective(config, SMALL).loss(p, b, jax.random.key(0), True)["loss"])
    alone = f(params, batch)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",))
    split = jax.device_put(batch, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    whole = jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    np.testing.assert_allclose(f(whole, split), alone, rtol=1e-5)


def test_windows_of_an_example_count_one_by_one():
    config = small()
    params, batch = params_of(config), example(config)
    alone = loss(config, params, batch)["loss"]
    config.data.windows = 2
    pairs = {name: field.reshape(2, 2, *field.shape[1:]) for name, field in batch.items()}
    spec = OvoadObjective(config, SMALL).example_spec()
    assert {name: field.shape[1:] for name, field in pairs.items()} == {name: s.shape for name, s in spec.items()}
    np.testing.assert_allclose(loss(config, params, pairs)["loss"], alone, rtol=1e-6)


def test_a_missing_field_is_told():
    config = small()
    batch = example(config)
    del batch["action"]
    with pytest.raises(VtjaxError, match="batch has no 'action'"):
        OvoadObjective(config, SMALL).loss(params_of(config), batch, jax.random.key(0), False)


def test_the_loss_is_differentiable_in_every_parameter():
    config = small(hard=False, gumbel=False)
    config = dataclasses.replace(config, loss=OvoadLossConfig(focal=5.0))
    params, batch = params_of(config), example(config)
    f = lambda p: OvoadObjective(config, SMALL).loss(p, batch, jax.random.key(0), False)["loss"][0]
    gradient = jax.jit(jax.grad(f))(params)
    still = [k for k, v in jax.tree_util.tree_leaves_with_path(gradient) if not np.abs(v).max() > 0]
    # A bias of keys shifts all logits of a query alike; CLIP's own projection is not used in the space "eot".
    assert all("key" in str(k) or "projection" in str(k) for k in still), still
