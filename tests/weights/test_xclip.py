"""X-CLIP's released layout: names as alt.md section 9.3 lists them, both ways, and what does not fit. (Numbers against
transformers: tests/parity.)"""

import dataclasses

import jax
import numpy as np
import pytest
from converting import same, torch_file

from vtjax.errors import VtjaxError
from vtjax.nn.clip import TextConfig
from vtjax.nn.vit import VisionConfig
from vtjax.nn.xclip import XClip, XClipConfig
from vtjax.training.checkpoint import load_params
from vtjax.trees import flatten
from vtjax.weights import tables, xclip
from vtjax.weights.safetensors_io import SafetensorsReader, write_safetensors

CONFIG = XClipConfig(
    64,
    VisionConfig(image_size=8, patch_size=4, width=128, layers=2, heads=2, mlp_width=12),
    TextConfig(vocab_size=30, context_length=9, width=64, layers=1, heads=1, mlp_width=20),
    frames=3,
    integration_heads=1,
    integration_mlp_width=24,
)


def released_shapes():
    """alt.md sections 9.2 and 9.3, written out for CONFIG."""
    w, d, t = 128, 64, 64
    shapes = {
        "visual.conv1.weight": (w, 3, 4, 4), "visual.class_embedding": (w,), "visual.positional_embedding": (5, w),
        "visual.proj": (w, d), "token_embedding.weight": (30, t), "positional_embedding": (9, t),
        "text_projection": (t, d), "logit_scale": (), "mit.positional_embedding": (1, 3, d),
        "prompts_generator.alpha": (d,), "prompts_visual_proj": (w, d),
    }  # fmt: skip
    norms = {"visual.ln_pre": w, "visual.ln_post": w, "ln_final": t}
    norms |= {"prompts_generator.norm": d, "prompts_visual_ln": w}
    linear, attention = {}, {}
    stacks = (("visual.transformer", w, 12, 2), ("transformer", t, 20, 1), ("mit", d, 24, 1))
    for stack, width, hidden, layers in stacks:
        for i in range(layers):
            block = f"{stack}.resblocks.{i}"
            attention[f"{block}.attn"] = width
            norms |= {f"{block}.ln_1": width, f"{block}.ln_2": width}
            linear |= {f"{block}.mlp.c_fc": (hidden, width), f"{block}.mlp.c_proj": (width, hidden)}
            if stack == "visual.transformer":
                attention[f"{block}.message_attn"] = width
                norms[f"{block}.message_ln"] = width
                linear[f"{block}.message_fc"] = (width, width)
    for i in range(2):
        block = f"prompts_generator.decoder.{i}"
        norms |= {f"{block}.norm1": d, f"{block}.norm3": d}
        shapes |= {f"{block}.cross_attn.{n}_proj.weight": (d, d) for n in "qkv"}
        linear |= {f"{block}.cross_attn.proj": (d, d), f"{block}.mlp.0": (4 * d, d), f"{block}.mlp.3": (d, 4 * d)}
    for name, width in attention.items():
        shapes |= {f"{name}.in_proj_weight": (3 * width, width), f"{name}.in_proj_bias": (3 * width,)}
        linear[f"{name}.out_proj"] = (width, width)
    shapes |= {f"{n}.{leaf}": (width,) for n, width in norms.items() for leaf in ("weight", "bias")}
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


@pytest.fixture(scope="module")
def tensors():
    rng = np.random.default_rng(0)
    return {n: np.asarray(rng.standard_normal(s), np.float32) for n, s in released_shapes().items()}


def test_released_file_there_and_back(convert, tmp_path, tensors):
    held = {f"module.{n}": x for n, x in tensors.items()} | {"module.attn_mask": np.zeros((9, 9), np.float32)}
    torch_file(tmp_path / "k400_16_8.pth", held)
    status, printed = convert(f"--from={tmp_path / 'k400_16_8.pth'}", f"--to={tmp_path / 'ours'}")
    assert status == 0 and printed.startswith("xclip from"), printed
    assert f"{len(tensors)} tensors matched, 0 missing, 0 unused" in printed
    assert f"left out, {xclip.BUFFER}: module.attn_mask" in printed
    params = load_params(tmp_path / "ours" / "checkpoints")
    packed = tensors["visual.transformer.resblocks.1.message_attn.in_proj_weight"]
    np.testing.assert_array_equal(
        params["vision"]["transformer"]["layer_1"]["message_attention"]["value"]["kernel"],
        packed[256:].T.reshape(128, 2, 64),
    )
    assert convert(f"--from={tmp_path / 'ours'}", f"--to={tmp_path / 'back'}", "--reverse")[0] == 0
    same(dict(SafetensorsReader(tmp_path / "back")), {f"module.{n}": x for n, x in tensors.items()})


def test_sizes_are_read_from_the_tensors_and_both_layouts_name_every_parameter():
    found = xclip.config_from_tensors(released_shapes())
    assert dataclasses.replace(found, prompt_heads=CONFIG.prompt_heads) == CONFIG and found.prompt_heads == 8
    ours = flatten(jax.eval_shape(lambda: xclip.init(CONFIG)))
    for layout in xclip.LAYOUTS:
        assert sorted(n for e in xclip.entries(CONFIG, layout) for n in e.ours) == sorted(ours)
    settings = xclip.config_to_hf(CONFIG, 4.6)
    assert xclip.config_from_hf(settings) == CONFIG


def test_one_layout_becomes_the_other(tensors):
    shapes = tables.shapes_of(jax.eval_shape(lambda: xclip.init(CONFIG)))
    params, _ = tables.read(list(xclip.entries(CONFIG, "released")), shapes, tensors)
    hf = tables.write(list(xclip.entries(CONFIG, "hf")), shapes, params)
    assert hf["prompts_visual_projection"].shape == (128, 64) and hf["visual_projection.weight"].shape == (64, 128)
    same(tables.read(list(xclip.entries(CONFIG, "hf")), shapes, hf)[0], params)


def test_what_does_not_fit_is_named(convert, tmp_path, tensors):
    held = {n: x for n, x in tensors.items() if n != "mit.resblocks.0.ln_1.bias"} | {"surprise": tensors["logit_scale"]}
    write_safetensors(tmp_path / "a.safetensors", held)
    status, printed = convert(f"--from={tmp_path / 'a.safetensors'}", f"--to={tmp_path / 'ours'}")
    assert status == 2 and "1 missing, 1 unused" in printed and "mit.resblocks.0.ln_1.bias" in printed, printed
    with pytest.raises(VtjaxError, match="not an X-CLIP"):
        xclip.published_names(["visual.conv1.weight"])
    with pytest.raises(VtjaxError, match=r"videos .*; expected \[B, 3, 8, 8, 3\]"):
        XClip(CONFIG).init(jax.random.key(0), np.zeros((1, 2, 8, 8, 3)), np.zeros((1, 2), np.int32))
