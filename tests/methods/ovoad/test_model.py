"""Sizes, causality and padding of OV-OAD's model (numbers against torch: tests/parity/test_ovoad.py)."""

import dataclasses

import jax
import numpy as np
import pytest
from ovoad_toy import SMALL, count, encode, params_of, shapes, small, window

from vtjax.errors import VtjaxError
from vtjax.methods.ovoad.config import OvoadConfig, OvoadModelConfig, OvoadTextConfig, check, clustered_frames
from vtjax.methods.ovoad.model import RULES
from vtjax.methods.ovoad.task import OvoadObjective
from vtjax.nn.clip import PRESETS
from vtjax.sharding.mesh import AXES
from vtjax.sharding.partition import partition

# No constant, which a layer norm would take out.
NOISE = np.random.default_rng(5).normal(size=16).astype(np.float32)


def test_published_parameter_counts():
    """At the published sizes, against the paper's figures."""
    code = shapes(OvoadConfig(model=OvoadModelConfig(dntr="encoder_xattn")), PRESETS["ViT-B/16"])
    paper = shapes(OvoadConfig(), PRESETS["ViT-B/16"])
    visual = code["visual"]
    assert count(visual) == 106_357_634
    assert {count(visual[f"{part}_0"]) for part in ("dntr", "cluster", "group_layers")} == {7_087_872}
    assert count(visual["current_attention"]) == 7_087_872
    assert count(visual["unit"]) == 14_183_042
    assert count(paper["visual"]["dntr_0"]) == 9_451_776
    assert count(code["visual_projector"]) == 4_206_848 and count(code["text_projector"]) == 3_158_272
    assert count(code["current_projection"]) == 393_216
    assert [count(visual[name]) for name in ("position", "group_token", "norm")] == [24_576, 6_144, 1_536]
    layers = code["text"]["transformer"].values()
    adapters = sum(count(layer["parallel_adapter"]) for layer in layers)
    assert adapters == 793_344 and len(layers) == 12
    assert count(code["text"]) - adapters == 63_428_096
    assert round(count(code) / 1e6, 1) == 178.3
    # The paper's "#Param 109.5M", and its "15 %" of the last two blocks.
    assert round((count(paper["visual"]) + adapters) / 1e6, 2) == 109.52
    without = count(paper["visual"]) - 2 * 7_087_872
    assert round(100 * 2 * 7_087_872 / without, 1) == 15.0


def test_the_plain_text_tower_is_clips():
    plain = dataclasses.replace(OvoadConfig(), text=OvoadTextConfig(adapter=0))
    assert count(shapes(plain, PRESETS["ViT-B/16"])["text"]) == 63_428_096


@pytest.mark.parametrize(
    "variant, unit", [("decoder", "slot"), ("encoder_xattn", "grouping"), ("encoder", "grouping"), ("none", "grouping")]
)
def test_every_variant_runs_and_is_partitioned(variant, unit):
    config = small(dntr=variant, unit=unit)
    params = params_of(config)
    x, valid = window(config)
    out = encode(config, params, x, valid)
    assert out.groups.shape == (2, 2, 8) and out.logits.shape == (2, 2, clustered_frames(config.model))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]).reshape(1, 2, 2), AXES)
    partition(shapes(config, SMALL), RULES, mesh)  # refuses what no rule matches


def intermediate(config, params, valid):
    """Neighbouring frames (or all, of the encoders) before action clustering."""
    from vtjax.methods.ovoad.model import VideoEncoder

    model = VideoEncoder(config.model)
    method = "_decode" if config.model.dntr == "decoder" else "_encode"
    run = jax.jit(lambda p, *args: model.apply({"params": p}, *args, False, method=method)[0])
    return lambda x: np.asarray(run(params["visual"], x, valid))


@pytest.mark.parametrize("norm", ["hybrid", "pre"])
def test_a_neighbouring_frame_does_not_see_later_ones(norm):
    config = small(dntr_norm=norm, dntr_layers=2)
    params = params_of(config)
    x, valid = window(config)
    run = intermediate(config, params, valid)
    before = run(x)
    for frame in range(4):
        changed = x.copy()
        changed[:, 6 + frame] += NOISE
        after = run(changed)
        np.testing.assert_array_equal(after[:, :frame], before[:, :frame])
        assert not np.allclose(after[:, frame:], before[:, frame:])
    changed = x.copy()
    changed[:, 2] += NOISE
    assert not np.allclose(run(changed)[:, 0], before[:, 0]), "the past is seen"


@pytest.mark.parametrize("mask", ["causal", "near", "none"])
def test_encoder_masks(mask):
    config = small(dntr="encoder_xattn", mask=mask, dntr_layers=2)
    params = params_of(config)
    x, valid = window(config)
    run = intermediate(config, params, valid)
    before = run(x)
    for frame in (2, 5, 7, 9):
        changed = x.copy()
        changed[:, frame] += NOISE
        moved = np.abs(run(changed) - before).max((0, 2)) > 1e-6
        sees = {
            "causal": np.arange(10) >= frame,
            "near": (np.arange(10) >= frame) | ((np.arange(10) < 6) & (frame < 6)),
            "none": np.ones(10, bool),
        }[mask]
        np.testing.assert_array_equal(moved, sees)


