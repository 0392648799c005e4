"""X-CLIP against transformers' torch model with random weights, through a folder in its layout and back."""

import json

import jax
import numpy as np
import pytest

from vtjax.nn.xclip import XClip
from vtjax.training.checkpoint import load_params
from vtjax.weights.safetensors_io import SafetensorsReader

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)


def tiny(seed=0):
    torch.manual_seed(seed)
    vision = dict(
        hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=3, image_size=24, patch_size=8,
        mit_hidden_size=32, mit_intermediate_size=40, mit_num_hidden_layers=2, mit_num_attention_heads=4, num_frames=3,
    )  # fmt: skip
    text = dict(
        vocab_size=60, hidden_size=24, intermediate_size=56, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=12,
    )  # fmt: skip
    config = transformers.XCLIPConfig(
        text_config=text, vision_config=vision, projection_dim=32, prompt_layers=2, prompt_num_attention_heads=4
    )
    model = transformers.XCLIPModel(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.3 * torch.randn_like(p) + (1.0 if p.ndim == 1 else 0.0))
        model.logit_scale.fill_(1.3)
    return model


def test_logits_and_features_and_the_way_back(convert, tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path / "hf")
    status, printed = convert(f"--from={tmp_path / 'hf'}", f"--to={tmp_path / 'ours'}")
    assert status == 0 and printed.startswith("xclip from") and "0 missing, 0 unused, 0 mis-shaped" in printed, printed
    from vtjax.config import from_dict
    from vtjax.nn.xclip import XClipConfig

    described = json.loads((tmp_path / "ours" / "config.json").read_text())["config"]
    config = from_dict(XClipConfig, described["model"])
    params = load_params(tmp_path / "ours" / "checkpoints")
    rng = np.random.default_rng(1)
    videos = rng.standard_normal((2, 3, 24, 24, 3)).astype(np.float32)
    ids = rng.integers(1, 58, (4, 9)).astype(np.int32)
    ids[:, 5] = 59
    ids[:, 6:] = 0
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(ids).long(),
            pixel_values=torch.tensor(videos.transpose(0, 1, 4, 2, 3)),
            attention_mask=torch.ones(4, 9).long(),
        )
    apply = jax.jit(XClip(config).apply)
    ours = apply({"params": params}, videos, ids)
    unit = lambda x: np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True)
    np.testing.assert_allclose(unit(ours.video), out.video_embeds.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(unit(ours.text), out.text_embeds.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.logits, out.logits_per_video.numpy(), rtol=1e-4, atol=1e-5)
    # A frame's message reaches the others: with one frame changed all frames' embeddings change.
    other = videos.copy()
    other[:, 2] = 0
    moved = np.abs(np.asarray(apply({"params": params}, other, ids).frames - ours.frames)).max(-1)
    assert (moved > 1e-3).all()

    assert convert(f"--from={tmp_path / 'ours'}", f"--to={tmp_path / 'back'}", "--reverse")[0] == 0
    before, after = SafetensorsReader(tmp_path / "hf"), SafetensorsReader(tmp_path / "back")
    assert set(before) == set(after)
    assert all(before[n].tobytes() == after[n].tobytes() and before.shape(n) == after.shape(n) for n in before)
    again = transformers.XCLIPModel.from_pretrained(tmp_path / "back").eval()
    with torch.no_grad():
        same = again(
            input_ids=torch.tensor(ids).long(),
            pixel_values=torch.tensor(videos.transpose(0, 1, 4, 2, 3)),
            attention_mask=torch.ones(4, 9).long(),
        )
    assert torch.equal(same.logits_per_video, out.logits_per_video)
