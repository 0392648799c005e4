"""TAN's released file: prefixes and spellings, the teacher's copy named, both ways bit for bit."""

import jax
import numpy as np
import pytest
from converting import same, torch_file

from vtjax.nn.temporal_aligner import AlignerConfig, TemporalAligner
from vtjax.training.checkpoint import load_params
from vtjax.trees import flatten
from vtjax.weights import tan
from vtjax.weights.safetensors_io import SafetensorsReader, write_safetensors

D, F, V = 16, 10, 30  # width, video features, words


def released(layers=2, words="lang_model"):
    """mptva.md section 10, written out for a small model: names and shapes of one TemporalAligner."""
    shapes = {"temporal_pos_embed": (14, D), "text_temporal_pos_embed": (14, D)}
    shapes |= {f"{words}.word_embd.weight": (V, 6), f"{words}.fc1.weight": (20, 6), f"{words}.fc1.bias": (20,)}
    shapes |= {f"{words}.fc2.weight": (12, 20), f"{words}.fc2.bias": (12,)}
    shapes |= {"video_pre_proj.weight": (D, F), "text_pre_proj.weight": (D, 12)}
    for norm in ("text_init", "video_init", "position_init", "video_post_enc", "joint_post_enc"):
        shapes |= {f"ln_{norm}.weight": (D,), f"ln_{norm}.bias": (D,)}
    for stack in ("video", "joint"):
        for i in range(layers):
            block = f"{stack}_temporal_encoder.resblocks.{i}"
            shapes |= {f"{block}.attn.in_proj_weight": (3 * D, D), f"{block}.attn.in_proj_bias": (3 * D,)}
            shapes |= {f"{block}.attn.out_proj.weight": (D, D), f"{block}.attn.out_proj.bias": (D,)}
            shapes |= {f"{block}.{n}.{leaf}": (D,) for n in ("ln_1", "ln_2") for leaf in ("weight", "bias")}
            shapes |= {f"{block}.mlp.c_fc.weight": (40, D), f"{block}.mlp.c_fc.bias": (40,)}
            shapes |= {f"{block}.mlp.c_proj.weight": (D, 40), f"{block}.mlp.c_proj.bias": (D,)}
    shapes |= {"mlp.weight": (D, D), "mlp.bias": (D,), "binary_head.weight": (1, D), "binary_head.bias": (1,)}
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("words", ["lang_model", "bert"])
@pytest.mark.parametrize("module", ["", "module."])
def test_released_file_there_and_back(convert, tmp_path, words, module):
    own = released(words=words)
    held = {f"{module}online.{n}": x for n, x in own.items()} | {f"{module}target.{n}": x + 1 for n, x in own.items()}
    held |= {f"{module}{n}": x for n, x in own.items() if n.startswith(words)}
    torch_file(tmp_path / "tan.pth.tar", held)
    status, printed = convert(f"--from={tmp_path / 'tan.pth.tar'}", f"--to={tmp_path / 'ours'}")
    used = {n: x for n, x in held.items() if "online." in n and "online.mlp." not in n}
    assert status == 0 and printed.startswith("tan from"), printed
    assert f"{len(used)} tensors matched, 0 missing, 0 unused, 0 mis-shaped" in printed
    assert f"left out, {tan.TEACHER}: {module}target.temporal_pos_embed" in printed
    assert f"left out, {tan.ALIAS}: {module}{words}.word_embd.weight" in printed
    assert f"left out, {tan.UNUSED}: {module}online.mlp.weight, {module}online.mlp.bias" in printed
    params = load_params(tmp_path / "ours" / "checkpoints")
    np.testing.assert_array_equal(
        params["joint_encoder"]["layer_1"]["attention"]["key"]["kernel"],
        own["joint_temporal_encoder.resblocks.1.attn.in_proj_weight"][D : 2 * D].T.reshape(D, 8, 2),
    )
    assert convert(f"--from={tmp_path / 'ours'}", f"--to={tmp_path / 'back'}", "--reverse")[0] == 0
    same(dict(SafetensorsReader(tmp_path / "back")), used)


def test_what_does_not_fit_is_named(convert, tmp_path):
    tensors = released()
    lost = tensors.pop("ln_video_init.bias")
    tensors["surprise"] = lost
    tensors["text_pre_proj.weight"] = np.ones((D, 11), np.float32)
    write_safetensors(tmp_path / "a.safetensors", tensors)
    ours = f"--to={tmp_path / 'ours'}"
    status, printed = convert(f"--from={tmp_path / 'a.safetensors'}", ours)
    assert status == 2 and "1 missing, 1 unused, 1 mis-shaped" in printed, printed
    assert "ln_video_init.bias" in printed and "text_pre_proj.weight: expected (16, 12), found (16, 11)" in printed
    tensors["text_pre_proj.weight"] = np.ones((D, 12), np.float32)
    write_safetensors(tmp_path / "a.safetensors", tensors)
    allow = ["--allow_unused=surprise", "--allow_missing=video_norm/bias"]
    status, printed = convert(f"--from={tmp_path / 'a.safetensors'}", ours, *allow)
    assert status == 0, printed
    assert not load_params(tmp_path / "ours" / "checkpoints")["video_norm"]["bias"].any()
    del tensors["video_pre_proj.weight"]
    write_safetensors(tmp_path / "b.safetensors", tensors)
    status, printed = convert(f"--from={tmp_path / 'b.safetensors'}", f"--to={tmp_path / 'b'}")
    assert status == 2 and "no tensor 'video_pre_proj.weight'" in printed, printed


def test_every_parameter_has_a_name_and_a_students_too():
    for config in (AlignerConfig(words=V), AlignerConfig(words=V, width=16, text_layers=2, joint_from="encoded")):
        ours = flatten(jax.eval_shape(lambda c=config: tan.init(c)))
        mapped = [name for entry in tan.entries(config) for name in entry.ours]
        assert sorted(mapped) == sorted(ours)


def test_padding_and_order_of_sentences_change_nothing():
    config = AlignerConfig(F, V, 6, 20, 12, 16, 4, 40, 1, 1, 1, 14, "encoded")
    rng = np.random.default_rng(0)
    features = rng.standard_normal((1, 9, F)).astype(np.float32)
    ids = rng.integers(1, V, (1, 3, 4)).astype(np.int32)
    model = TemporalAligner(config)
    params = jax.jit(model.init)(jax.random.key(0), features, ids)["params"]
    apply = jax.jit(model.apply)
    plain = apply({"params": params}, features, ids)
    wide = apply(
        {"params": params},
        np.pad(features, ((0, 0), (0, 3), (0, 0)), constant_values=7.0),
        np.pad(ids, ((0, 0), (0, 2), (0, 0)), constant_values=5),
        np.arange(12)[None] < 9,
        np.arange(5)[None] < 3,
    )
    np.testing.assert_allclose(wide.joint_text[:, :, :3], plain.joint_text, atol=1e-5)
    np.testing.assert_allclose(wide.video[:, :, :9], plain.video, atol=1e-5)
    turned = apply({"params": params}, features, ids[:, ::-1])
    np.testing.assert_allclose(turned.joint_text[:, :, ::-1], plain.joint_text, atol=1e-5)
