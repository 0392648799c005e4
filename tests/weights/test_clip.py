"""CLIP's key maps, settings and reports without torch. Values are compared with torch in tests/parity."""

import dataclasses
import json
import zipfile

import jax
import numpy as np
import pytest

from vtjax.errors import VtjaxError
from vtjax.nn.clip import Clip, ClipConfig, TextConfig, clip_config
from vtjax.nn.vit import VisionConfig, stack_layers
from vtjax.trees import flatten, unflatten
from vtjax.weights.clip import (
    entries,
    expected_shapes,
    from_published,
    load_clip,
    published_names,
    save_clip_hf,
    to_published,
)
from vtjax.weights.clip_settings import config_from_hf, config_from_open_clip, config_from_tensors, config_to_hf
from vtjax.weights.files import open_weights
from vtjax.weights.safetensors_io import SafetensorsReader, write_safetensors
from vtjax.weights.torchscript import is_torchscript, read_torchscript

CONFIG = ClipConfig(
    10,
    VisionConfig(image_size=12, patch_size=4, width=128, layers=3, heads=2, mlp_width=24),
    TextConfig(vocab_size=30, context_length=9, width=64, layers=2, heads=1, mlp_width=20),
)


def random_params(config=CONFIG):
    rng = np.random.default_rng(0)
    shapes = expected_shapes(config)
    return unflatten({n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()})


@pytest.fixture(scope="module")
def params():
    return random_params()


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_expected_shapes_are_the_modules(params):
    images, ids = np.zeros((1, 12, 12, 3), np.float32), np.zeros((1, 4), np.int32)
    shapes = jax.eval_shape(Clip(CONFIG).init, jax.random.key(0), images, ids)["params"]
    assert expected_shapes(CONFIG) == {n: s.shape for n, s in flatten(shapes).items()}


@pytest.mark.parametrize("layout", ["hf", "openai"])
def test_there_and_back_is_bitwise(params, layout, tmp_path):
    tensors = to_published(CONFIG, params, layout)
    loaded, result = from_published(CONFIG, tensors)
    same(params, loaded)
    assert set(result.matched) == set(tensors) and not result.unused
    same(tensors, to_published(CONFIG, stack_layers(params), layout))
    write_safetensors(tmp_path / "model.safetensors", tensors)
    same(params, from_published(CONFIG, SafetensorsReader(tmp_path))[0])


def test_layouts_hold_the_same_numbers(params):
    hf, openai = to_published(CONFIG, params, "hf"), to_published(CONFIG, params, "openai")
    assert hf["vision_model.embeddings.patch_embedding.weight"].shape == (128, 3, 4, 4)
    for i in range(3):
        fused = openai[f"visual.transformer.resblocks.{i}.attn.in_proj_weight"]
        assert fused.shape == (384, 128)
        prefix = f"vision_model.encoder.layers.{i}.self_attn."
        np.testing.assert_array_equal(fused, np.concatenate([hf[f"{prefix}{n}_proj.weight"] for n in "qkv"]))
        bias = openai[f"visual.transformer.resblocks.{i}.attn.in_proj_bias"]
        np.testing.assert_array_equal(bias, np.concatenate([hf[f"{prefix}{n}_proj.bias"] for n in "qkv"]))
    np.testing.assert_array_equal(openai["visual.proj"], hf["visual_projection.weight"].T)
    np.testing.assert_array_equal(openai["text_projection"], hf["text_projection.weight"].T)
    x = np.random.default_rng(1).standard_normal(64).astype(np.float32)
    up = params["text"]["transformer"]["layer_1"]["ffn"]["up"]["kernel"]
    np.testing.assert_allclose(hf["text_model.encoder.layers.1.mlp.fc1.weight"] @ x, x @ up, rtol=1e-5, atol=1e-5)
    value = params["text"]["transformer"]["layer_0"]["attention"]["out"]["kernel"]
    mixed = np.random.default_rng(2).standard_normal((1, 64)).astype(np.float32)
    np.testing.assert_allclose(
        openai["transformer.resblocks.0.attn.out_proj.weight"] @ mixed.reshape(-1),
        np.einsum("hd,hdw->w", mixed, value),
        rtol=1e-4,
        atol=1e-4,
    )
    kernel = params["vision"]["patch_embedding"]["kernel"]
    assert hf["vision_model.embeddings.patch_embedding.weight"][5, 2, 1, 3] == kernel[1, 3, 2, 5]


