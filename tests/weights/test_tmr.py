"""TMR's key map: layouts element by element, every tensor accounted for (numbers against torch: tests/parity)."""

import jax
import numpy as np
import pytest

from vtjax.errors import VtjaxError
from vtjax.methods.car.config import CarConfig, CarModelConfig, CarTextConfig
from vtjax.methods.car.task import CarObjective
from vtjax.trees import flatten
from vtjax.weights import tmr

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
    spec = {name: jax.ShapeDtypeStruct((2, *s.shape), s.dtype) for name, s in CarObjective(CONFIG).example_spec().items()}
    return jax.eval_shape(lambda batch: CarObjective(CONFIG).init(jax.random.key(0), batch), spec)


def test_every_leaf_is_filled_and_goes_back_bit_for_bit(tensors, shapes):
    params = tmr.load(tensors, shapes)
    assert {n: x.shape for n, x in flatten(params).items()} == {n: x.shape for n, x in flatten(shapes).items()}
    back = tmr.to_tensors(params)
    assert back.keys() == tensors.keys()
    for key, value in tensors.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


def test_layouts(tensors, shapes):
    params = tmr.load(tensors, shapes)
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


def test_files_of_tmr_join_under_their_names(tensors):
    files: dict = {}
    for key, value in tensors.items():
        tower, _, rest = key.partition(".")
        files.setdefault(tower, {})[rest] = value
    assert tmr.join_files(files).keys() == tensors.keys()
    with pytest.raises(VtjaxError, match="decoder: not a part of TMR"):
        tmr.join_files({"decoder": {}})


def test_car_carries_its_language_model_beside_the_towers(tensors, shapes):
    extra = {"text_model.text_model.embeddings.LayerNorm.weight": np.ones(3, np.float32)}
    assert tmr.language_model_tensors(tensors | extra).keys() == {"embeddings.LayerNorm.weight"}
    assert tmr.language_model_tensors(tensors) == {}
    tree = {**shapes, "language_model": {"kept": np.zeros(1)}}
    assert tmr.load(tensors | extra, tree)["language_model"] is tree["language_model"]


def test_each_misfit_is_named(tensors, shapes):
    broken = dict(tensors)
    broken["motion_encoder.surprise"] = np.ones(1, np.float32)
    broken["optimizer.step"] = np.ones(1, np.float32)
    del broken["text_encoder.tokens"]
    broken["motion_decoder.final_layer.weight"] = np.ones((7, 8), np.float32)
    with pytest.raises(VtjaxError) as error:
        tmr.load(broken, shapes, source="best_model_mt.pt")
    message = str(error.value)
    assert "best_model_mt.pt" in message
    assert "1 missing, 2 unused, 1 mis-shaped" in message
    for part in ("text_encoder/tokens", "motion_encoder.surprise", "optimizer.step"):
        assert part in message
    assert "motion_decoder/final/kernel: expected (8, 5), found (8, 7)" in message


def test_attention_of_another_shape_and_foreign_leaves_are_refused(tensors, shapes):
    key = "text_encoder.seqTransEncoder.layers.0.self_attn.in_proj_weight"
    with pytest.raises(VtjaxError, match=f"{key}: shape \\(20, 8\\)"):
        tmr.load({**tensors, key: np.zeros((20, 8), np.float32)}, shapes)
    for tree in ({"text_head": {"norm": {"scale": np.ones(2)}}}, {"motion_encoder": {"gate": np.ones(2)}}):
        with pytest.raises(VtjaxError, match="has no place in a released TMR checkpoint"):
            tmr.to_tensors(tree)
    with pytest.raises(VtjaxError, match="no weights of TMR fit it"):
        tmr.load(tensors, {"other": {}})
