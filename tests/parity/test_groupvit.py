"""GroupViT against transformers' torch model with random weights, through a folder in its layout and back."""

import json

import jax
import numpy as np
import pytest

from vtjax.config import from_dict
from vtjax.nn.groupvit import GroupVit, GroupVitConfig
from vtjax.training.checkpoint import load_params
from vtjax.weights.safetensors_io import SafetensorsReader

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)


def tiny(seed=0):
    torch.manual_seed(seed)
    vision = dict(
        hidden_size=24, intermediate_size=96, num_hidden_layers=4, depths=[2, 1, 1], num_group_tokens=[6, 3, 0],
        num_output_groups=[6, 3, 3], num_attention_heads=2, image_size=24, patch_size=6,
    )  # fmt: skip
    text = dict(
        vocab_size=60, hidden_size=16, intermediate_size=28, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=12, eos_token_id=59,
    )  # fmt: skip
    config = transformers.GroupViTConfig(
        text_config=text, vision_config=vision, projection_dim=10, projection_intermediate_dim=32
    )
    model = transformers.GroupViTModel(config).eval()
    with torch.no_grad():
        for name, p in [*model.named_parameters(), *model.named_buffers()]:
            if p.dtype == torch.float32:
                p.copy_(0.4 * torch.randn_like(p) + (1.0 if p.ndim == 1 else 0.0))
            if "running_var" in name:
                p.copy_(p.abs() + 0.5)
        model.logit_scale.fill_(1.3)
    return model


def test_embeddings_groupings_and_the_way_back(convert, tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path / "hf")
    status, printed = convert(f"--from={tmp_path / 'hf'}", f"--to={tmp_path / 'ours'}")
    assert status == 0 and "groupvit from" in printed and "0 missing, 0 unused, 0 mis-shaped" in printed, printed
    assert "left out, a counter of batch normalisation" in printed
    config = from_dict(GroupVitConfig, json.loads((tmp_path / "ours" / "config.json").read_text())["config"]["model"])
    params = load_params(tmp_path / "ours" / "checkpoints")
    rng = np.random.default_rng(1)
    images = rng.standard_normal((2, 24, 24, 3)).astype(np.float32)
    ids = rng.integers(1, 58, (3, 9)).astype(np.int32)
    ids[:, 5] = 59
    ids[:, 6:] = 0
    call = dict(
        input_ids=torch.tensor(ids).long(),
        pixel_values=torch.tensor(images.transpose(0, 3, 1, 2)),
        attention_mask=torch.ones(3, 9).long(),
        output_attentions=True,
    )
    with torch.no_grad():
        out = model(**call)
    ours = jax.jit(GroupVit(config).apply)({"params": params}, images, ids)
    unit = lambda x: np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    np.testing.assert_allclose(unit(ours.image), out.image_embeds.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(unit(ours.text), out.text_embeds.numpy(), rtol=1e-4, atol=1e-5)
    logits = np.exp(ours.logit_scale) * unit(ours.image) @ unit(ours.text).T
    np.testing.assert_allclose(logits, out.logits_per_image.numpy(), rtol=1e-4, atol=1e-4)
    first, second = (a.numpy() for a in out.vision_model_output.attentions)
    np.testing.assert_allclose(ours.assignment, second @ first, atol=1e-5)
    np.testing.assert_allclose(np.asarray(ours.assignment).sum(1), 1, atol=1e-5)
    each = model.visual_projection(out.vision_model_output.last_hidden_state.reshape(-1, 24)).detach().numpy()
    np.testing.assert_allclose(ours.groups, each.reshape(2, 3, 10), rtol=1e-4, atol=1e-4)

    assert convert(f"--from={tmp_path / 'ours'}", f"--to={tmp_path / 'back'}", "--reverse")[0] == 0
    before, after = SafetensorsReader(tmp_path / "hf"), SafetensorsReader(tmp_path / "back")
    assert {n for n in before if not n.endswith("num_batches_tracked")} == set(after)
    assert all(before[n].tobytes() == after[n].tobytes() and before.shape(n) == after.shape(n) for n in after)
    again = transformers.GroupViTModel.from_pretrained(tmp_path / "back").eval()
    with torch.no_grad():
        assert torch.equal(again(**call).logits_per_image, out.logits_per_image)