def test_prefixes_buffers_and_open_clip_text(params):
    hf = {f"clip.{n}": v for n, v in to_published(CONFIG, params, "hf").items()}
    hf["clip.vision_model.embeddings.position_ids"] = np.arange(10)[None]
    loaded, result = from_published(CONFIG, hf)
    same(params, loaded)
    assert result.unused == ("vision_model.embeddings.position_ids",)
    openai = to_published(CONFIG, params, "openai")
    inside = ("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection")
    custom = {f"module.{'text.' if n.startswith(inside) else ''}{n}": v for n, v in openai.items()}
    custom["module.text.attn_mask"] = np.zeros((9, 9), np.float32)
    assert "module.text.transformer.resblocks.0.ln_1.weight" in custom
    same(params, from_published(CONFIG, custom)[0])


def test_every_misfit_is_named(params):
    tensors = to_published(CONFIG, params, "openai")
    del tensors["ln_final.bias"]
    tensors["visual.transformer.resblocks.3.ln_1.bias"] = np.zeros(128, np.float32)
    tensors["visual.proj"] = tensors["visual.proj"].T  # already turned
    tensors["transformer.resblocks.0.attn.in_proj_weight"] = np.zeros((64, 64), np.float32)
    tensors["logit_bias"] = np.zeros((), np.float32)  # SigLIP's
    with pytest.raises(VtjaxError) as error:
        from_published(CONFIG, tensors, "file.pt")
    text = str(error.value)
    for part in (
        "file.pt does not fit",
        "missing: ln_final.bias",
        "unused: visual.transformer.resblocks.3.ln_1.bias",
        "unused: logit_bias",
        "mis-shaped: visual.proj: expected (128, 10), found (10, 128)",
        "mis-shaped: transformer.resblocks.0.attn.in_proj_weight: expected (192, 64), found (64, 64)",
    ):
        assert part in text, text


def test_parameters_that_do_not_fit_are_not_written(params, tmp_path):
    other = dataclasses.replace(CONFIG, embed_dim=11)
    with pytest.raises(VtjaxError, match="parameters does not fit"):
        save_clip_hf(tmp_path, other, params)
    assert not list(tmp_path.iterdir())
    with pytest.raises(VtjaxError, match="layout 'open_clip'; expected one of hf, openai"):
        to_published(CONFIG, params, "open_clip")


def test_published_names_of_another_model():
    with pytest.raises(VtjaxError, match="not a CLIP with a vision transformer; found encoder.a"):
        published_names({"encoder.a": 0})
    assert len(entries(clip_config("ViT-B/32"), "openai")) == 302  # as in OpenAI's ViT-B-32.pt
    assert len(entries(clip_config("ViT-B/32"), "hf")) == 398  # as in openai/clip-vit-base-patch32


@pytest.mark.parametrize("eot_id, act", [(None, "quick_gelu"), (29, "gelu"), (3, "gelu_tanh")])
def test_hf_settings_round_trip(eot_id, act):
    config = ClipConfig(
        10,
        dataclasses.replace(CONFIG.vision, activation=act, eps=1e-6),
        dataclasses.replace(CONFIG.text, activation="gelu", eot_id=eot_id, attention_dropout=0.1),
    )
    assert config_from_hf(json.loads(json.dumps(config_to_hf(config)))) == config


def test_hf_settings_as_published():
    """Of openai/clip-vit-large-patch14: the towers' sizes stand twice; eos_token_id is from before it was right."""
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
    settings = {
        "model_type": "clip",
        "projection_dim": 768,
        "text_config": {**text, "eos_token_id": 2, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-05},
        "text_config_dict": text,
        "vision_config": {"hidden_act": "quick_gelu", "image_size": 224},
        "vision_config_dict": {**vision, "patch_size": 14},
    }
    assert config_from_hf(settings) == clip_config("ViT-L/14")
    assert config_from_hf(settings | {"text_config": text}).text.eot_id == 49407  # transformers' default


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "siglip"}, "model_type 'siglip'"),
        ({"text_config": {"hidden_act": "swish"}}, "text activation 'swish'"),
        ({"text_config": {"eos_token_id": [1, 2]}}, "expected one id"),
        ({"vision_config": {"num_channels": 4}}, "images of 4 channels"),
        ({"vision_config": {"image_size": 100}}, "not a multiple of"),
    ],
)
def test_hf_settings_that_are_refused(change, message):
    with pytest.raises(VtjaxError, match=message):
        config_from_hf(config_to_hf(CONFIG) | change)


