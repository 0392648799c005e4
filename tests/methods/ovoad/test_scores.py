"""Branches and fusions against numpy, one window at a time; classes that only fill up."""

import dataclasses

import jax
import numpy as np
import pytest

from vtjax.methods.ovoad import scores
from vtjax.methods.ovoad.config import OvoadConfig, OvoadFusionConfig
from vtjax.methods.ovoad.task import Encoded, OvoadObjective
from vtjax.nn.clip import PRESETS

B, K, N, C, E, F = 3, 2, 6, 8, 5, 4
PARAMS = {"logit_scale": np.float32(1.3)}
SCALE = np.exp(1.3)


def objective(config):
    return OvoadObjective(config, PRESETS["ViT-B/16"])


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def example(seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    logits = draw(B, K, N)
    valid = np.arange(N) >= np.array([0, 2, 0])[:, None]
    encoded = Encoded(
        unit(draw(B, K, E)), unit(draw(B, E)), draw(B, F), logits, softmax(logits, 1) * valid[:, None], valid
    )  # fmt: skip
    bank = scores.Bank(unit(draw(C, E)), draw(C, F), np.ones(C, bool), np.arange(C) == 0)
    return encoded, bank, softmax(draw(B, C))


def by_hand(fusion, encoded, bank, clip):
    out = []
    for b in range(B):
        own = encoded.groups[b, encoded.assignment[b, :, -1].argmax()]
        cosines, whole = bank.joint @ own, bank.joint @ encoded.clip[b]
        current = unit(bank.current) @ unit(encoded.current[b])
        if fusion.mode == "paper":
            parts = [cosines, current]
        elif fusion.mode == "calibrated":
            parts = [softmax(SCALE * cosines), softmax(SCALE * current)]
        else:
            kept = np.argsort(-softmax(SCALE * whole))[: fusion.top]
            first = np.zeros(C)
            first[kept] = softmax(SCALE * cosines[kept])
            parts = [softmax(first), softmax(bank.current @ encoded.current[b])]
        total = fusion.group + fusion.current + fusion.clip
        out.append((fusion.group * parts[0] + fusion.current * parts[1] + fusion.clip * clip[b]) / total)
    return np.stack(out)


@pytest.mark.parametrize("clip", [0.0, 0.2])
@pytest.mark.parametrize("mode", ["paper", "code_mean", "calibrated"])
def test_fusion(mode, clip):
    fusion = OvoadFusionConfig(mode=mode, group=1.6, current=0.1, clip=clip, top=3)
    encoded, bank, zero_shot = example()
    run = jax.jit(lambda *a: scores.frame_scores(objective(OvoadConfig(fusion=fusion)), PARAMS, *a))
    found = run(encoded, bank, zero_shot)
    np.testing.assert_allclose(found.fused, by_hand(fusion, encoded, bank, zero_shot), atol=1e-5)
    np.testing.assert_array_equal(found.binding, encoded.assignment.argmax(1))
    np.testing.assert_allclose(found.mapping, np.einsum("bke,ce->bkc", encoded.groups, bank.joint), atol=1e-6)

    room = lambda x: np.concatenate([x, np.full((4, *x.shape[1:]), 0.5, x.dtype)])
    wide = dataclasses.replace(
        bank, joint=room(bank.joint), current=room(bank.current), valid=np.arange(C + 4) < C,
        background=np.arange(C + 4) == 0,
    )  # fmt: skip
    padded = np.concatenate([zero_shot, np.zeros((B, 4), np.float32)], 1)
    filled = run(encoded, wide, padded)
    np.testing.assert_allclose(filled.fused[:, :C], found.fused, atol=1e-6)
    np.testing.assert_array_equal(filled.fused[:, C:], 0)


def test_the_flat_range_of_the_released_scores():
    """The softmax of a softmax over 21 classes lies between about 0.04 and 0.12."""
    rng = np.random.default_rng(0)
    encoded, _, clip = example()
    bank = scores.Bank(unit(rng.normal(size=(21, E))), rng.normal(size=(21, F)), np.ones(21, bool), np.arange(21) == 0)
    config = OvoadConfig(fusion=OvoadFusionConfig(mode="code_mean"))
    sure = {"logit_scale": np.float32(np.log(100))}
    found = np.asarray(jax.jit(lambda *a: scores.frame_scores(objective(config), sure, *a))(encoded, bank).group)
    assert found.min() > 0.04 and 0.08 < found.max() < 0.122


@pytest.mark.parametrize("squash", ["minmax", "sigmoid"])
def test_the_mask_in_use(squash):
    config = OvoadConfig(fusion=OvoadFusionConfig(background="mask"))
    config.loss.mask_squash = squash
    encoded, bank, _ = example()
    plain = jax.jit(lambda *a: scores.frame_scores(objective(OvoadConfig()), PARAMS, *a))(encoded, bank)
    found = jax.jit(lambda *a: scores.frame_scores(objective(config), PARAMS, *a))(encoded, bank)
    for b in range(B):
        likely = 1 + (bank.joint[1:] @ encoded.clip[b]).argmax()
        raw = encoded.assignment[b].T @ encoded.groups[b] @ bank.joint[likely]
        seen = encoded.valid[b]
        low, high = raw[seen].min(), raw[seen].max()
        mask = 1 / (1 + np.exp(-SCALE * raw)) if squash == "sigmoid" else (raw - low) / (high - low)
        np.testing.assert_allclose(found.actionness[b][seen], mask[seen], atol=2e-4)
        np.testing.assert_allclose(found.fused[b, 1:], plain.fused[b, 1:] * mask[-1], atol=2e-4)
        np.testing.assert_allclose(found.fused[b, 0], plain.fused[b, 0], atol=1e-6)


@pytest.mark.parametrize("form", ["standard", "code"])
def test_zero_shot(form):
    rng = np.random.default_rng(1)
    features, projection = rng.normal(size=(2, 5, 6)).astype(np.float32), rng.normal(size=(6, E)).astype(np.float32)
    classes, valid = unit(rng.normal(size=(C, E))).astype(np.float32), np.arange(C) != 3
    found = np.asarray(jax.jit(lambda *a: scores.zero_shot(*a, form))(features, projection, classes, 20.0, valid))
    for i, t in np.ndindex(2, 5):
        x = features[i, t]
        x = unit(x) @ projection if form == "code" else unit(x @ projection)
        expected = np.zeros(C)
        expected[valid] = softmax(20.0 * (classes @ x)[valid])
        np.testing.assert_allclose(found[i, t], expected, atol=1e-5)
    seen = np.array([[True] * 5, [False, False, True, True, True]])
    mean = scores.window_mean(found, seen)
    np.testing.assert_allclose(mean[1], found[1, 2:].mean(0), atol=1e-6)
