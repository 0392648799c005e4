"""OV-OAD's released names, both ways, and what does not fit. (Numbers: tests/parity/test_ovoad.py.)"""

import jax
import numpy as np
import pytest
from converting import same, torch_file

from vtjax.errors import VtjaxError
from vtjax.methods.ovoad import released as ovoad
from vtjax.methods.ovoad.config import OvoadModelConfig
from vtjax.training.checkpoint import load_params
from vtjax.weights import tables
from vtjax.weights.safetensors_io import SafetensorsReader, write_safetensors

W, T = 64, 64  # widths of the visual and of the text transformer


def linear(name, out, inputs):
    return {f"{name}.weight": (out, inputs), f"{name}.bias": (out,)}


def norm(name, width=W):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def block(name):
    found = norm(f"{name}.norm1") | norm(f"{name}.norm2")
    found |= linear(f"{name}.attn.qkv", 3 * W, W) | linear(f"{name}.attn.proj", W, W)
    return found | linear(f"{name}.mlp.fc1", 4 * W, W) | linear(f"{name}.mlp.fc2", W, 4 * W)


def cross(name):
    found = norm(f"{name}.norm2") | norm(f"{name}.norm_post")
    for part in ("q_proj", "k_proj", "v_proj", "proj"):
        found |= linear(f"{name}.attn.{part}", W, W)
    return found | linear(f"{name}.mlp.fc1", 4 * W, W) | linear(f"{name}.mlp.fc2", W, 4 * W)


