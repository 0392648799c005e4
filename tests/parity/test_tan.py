"""The temporal aligner against a torch module written from the sheet, with its random weights through the converter."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from vtjax.nn.temporal_aligner import PRESETS, AlignerConfig, TemporalAligner, similarity
from vtjax.weights import tables, tan

torch = pytest.importorskip("torch")
from torch_tan import Aligner  # noqa: E402

torch.set_num_threads(1)

TAN = AlignerConfig(
    features=10, words=30, word_width=6, word_hidden=20, text_features=12, width=16, heads=4, ffn_width=40,
    video_layers=3, joint_layers=2, positions=14, alignability=True,
)  # fmt: skip
MPTVA = dataclasses.replace(TAN, text_layers=2, joint_from="encoded", alignability=False)


def both(config, seed=0):
    torch.manual_seed(seed)
    model = Aligner(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                p.add_(0.3 * torch.randn_like(p))
    tensors = {name: x.numpy() for name, x in model.state_dict().items()}
    spelling, names, dropped = tan.published_names(list(tensors))
    assert spelling.words == "bert" and set(dropped) == {"mlp.weight", "mlp.bias"}
    shapes = {name: tensors[full].shape for name, full in names.items()}
    found = tan.config_from_tensors(shapes, spelling.words)
    assert dataclasses.replace(found, heads=config.heads) == config
    ours = tables.shapes_of(jax.eval_shape(functools.partial(tan.init, config)))
    own = {name: tensors[full] for name, full in names.items()}
    return model, tables.read(list(tan.entries(config, "bert")), ours, own)[0]


def inputs(length, seed=1):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((2, length, 10)).astype(np.float32)
    ids = rng.integers(1, 30, (2, 5, 4)).astype(np.int32)
    ids[0, 0, 2:] = 0
    ids[1, 2] = 0  # no known word
    valid, text_valid = np.ones((2, length), bool), np.ones((2, 5), bool)
    valid[1, -3:] = False
    text_valid[0, -2:] = False
    return features, ids, valid, text_valid


@pytest.mark.parametrize(
    ("config", "length", "more"),
    [
        (TAN, 9, {}),
        (TAN, 9, {"start": 3, "ordered": True}),
        (TAN, 20, {}),  # longer than the position table
        (MPTVA, 9, {}),
        (MPTVA, 9, {"ordered": True}),
    ],
)
def test_every_stage(config, length, more):
    model, params = both(config)
    features, ids, valid, text_valid = inputs(length)
    with torch.no_grad():
        expected = model(
            torch.tensor(features), torch.tensor(ids).long(), torch.tensor(~valid), torch.tensor(~text_valid), **more
        )
    apply = jax.jit(functools.partial(TemporalAligner(config).apply, **more))
    out = apply({"params": params}, features, ids, valid, text_valid)
    video, sentences = valid[None], text_valid[None]
    for got, want, seen in (
        (out.video, expected[0], video),
        (out.text[None], expected[1][None], sentences),
        (out.joint_video, expected[2], video),
        (out.joint_text, expected[3], sentences),
    ):
        got, want = np.asarray(got), want.numpy()
        assert got.shape == want.shape
        seen = np.broadcast_to(seen, got.shape[:-1])
        np.testing.assert_allclose(got[seen], want[seen], rtol=1e-5, atol=1e-5)
    if config.alignability:
        with torch.no_grad():
            np.testing.assert_allclose(
                out.joint_alignability, model.binary_head(expected[3])[..., 0].numpy(), rtol=1e-5, atol=1e-5
            )
            np.testing.assert_allclose(out.text_alignability, model.binary_head(expected[1])[..., 0], atol=1e-5)
    cosine = torch.nn.functional.cosine_similarity(expected[3][-1][:, :, None], expected[2][-1][:, None], dim=-1)
    got = similarity(out.joint_text[-1], out.joint_video[-1])
    seen = text_valid[:, :, None] & valid[:, None]
    np.testing.assert_allclose(np.asarray(got)[seen], cosine.numpy()[seen], atol=1e-5)


def test_sizes_are_the_published_ones():
    """mptva.md: 61.47 M for TAN with its words and both tables, of which the unused layer is left out here; about 5.4 M
    for MPTVA's transformers, projections and positions, besides 1.67 M of words' layers and 19.9 M of words."""
    counts = {}
    for name, config in PRESETS.items():
        shapes = tables.shapes_of(jax.eval_shape(functools.partial(tan.init, config)))
        counts[name] = {n: int(np.prod(s)) for n, s in shapes.items()}
    total = sum(counts["tan"].values()) + 512 * 512 + 512
    assert abs(total - 61.47e6) < 0.01e6, total
    words = {n: x for n, x in counts["mptva"].items() if n.startswith("words/")}
    assert words["words/embedding/embedding"] == 66250 * 300
    assert abs(sum(words.values()) - words["words/embedding/embedding"] - 1.67e6) < 0.01e6
    layers = sum(x for n, x in counts["mptva"].items() if "/layer_" in n)
    assert layers == 6 * 789_760
