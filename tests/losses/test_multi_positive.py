"""The multi-label contrastive loss against a slow loop of its definition, both forms; sheet vectors (ovoad.md 14)."""

import jax
import numpy as np
import pytest

from vtjax.errors import VtjaxError
from vtjax.losses.contrastive import info_nce
from vtjax.losses.multi_positive import multi_positive_nce


def embeddings(n=5, m=3, d=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)).astype(np.float32), rng.normal(size=(n, m, d)).astype(np.float32)


def slow(video, text, scale, form, exclude=None):
    unit = lambda v: v / np.linalg.norm(v)
    n, m = text.shape[:2]
    z = [[[scale * float(unit(video[i]) @ unit(text[j, k])) for k in range(m)] for j in range(n)] for i in range(n)]
    keep = lambda i, j, k: exclude is None or not exclude[i, j, k]
    total = 0.0
    for i in range(n):
        everything = sum(np.exp(z[i][j][k]) for j in range(n) for k in range(m) if keep(i, j, k))
        own = [np.exp(z[i][i][k]) for k in range(m)]
        if form == "logsumexp":
            to_texts = -np.log(sum(own) / everything)
        else:
            to_texts = -sum(np.log(one / everything) for one in own) / m
        to_video = 0.0
        for k in range(m):
            everyone = sum(np.exp(z[j][i][k]) for j in range(n) if keep(j, i, k))
            to_video -= np.log(np.exp(z[i][i][k]) / everyone) / m
        total += 0.5 * (to_texts + to_video)
    return total


@pytest.mark.parametrize("form", ["logsumexp", "mean_log"])
@pytest.mark.parametrize("left_out", [False, True])
def test_against_a_slow_loop(form, left_out):
    video, text = embeddings()
    exclude = None
    if left_out:
        exclude = np.random.default_rng(1).random((5, 5, 3)) < 0.3
        exclude[np.arange(5), np.arange(5)] = False
    total, weight = multi_positive_nce(video, text, 7.0, form=form, exclude=exclude)
    np.testing.assert_allclose(total, slow(video, text, 7.0, form, exclude), rtol=1e-5)
    assert float(weight) == 5


def test_all_logits_equal():
    """ln B with the log of the sum, ln(B M) with the mean of logs; text to video is ln B in both."""
    video, text = embeddings(8, 2)
    for form, to_texts in (("logsumexp", np.log(8)), ("mean_log", np.log(16))):
        total, weight = multi_positive_nce(video, text, 0.0, form=form)
        np.testing.assert_allclose(total / weight, 0.5 * (to_texts + np.log(8)), rtol=1e-6)


def test_info_nce_without_scale_is_ln_b():
    video, _ = embeddings(8)
    total, weight = info_nce(video, video, temperature=1e9)
    np.testing.assert_allclose(total / weight, np.log(8), rtol=1e-6)


def test_one_text_is_info_nce():
    video, text = embeddings(6, 1)
    expected, _ = info_nce(text[:, 0], video, temperature=1 / 9.0)
    for form in ("logsumexp", "mean_log"):
        np.testing.assert_allclose(multi_positive_nce(video, text, 9.0, form=form)[0], expected, rtol=1e-5)


def test_gradients_against_differences():
    video, text = embeddings(3, 2, 4)
    f = lambda v, s: multi_positive_nce(v, text, s)[0]
    by_video, by_scale = jax.grad(f, (0, 1))(video, 5.0)
    e = 1e-3
    wide = video.astype(np.float64)
    for index in np.ndindex(video.shape):
        step = np.zeros_like(wide)
        step[index] = e
        slope = (slow(wide + step, text, 5.0, "logsumexp") - slow(wide - step, text, 5.0, "logsumexp")) / (2 * e)
        np.testing.assert_allclose(by_video[index], slope, atol=2e-4)
    slope = (slow(wide, text, 5.0 + e, "logsumexp") - slow(wide, text, 5.0 - e, "logsumexp")) / (2 * e)
    np.testing.assert_allclose(by_scale, slope, atol=2e-4)


def test_wrong_use():
    video, text = embeddings()
    with pytest.raises(VtjaxError, match="logsumexp, mean_log"):
        multi_positive_nce(video, text, 1.0, form="sum")
    with pytest.raises(VtjaxError, match="expected"):
        multi_positive_nce(video[:3], text, 1.0)
