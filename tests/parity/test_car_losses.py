"""CAR's objective against torch: cross_entropy, smooth_l1_loss and torch.distributions, with gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.losses.contrastive import chronological_info_nce, false_negatives
from vtjax.losses.robust import smooth_l1
from vtjax.losses.vae import gaussian_kl

torch = pytest.importorskip("torch")
F = torch.nn.functional

N, K, D = 6, 1, 8


def torch_contrastive(text, motion, shuffled, sentence, tau, threshold):
    """car.md 3.4, code form, with the dynamic shapes of the released code: only valid shuffled rows are there."""
    cosine = F.normalize(torch.cat([text, shuffled]), dim=-1) @ F.normalize(motion, dim=-1).T
    logits = cosine / tau
    unit = F.normalize(sentence, dim=-1)
    same = (unit @ unit.T > 2 * threshold - 1) & ~torch.eye(len(text), dtype=torch.bool)
    logits = torch.cat([logits[: len(text)].masked_fill(same, -torch.inf), logits[len(text) :]])
    labels = torch.arange(len(text))
    return (F.cross_entropy(logits[: len(text)], labels) + F.cross_entropy(logits.T, labels)) / 2


def test_contrastive_value_and_gradients():
    rng = np.random.default_rng(0)
    text, motion = rng.normal(size=(2, N, D)).astype(np.float32)
    shuffled = rng.normal(size=(N, K, D)).astype(np.float32)
    sentence = rng.normal(size=(N, 3)).astype(np.float32)
    valid = np.array([1, 0, 1, 1, 0, 0], bool)[:, None]
    assert np.asarray(false_negatives(sentence, 0.8)).sum() >= 2
    inputs = [torch.tensor(x, requires_grad=True) for x in (text, motion, shuffled)]
    expected = torch_contrastive(inputs[0], inputs[1], inputs[2][torch.tensor(valid)], torch.tensor(sentence), 0.1, 0.8)
    expected.backward()

    def ours(text, motion, shuffled):
        total, weight = chronological_info_nce(
            text,
            motion,
            temperature=0.1,
            exclude=false_negatives(sentence, 0.8),
            negative_text=shuffled,
            negative_text_valid=valid,
        )
        return total / weight

    value, grads = jax.jit(jax.value_and_grad(ours, (0, 1, 2)))(text, motion, shuffled)
    assert float(value) == pytest.approx(expected.item(), rel=1e-5)
    for got, want in zip(grads, inputs, strict=True):
        np.testing.assert_allclose(got, want.grad.numpy(), atol=1e-5)


def test_smooth_l1_and_kl():
    rng = np.random.default_rng(0)
    a, b, c, d = rng.normal(size=(4, 5, 3)).astype(np.float32)
    total, weight = smooth_l1(2 * a, b)
    expected = F.smooth_l1_loss(torch.tensor(2 * a), torch.tensor(b)).item()
    assert float(total / weight) == pytest.approx(expected, rel=1e-5)
    normal = lambda m, v: torch.distributions.Normal(torch.tensor(m), torch.tensor(np.exp(v / 2)))
    total, weight = gaussian_kl(*(jnp.asarray(x) for x in (a, b, c, d)))
    expected = torch.distributions.kl_divergence(normal(a, b), normal(c, d)).mean().item()
    assert float(total / weight) == pytest.approx(expected, rel=1e-5)