def grouping(name, tokens, groups):
    found = {}
    for part in ("norm_tokens", "norm_post_tokens", "norm_x", "norm_new_x"):
        found |= norm(f"{name}.{part}")
    found |= linear(f"{name}.mlp_inter.fc1", W // 2, tokens) | linear(f"{name}.mlp_inter.fc2", groups, W // 2)
    found |= cross(f"{name}.pre_assign_attn")
    for part in ("q_proj", "k_proj", "v_proj", "proj"):
        found |= linear(f"{name}.assign.{part}", W, W)
    return found | linear(f"{name}.mlp_channels.fc1", 4 * W, W) | linear(f"{name}.mlp_channels.fc2", W, 4 * W)


def text(layers=2, adapter=0):
    found = {"text_encoder.token_embedding.weight": (30, T), "text_encoder.positional_embedding": (9, T)}
    found |= norm("text_encoder.ln_final", T)
    for i in range(layers):
        name = f"text_encoder.transformer.resblocks.{i}"
        found |= {f"{name}.attn.in_proj_weight": (3 * T, T), f"{name}.attn.in_proj_bias": (3 * T,)}
        found |= linear(f"{name}.attn.out_proj", T, T) | norm(f"{name}.ln_1", T) | norm(f"{name}.ln_2", T)
        found |= linear(f"{name}.mlp.c_fc", 80, T) | linear(f"{name}.mlp.c_proj", T, 80)
        if adapter:
            found |= linear(f"{name}.adaptmlp.down_proj", adapter, T) | linear(f"{name}.adaptmlp.up_proj", T, adapter)
    return found


def released_ovoad():
    shapes = {"img_encoder.pos_embed": (1, 12, W), "img_encoder.layers.1.group_token": (1, 4, W)}
    for stage, depth in enumerate((2, 3, 1)):
        for i in range(depth):
            shapes |= block(f"img_encoder.layers.{stage}.blocks.{i}")
    shapes |= cross("img_encoder.layers.0.long_short_xattn")
    shapes |= grouping("img_encoder.layers.1.downsample", 4, 2) | norm("img_encoder.norm")
    for side, width in (("img", W), ("text", T)):
        shapes |= linear(f"{side}_projector.linear_hidden.0", 48, width) | norm(f"{side}_projector.linear_hidden.1", 48)
        shapes |= linear(f"{side}_projector.linear_out", 10, 48)
    shapes |= text(adapter=5) | {"text_encoder.text_projection": (T, 24), "saliency_projector": (W, T)}
    return random(shapes | {"logit_scale": (), "multi_label_logit_scale": ()})


def random(shapes):
    rng = np.random.default_rng(0)
    return {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_ovoad_there_and_back(convert, tmp_path, prefix):
    own = released_ovoad()
    copy = {"img_encoder.vision_backbone.conv1.weight": np.ones((2, 3, 4, 4), np.float32)}
    torch_file(tmp_path / "best_map.pth", {prefix + n: x for n, x in (own | copy).items()})
    status, printed = convert(f"--from={tmp_path / 'best_map.pth'}", f"--to={tmp_path / 'ours'}")
    assert status == 0 and printed.startswith("ovoad from"), printed
    assert f"{len(own)} tensors matched, 0 missing, 0 unused, 0 mis-shaped" in printed
    assert f"left out, {ovoad.VISION}: {prefix}img_encoder.vision_backbone.conv1.weight" in printed
    params = load_params(tmp_path / "ours" / "checkpoints")
    packed = own["img_encoder.layers.1.blocks.2.attn.qkv.weight"]
    kernel = params["visual"]["cluster_2"]["attention"]["value"]["kernel"]
    np.testing.assert_array_equal(kernel, packed[2 * W :].T.reshape(W, 8, W // 8))
    np.testing.assert_array_equal(params["current_projection"]["kernel"], own["saliency_projector"])
    down = params["text"]["transformer"]["layer_1"]["parallel_adapter"]["down"]["kernel"]
    np.testing.assert_array_equal(down, own["text_encoder.transformer.resblocks.1.adaptmlp.down_proj.weight"].T)
    assert convert(f"--from={tmp_path / 'ours'}", f"--to={tmp_path / 'back'}", "--reverse")[0] == 0
    same(dict(SafetensorsReader(tmp_path / "back")), {prefix + n: x for n, x in own.items()})


def test_ovoads_sizes_and_names():
    """Sizes come from the tensors; at the published ones every parameter has one name, and the sheet's counts hold."""
    method, sizes = ovoad.config_from_tensors({n: x.shape for n, x in released_ovoad().items()})
    expected = OvoadModelConfig(width=W, past=4, near=8, dntr="encoder_xattn", dntr_layers=2, cluster_layers=3,
                                group_layers=1, groups=4, out_groups=2, project_hidden=48, joint_width=10)  # fmt: skip
    assert method.model == expected
    assert (method.text.adapter, method.text.current_space, sizes.embed_dim) == (5, "eot", 24)
    assert (sizes.text.width, sizes.text.layers, sizes.text.vocab_size) == (T, 2, 30)
    for variant in (method, ovoad.OvoadConfig(model=OvoadModelConfig(dntr="encoder_xattn"))):
        sizes = sizes if variant.model.width == W else ovoad.ClipConfig()
        ours = tables.shapes_of(jax.eval_shape(lambda v=variant, s=sizes: ovoad.init(v, s)))
        assert sorted(n for e in ovoad.entries(variant, sizes) for n in e.ours) == sorted(ours)
    counts = {n: int(np.prod(s)) for n, s in ours.items()}
    of = lambda prefix: sum(x for n, x in counts.items() if n.startswith(prefix))
    assert of("visual/") == 106_357_634 and of("visual/unit/") == 14_183_042
    assert (of("visual_projector/"), of("text_projector/")) == (4_206_848, 3_158_272)
    assert of("current_projection/") == 393_216
    assert sum(x for n, x in counts.items() if "parallel_adapter" in n) == 793_344


def test_variants_without_released_names_and_misfits(convert, tmp_path):
    for changes in ({"dntr": "decoder"}, {"dntr": "encoder", "unit": "slot"}):
        with pytest.raises(VtjaxError, match="no names were released for an OV-OAD with"):
            list(ovoad.entries(ovoad.OvoadConfig(model=OvoadModelConfig(**changes)), ovoad.ClipConfig()))
    own = released_ovoad()
    lost = own.pop("img_encoder.norm.bias")
    extra = "img_encoder.layers.0.blocks.0.adaptmlp.down_proj.bias"
    write_safetensors(tmp_path / "a.safetensors", own | {extra: lost})
    status, printed = convert(f"--from={tmp_path / 'a.safetensors'}", f"--to={tmp_path / 'ours'}")
    assert status == 2 and "1 missing, 1 unused" in printed and extra in printed, printed


def test_a_trained_run_goes_back_to_the_released_names(convert, tmp_path):
    from vtjax.config import Experiment, save_experiment
    from vtjax.encoders.clip_config import ClipConfig, ClipModelConfig, TextSizes
    from vtjax.weights import store
    from vtjax.weights.source import Source

    own = released_ovoad()
    write_safetensors(tmp_path / "a.safetensors", own)
    assert convert(f"--from={tmp_path / 'a.safetensors'}", f"--to={tmp_path / 'ours'}")[0] == 0
    _, config, params = store.read(tmp_path / "ours")
    method = ovoad.config_from_tensors({n: x.shape for n, x in own.items()})[0]
    sizes = ClipModelConfig(embed_dim=24, text=TextSizes(width=T, layers=2, heads=1, mlp_width=80), temporal="mean")
    sizes.vision.width = W
    method.encoder.clip = ClipConfig(model=sizes)
    method.encoder.clip.text.vocab_size, method.encoder.clip.text.max_tokens = 30, 9
    store.write(tmp_path / "run" / "train", "ovoad", {}, params, Source(tmp_path / "a.safetensors"))
    save_experiment(Experiment("ovoad", method), tmp_path / "run" / "config.json")
    status, printed = convert(f"--from={tmp_path / 'run'}", f"--to={tmp_path / 'back'}", "--reverse")
    assert status == 0 and printed.startswith("ovoad from"), printed
    same(dict(SafetensorsReader(tmp_path / "back")), own)
