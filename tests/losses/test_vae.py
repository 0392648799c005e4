"""KL by numerical integration; samples by their moments and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from vtjax.losses.vae import gaussian_kl, sample_gaussian


def integrated_kl(mean_q, logvar_q, mean_p, logvar_p):
    q, p = stats.norm(mean_q, np.exp(logvar_q / 2)), stats.norm(mean_p, np.exp(logvar_p / 2))
    return integrate.quad(lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), mean_q - 30, mean_q + 30, limit=200)[0]


def test_kl_is_the_integral():
    rng = np.random.default_rng(0)
    mq, lq, mp, lp = (rng.normal(size=(2, 3)).astype(np.float32) for _ in range(4))
    total, weight = gaussian_kl(mq, lq, mp, lp)
    expected = sum(integrated_kl(*values) for values in zip(mq.flat, lq.flat, mp.flat, lp.flat, strict=True))
    assert float(weight) == 6 and float(total) == pytest.approx(expected, rel=1e-4)
    total, _ = gaussian_kl(mq, lq)
    expected = sum(integrated_kl(m, v, 0, 0) for m, v in zip(mq.flat, lq.flat, strict=True))
    assert float(total) == pytest.approx(expected, rel=1e-4)
    assert float(gaussian_kl(mq, lq, mq, lq)[0]) == pytest.approx(0, abs=1e-6)


def test_sample_moments_scale_and_gradient():
    mean, logvar = jnp.full(20000, 2.0), jnp.full(20000, np.log(9.0))
    for scale in (1.0, 0.5):
        z = np.asarray(sample_gaussian(jax.random.key(0), mean, logvar, scale))
        assert z.mean() == pytest.approx(2.0, abs=0.08) and z.std() == pytest.approx(3.0 * scale, rel=0.02)
    eps = sample_gaussian(jax.random.key(1), jnp.zeros(4), jnp.zeros(4))
    mean, logvar = jnp.arange(4.0), jnp.linspace(-1, 1, 4)
    grads = jax.grad(lambda m, v: sample_gaussian(jax.random.key(1), m, v).sum(), (0, 1))(mean, logvar)
    np.testing.assert_allclose(grads[0], 1)
    np.testing.assert_allclose(grads[1], 0.5 * eps * np.exp(0.5 * logvar), rtol=1e-5)
