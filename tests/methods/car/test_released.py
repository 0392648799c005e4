"""TMR's released names: layouts element by element, every tensor accounted for (numbers against torch: tests/parity;
files and CAR's language model: tests/weights/test_convert.py)."""

import jax
import numpy as np
import pytest

from vtjax.errors import VtjaxError
from vtjax.methods.car import released
from vtjax.methods.car.config import CarConfig, CarModelConfig, CarTextConfig
from vtjax.trees import flatten
from vtjax.weights import tables

CONFIG = CarConfig(
    CarModelConfig(motion_width=5, max_frames=4, latent=8, layers=2, heads=2, ff=12),
    CarTextConfig(max_tokens=3, width=6),
)


def released_shapes():
    """car.md section 8, written out for the sizes of CONFIG."""
    d, ff, shapes = 8, 12, {}
    for tower, features in (("motion_encoder", 5), ("text_encoder", 6)):
        shapes |= {f"{tower}.projection.weight": (d, features), f"{tower}.projection.bias": (d,)}
        shapes[f"{tower}.tokens"] = (2, d)
    shapes |= {"motion_decoder.final_layer.weight": (5, d), "motion_decoder.final_layer.bias": (5,)}
    for tower, stack, attentions, norms in (
        ("motion_encoder", "seqTransEncoder", ("self_attn",), 2),
        ("text_encoder", "seqTransEncoder", ("self_attn",), 2),
        ("motion_decoder", "seqTransDecoder", ("self_attn", "multihead_attn"), 3),
    ):
        for i in range(2):
            layer = f"{tower}.{stack}.layers.{i}"
            for name in attentions:
                shapes |= {f"{layer}.{name}.in_proj_weight": (3 * d, d), f"{layer}.{name}.in_proj_bias": (3 * d,)}
                shapes |= {f"{layer}.{name}.out_proj.weight": (d, d), f"{layer}.{name}.out_proj.bias": (d,)}
            shapes |= {f"{layer}.linear1.weight": (ff, d), f"{layer}.linear1.bias": (ff,)}
            shapes |= {f"{layer}.linear2.weight": (d, ff), f"{layer}.linear2.bias": (d,)}
            for n in range(1, norms + 1):
                shapes |= {f"{layer}.norm{n}.weight": (d,), f"{layer}.norm{n}.bias": (d,)}
    return shapes


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    return {key: rng.normal(size=shape).astype(np.float32) for key, shape in released_shapes().items()}


@pytest.fixture(scope="module")
def shapes():
    return jax.eval_shape(lambda: released.init(CONFIG))


def load(tensors, shapes, source="checkpoint"):
    return tables.read(list(released.entries(CONFIG.model.layers)), tables.shapes_of(shapes), tensors, source)[0]


def test_every_leaf_is_filled_and_goes_back_bit_for_bit(tensors, shapes):
    params = load(tensors, shapes)
    assert {n: x.shape for n, x in flatten(params).items()} == {n: x.shape for n, x in flatten(shapes).items()}
    back = released.to_tensors(params)
    assert back.keys() == tensors.keys()
    for key, value in tensors.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


def test_layouts(tensors, shapes):
    params = load(tensors, shapes)
    layer = params["motion_decoder"]["transformer"]["layer_1"]
    theirs = {k.removeprefix("motion_decoder.seqTransDecoder.layers.1."): v for k, v in tensors.items()}
    assert layer["ffn"]["up"]["kernel"][3, 7] == theirs["linear1.weight"][7, 3]
    assert layer["norm3"]["scale"][2] == theirs["norm3.weight"][2]
    for ours, name in (("self_attention", "self_attn"), ("cross_attention", "multihead_attn")):
        for block, part in enumerate(("query", "key", "value")):
            # Input 5 to head 1, dimension 2 (of 4): row 8 * block + 4 * 1 + 2.
            assert layer[ours][part]["kernel"][5, 1, 2] == theirs[f"{name}.in_proj_weight"][8 * block + 6, 5]
            assert layer[ours][part]["bias"][1, 2] == theirs[f"{name}.in_proj_bias"][8 * block + 6]
        assert layer[ours]["out"]["kernel"][1, 2, 5] == theirs[f"{name}.out_proj.weight"][5, 6]
    assert params["motion_encoder"]["projection"]["kernel"][4, 1] == tensors["motion_encoder.projection.weight"][1, 4]


def test_each_misfit_is_named(tensors, shapes):
    broken = dict(tensors)
    broken["motion_encoder.surprise"] = np.ones(1, np.float32)
    broken["optimizer.step"] = np.ones(1, np.float32)
    del broken["text_encoder.tokens"]
    broken["motion_decoder.final_layer.weight"] = np.ones((7, 8), np.float32)
    with pytest.raises(VtjaxError) as error:
        load(broken, shapes, source="best_model_mt.pt")
    message = str(error.value)
    assert "best_model_mt.pt" in message
    assert "1 missing, 2 unused, 1 mis-shaped" in message
    for part in ("text_encoder.tokens", "motion_encoder.surprise", "optimizer.step"):
        assert part in message
    assert "motion_decoder.final_layer.weight: expected (5, 8), found (7, 8)" in message


def test_attention_of_another_shape_and_foreign_leaves_are_refused(tensors, shapes):
    key = "text_encoder.seqTransEncoder.layers.0.self_attn.in_proj_weight"
    with pytest.raises(VtjaxError, match=f"{key}: expected \\(24, 8\\), found \\(20, 8\\)"):
        load({**tensors, key: np.zeros((20, 8), np.float32)}, shapes)
    for tree in ({"text_head": {"norm": {"scale": np.ones(2)}}}, {"motion_encoder": {"gate": np.ones(2)}}):
        with pytest.raises(VtjaxError, match="has no place in a released TMR checkpoint"):
            released.to_tensors(tree)
