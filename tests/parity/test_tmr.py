"""TMR against torch's own transformer layers with copied random weights, layer by layer and as a whole."""

import functools
import math

import jax
import numpy as np
import pytest

from vtjax.methods.car import released as tmr
from vtjax.methods.car.config import CarConfig
from vtjax.methods.car.task import CarObjective
from vtjax.nn.transformer import DecoderLayer, EncoderLayer, LayerConfig
from vtjax.weights import tables

torch = pytest.importorskip("torch")

D, FF, HEADS = 256, 1024, 4
ATOL = 1e-5


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"), torch.no_grad():
        yield


def randomise(module, seed):
    """Weights of the size that training gives, norms and biases away from their initial values."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        p.copy_(1 + 0.1 * noise if "norm" in name and name.endswith("weight") else noise / math.sqrt(p.shape[-1]))
    return module.eval()


def state(module, prefix=""):
    return {prefix + key: value.numpy() for key, value in module.state_dict().items()}


def layer_params(module, ours, *inputs):
    """One torch layer's weights as ours, through the released names."""
    names = tmr.ENCODER_LAYER if isinstance(ours, EncoderLayer) else tmr.DECODER_LAYER
    shapes = tables.shapes_of(jax.eval_shape(ours.init, jax.random.key(0), *inputs)["params"])
    return {"params": tables.read(list(tables.modules("", "", names)), shapes, state(module))[0]}


def sequences(seed=0, lengths=(11, 6)):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(len(lengths), max(lengths), D)).astype(np.float32)
    return x, np.arange(max(lengths)) < np.asarray(lengths)[:, None]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("pre_norm", [False, True])
def test_encoder_layer(seed, pre_norm):
    theirs = torch.nn.TransformerEncoderLayer(D, HEADS, FF, 0.1, "gelu", batch_first=True, norm_first=pre_norm)
    theirs = randomise(theirs, seed)
    ours = EncoderLayer(LayerConfig(HEADS, FF, 0.1, 0.1, pre_norm=pre_norm))
    x, mask = sequences(seed)
    expected = theirs(torch.from_numpy(x), src_key_padding_mask=torch.from_numpy(~mask)).numpy()
    inputs = x, mask[:, None, None]
    got = jax.jit(ours.apply)(layer_params(theirs, ours, *inputs), *inputs)
    np.testing.assert_allclose(np.asarray(got)[mask], expected[mask], atol=ATOL)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("pre_norm", [False, True])
def test_decoder_layer(seed, pre_norm):
    theirs = torch.nn.TransformerDecoderLayer(D, HEADS, FF, 0.1, "gelu", batch_first=True, norm_first=pre_norm)
    theirs = randomise(theirs, seed)
    ours = DecoderLayer(LayerConfig(HEADS, FF, 0.1, 0.1, pre_norm=pre_norm))
    (x, mask), (memory, memory_mask) = sequences(seed), sequences(seed + 50, (4, 3))
    expected = theirs(
        torch.from_numpy(x),
        torch.from_numpy(memory),
        tgt_key_padding_mask=torch.from_numpy(~mask),
        memory_key_padding_mask=torch.from_numpy(~memory_mask),
    ).numpy()
    inputs = x, memory, mask[:, None, None], memory_mask[:, None, None]
    got = jax.jit(ours.apply)(layer_params(theirs, ours, *inputs), *inputs)
    np.testing.assert_allclose(np.asarray(got)[mask], expected[mask], atol=ATOL)


def positions(length):
    table = torch.zeros(length, D, dtype=torch.float64)
    for i in range(D // 2):
        angle = torch.arange(length, dtype=torch.float64) * 10000 ** (-2 * i / D)
        table[:, 2 * i], table[:, 2 * i + 1] = torch.sin(angle), torch.cos(angle)
    return table.float()


class TorchEncoder(torch.nn.Module):
    """car.md 2.1 with the released names (8)."""

    def __init__(self, features):
        super().__init__()
        self.projection = torch.nn.Linear(features, D)
        self.tokens = torch.nn.Parameter(torch.randn(2, D))
        layer = torch.nn.TransformerEncoderLayer(D, HEADS, FF, 0.1, "gelu", batch_first=True)
        self.seqTransEncoder = torch.nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)

    def forward(self, x, mask):
        x = torch.cat([self.tokens.expand(len(x), 2, D), self.projection(x)], dim=1)
        x = x + positions(x.shape[1])
        mask = torch.cat([torch.ones(len(x), 2, dtype=torch.bool), mask], dim=1)
        x = self.seqTransEncoder(x, src_key_padding_mask=~mask)
        return x[:, 0], x[:, 1]