def test_open_clip_settings():
    large = {
        "embed_dim": 768,
        "vision_cfg": {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 768, "heads": 12, "layers": 12},
    }
    assert config_from_open_clip({"model_cfg": large}) == clip_config("ViT-L/14", "gelu")
    assert config_from_open_clip(large | {"quick_gelu": True}) == clip_config("ViT-L/14")
    with pytest.raises(VtjaxError, match="timm_model_name='vit_base': not the architecture"):
        config_from_open_clip(large | {"vision_cfg": {"timm_model_name": "vit_base"}})
    with pytest.raises(VtjaxError, match="not a model of open_clip"):
        config_from_open_clip({"model_cfg": {"embed_dim": 3}})


def test_sizes_from_shapes(params):
    shapes = {n: v.shape for n, v in to_published(CONFIG, params, "openai").items()}
    assert config_from_tensors(shapes, activation="quick_gelu") == CONFIG
    assert config_from_tensors(shapes | {"input_resolution": ()}) == CONFIG
    with pytest.raises(VtjaxError, match="give activation='gelu'"):
        config_from_tensors(shapes)
    del shapes["positional_embedding"]
    with pytest.raises(VtjaxError, match="sizes cannot be read from its tensors"):
        config_from_tensors(shapes, activation="gelu")


def test_folders_and_files(params, tmp_path):
    save_clip_hf(tmp_path / "hf", CONFIG, params)
    config, loaded = load_clip(tmp_path / "hf")
    assert config == CONFIG
    same(params, loaded)
    assert load_clip(tmp_path / "hf" / "model.safetensors", activation="gelu")[0].text.activation == "gelu"
    write_safetensors(tmp_path / "open.safetensors", to_published(CONFIG, params, "openai"))
    config, loaded = load_clip(tmp_path / "open.safetensors", activation="quick_gelu")
    assert config == CONFIG
    same(params, loaded)
    (tmp_path / "hf" / "config.json").unlink()
    with pytest.raises(VtjaxError, match="no config.json beside it"):
        load_clip(tmp_path / "hf")
    (tmp_path / "none").mkdir()
    with pytest.raises(VtjaxError, match="expected model.safetensors or pytorch_model.bin"):
        load_clip(tmp_path / "none")


def test_half_precision_is_widened(params, tmp_path):
    half = {n: v.astype(np.float16) for n, v in to_published(CONFIG, params, "openai").items()}
    write_safetensors(tmp_path / "half.safetensors", half)
    _, loaded = load_clip(tmp_path / "half.safetensors", activation="quick_gelu")
    kernel = loaded["vision"]["projection"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, half["visual.proj"].astype(np.float32))


def write_script(path, pickle_bytes):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", pickle_bytes)
        archive.writestr("m/constants.pkl", b"\x80\x02).")


def test_torchscript_that_asks_for_more_is_refused(tmp_path):
    path = tmp_path / "bad.pt"
    write_script(path, b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00ls\x85R.")
    assert is_torchscript(path)
    with pytest.raises(VtjaxError, match="refused, the file asks for 'posix.system'"):
        open_weights(path)
    write_script(path, b"\x80\x02c__torch__.posix\nsystem\n)\x81}b.")  # a module's class: an empty dictionary
    with pytest.raises(VtjaxError, match="without tensors"):
        read_torchscript(path)
    write_script(path, b"\x80\x02c__torch__.M\nN\n)\x81")
    with pytest.raises(VtjaxError, match="truncated or damaged"):
        read_torchscript(path)
    path.write_bytes(b"not a zip")
    with pytest.raises(VtjaxError, match="not a TorchScript archive"):
        read_torchscript(path)