@pytest.mark.parametrize("variant", ["decoder", "encoder_xattn"])
def test_frames_before_the_video_begins_change_nothing(variant):
    config = small(dntr=variant)
    params = params_of(config)
    x, valid = window(config)
    valid = valid.copy()
    valid[:, :5] = False
    other = x.copy()
    other[:, :5] = 7.0
    first, second = (encode(config, params, v, valid) for v in (x, other))
    for a, b in ((first.current, second.current), (first.groups, second.groups), (first.clip, second.clip)):
        np.testing.assert_allclose(a, b, atol=1e-6)
    seen = np.asarray(first.valid)
    np.testing.assert_array_equal(seen, valid[:, -clustered_frames(config.model) :])
    sums = np.asarray(first.assignment).sum(1)
    np.testing.assert_allclose(sums, seen, atol=1e-6)


def test_the_gradient_into_the_encoder_can_be_cut():
    for detach in (False, True):
        config = small(dntr="encoder_xattn", detach=detach)
        params = params_of(config)
        x, valid = window(config)
        f = lambda p: OvoadObjective(config, SMALL).encode_window(p, x, valid).current.sum()  # noqa: B023
        gradient = jax.jit(jax.grad(f))(params)["visual"]
        assert (np.abs(gradient["dntr_0"]["norm1"]["scale"]).max() == 0) == detach
        assert np.abs(gradient["current_attention"]["norm2"]["scale"]).max() > 0


def test_without_clustering_the_clip_is_the_mean_of_its_frames():
    config = small(clustering=False)
    config.loss.mask = 0.0  # the mask comes from the groups
    params = params_of(config)
    x, valid = window(config)
    out = encode(config, params, x, valid)
    assert "group_token" not in params["visual"] and out.groups.shape == (2, 1, 8)
    np.testing.assert_allclose(out.clip, out.groups[:, 0], atol=1e-6)
    np.testing.assert_array_equal(out.assignment, 1)


def test_another_window_or_width_is_told():
    config = small()
    params = params_of(config)
    x, valid = window(config)
    with pytest.raises(VtjaxError, match=r"takes \[B, 10 frames, 16 values\]"):
        OvoadObjective(config, SMALL).encode_window(params, x[:, 1:], valid[:, 1:])
    with pytest.raises(VtjaxError, match="16 values"):
        OvoadObjective(config, SMALL).encode_window(params, x[..., :8], valid)


@pytest.mark.parametrize("variant", ["decoder", "encoder_xattn"])
@pytest.mark.parametrize("compress", [False, True])
def test_the_long_memory_is_looked_at_by_the_current_frame(variant, compress):
    config = small(dntr=variant, long=5, compress=compress)
    params = params_of(config)
    x, valid = window(config)
    assert x.shape[1] == 15 and params["visual"]["position_long"].shape == (5, 16)
    before = encode(config, params, x, valid)
    for frame in range(5):
        changed = x.copy()
        changed[:, frame] += NOISE
        assert np.abs(encode(config, params, changed, valid).current - before.current).max() > 1e-4
    early = valid.copy()
    early[:, :5] = False
    changed = x.copy()
    changed[:, :5] = 7
    first, second = (encode(config, params, v, early) for v in (x, changed))
    np.testing.assert_allclose(first.current, second.current, atol=1e-6)
    # Without a frame in it the memory is as if there were none.
    none = small(dntr=variant)
    left = {k: v for k, v in params["visual"].items() if "long" not in k}
    alone = encode(none, {**params, "visual": left}, x[:, 5:], valid[:, 5:])
    np.testing.assert_allclose(first.current, alone.current, atol=1e-6)
    np.testing.assert_allclose(first.groups, alone.groups, atol=1e-6)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]).reshape(1, 2, 2), AXES)
    partition(shapes(config, SMALL), RULES, mesh)


@pytest.mark.parametrize("length", [5, 6])
def test_compression_is_a_convolution_of_width_3_and_stride_2(length):
    from vtjax.methods.ovoad.model import VideoEncoder

    config = small(long=length, compress=True)
    params = params_of(config)["visual"]
    x = np.random.default_rng(3).normal(size=(1, length, 16)).astype(np.float32)
    valid = np.arange(length)[None] >= 2
    found, seen = VideoEncoder(config.model).apply({"params": params}, x, valid, False, method="_remember")
    kernel, bias = (params["compress_long"][name] for name in ("kernel", "bias"))
    rows = np.where(valid[0][:, None], x[0] + params["position_long"], 0)
    count = -(-length // 2)
    first = -(max(2 * (count - 1) + 3 - length, 0) // 2)  # frames of padding before, the rest after
    for i in range(count):
        own = [(k, 2 * i + first + k) for k in range(3) if 0 <= 2 * i + first + k < length]
        expected = bias + sum(rows[at] @ kernel[k] for k, at in own)
        np.testing.assert_allclose(found[0, i], expected, atol=1e-4)
        assert bool(seen[0, i]) == any(valid[0, at] for _, at in own)


def test_a_long_memory_needs_cross_attention():
    with pytest.raises(VtjaxError, match=r"model.long=4: dntr='encoder' has no cross attention"):
        check(small(dntr="encoder", long=4))
    with pytest.raises(VtjaxError, match="model.compress: there is no long memory"):
        check(small(compress=True))