class TorchDecoder(torch.nn.Module):
    """car.md 2.2 with the released names (8)."""

    def __init__(self, features):
        super().__init__()
        layer = torch.nn.TransformerDecoderLayer(D, HEADS, FF, 0.1, "gelu", batch_first=True)
        self.seqTransDecoder = torch.nn.TransformerDecoder(layer, 6)
        self.final_layer = torch.nn.Linear(D, features)

    def forward(self, z, mask):
        queries = positions(mask.shape[1]).expand(len(z), -1, -1)
        h = self.seqTransDecoder(queries, z[:, None], tgt_key_padding_mask=~mask)
        return self.final_layer(h) * mask[..., None]


@functools.cache
def released():
    """(torch modules, our model, our parameters through the converter); TMR's published sizes."""
    towers = {
        "motion_encoder": randomise(TorchEncoder(263), 1),
        "text_encoder": randomise(TorchEncoder(768), 2),
        "motion_decoder": randomise(TorchDecoder(263), 3),
    }
    model = CarObjective(CarConfig()).model
    mask = np.ones((1, 4), bool)
    inputs = (np.zeros((1, 4, 263)), mask, np.zeros((1, 4, 768)), mask)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    tensors = {key: value for name, module in towers.items() for key, value in state(module, f"{name}.").items()}
    params, _ = tables.read(list(tmr.entries(CarConfig().model.layers)), tables.shapes_of(shapes), tensors)
    return towers, model, tensors, params


def test_parameter_counts_are_the_published_models():
    _, _, _, params = released()
    counts = {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in params.items()}
    assert counts == {"motion_encoder": 4_806_656, "text_encoder": 4_935_936, "motion_decoder": 6_388_231}


def test_the_whole_model_agrees():
    towers, model, _, params = released()
    rng = np.random.default_rng(0)
    motion, states = rng.normal(size=(3, 40, 263)).astype(np.float32), rng.normal(size=(3, 9, 768)).astype(np.float32)
    motion_mask, text_mask = (np.arange(n) < np.asarray(k)[:, None] for n, k in ((40, (40, 25, 1)), (9, (9, 4, 2))))

    def run(method, *args):
        return jax.jit(functools.partial(model.apply, method=method))({"params": params}, *args)

    mu = {}
    for name, method, x, mask in (
        ("motion_encoder", "encode_motion", motion, motion_mask),
        ("text_encoder", "encode_text", states, text_mask),
    ):
        expected = towers[name](torch.from_numpy(x), torch.from_numpy(mask))
        for ours, theirs in zip(run(method, x, mask), expected, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=ATOL)
        mu[name] = expected[0].numpy()
    for z in mu.values():
        expected = towers["motion_decoder"](torch.from_numpy(z), torch.from_numpy(motion_mask)).numpy()
        np.testing.assert_allclose(run("decode", z, motion_mask), expected, atol=ATOL)


def test_tensors_written_back_load_strictly_into_torch():
    towers, _, tensors, params = released()
    back = tmr.to_tensors(params)
    assert back.keys() == tensors.keys()
    for key, value in back.items():
        np.testing.assert_array_equal(value, tensors[key], err_msg=key)
    for name, module in towers.items():
        own = {k.removeprefix(f"{name}."): torch.from_numpy(v) for k, v in back.items() if k.startswith(f"{name}.")}
        module.load_state_dict(own, strict=True)


def test_projection_head():
    from vtjax.nn.projection_head import ProjectionHead

    first, second = randomise(torch.nn.Linear(768, D), 0), randomise(torch.nn.Linear(D, D), 1)
    norm = randomise(torch.nn.LayerNorm(D), 2)
    x = np.random.default_rng(0).normal(size=(3, 768)).astype(np.float32)
    y = first(torch.from_numpy(x))
    expected = norm(second(torch.nn.functional.gelu(y)) + y).numpy()
    linear = lambda m: {"kernel": m.weight.numpy().T, "bias": m.bias.numpy()}
    params = {
        "project": linear(first),
        "transform": linear(second),
        "norm": {"scale": norm.weight.numpy(), "bias": norm.bias.numpy()},
    }
    np.testing.assert_allclose(ProjectionHead(D).apply({"params": params}, x), expected, atol=ATOL)
