"""OV-OAD against torch modules written from ovoad.md (sections 2, 3, 5, keys as in section 10) with random weights."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from vtjax.methods.ovoad.config import OvoadConfig, OvoadModelConfig, OvoadTextConfig, clustered_frames
from vtjax.methods.ovoad.task import OvoadObjective
from vtjax.nn.clip import ClipConfig, TextConfig
from vtjax.nn.vit import VisionConfig
from vtjax.sharding.partition import flatten

torch = pytest.importorskip("torch")
nn = torch.nn

D, HEADS, PAST, NEAR, GROUPS, OUT = 32, 4, 6, 4, 5, 2
WIDTH, TEXT_HEADS, VOCAB, LENGTH, EMBED, BOTTLENECK = 24, 3, 40, 9, 20, 7
SIZES = ClipConfig(
    EMBED,
    VisionConfig(image_size=8, patch_size=4, width=D, layers=1, heads=2, mlp_width=16),
    TextConfig(VOCAB, LENGTH, WIDTH, 2, TEXT_HEADS, 4 * WIDTH),
)


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"), torch.no_grad():
        yield


class Mlp(nn.Module):
    def __init__(self, size, hidden, out=None, names=("fc1", "fc2"), act=None):
        super().__init__()
        self.names, self.act = names, act or nn.functional.gelu
        setattr(self, names[0], nn.Linear(size, hidden))
        setattr(self, names[1], nn.Linear(hidden, out or size))

    def forward(self, x):
        return getattr(self, self.names[1])(self.act(getattr(self, self.names[0])(x)))


def attend(q, k, v, heads, mask=None):
    """q, k, v [B, L, D]; mask: True where hidden. Where nothing is seen the mean of all values remains, not NaN."""
    split = lambda x: x.unflatten(-1, (heads, -1)).transpose(1, 2)
    logits = split(q) @ split(k).transpose(-1, -2) / math.sqrt(q.shape[-1] // heads)
    if mask is not None:
        logits = logits.masked_fill(mask, torch.finfo(torch.float32).min)
    return (logits.softmax(-1) @ split(v)).transpose(1, 2).flatten(-2)


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(D, 3 * D), nn.Linear(D, D)

    def forward(self, x, mask=None):
        return self.proj(attend(*self.qkv(x).chunk(3, -1), HEADS, mask))


class CrossAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.proj = (nn.Linear(D, D) for _ in range(4))

    def forward(self, x, memory, mask=None):
        return self.proj(attend(self.q_proj(x), self.k_proj(memory), self.v_proj(memory), HEADS, mask))


class Block(nn.Module):
    """Pre-norm (section 2.2, item 2)."""

    def __init__(self):
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = nn.LayerNorm(D), SelfAttention(), nn.LayerNorm(D), Mlp(D, 4 * D)

    def forward(self, x, mask=None):
        x = x + self.attn(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class CrossBlock(nn.Module):
    """Post-norm (section 2.2, item 3)."""

    def __init__(self):
        super().__init__()
        self.attn, self.mlp = CrossAttention(), Mlp(D, 4 * D)
        self.norm2, self.norm_post = nn.LayerNorm(D), nn.LayerNorm(D)

    def forward(self, x, memory, mask=None):
        x = x + self.attn(x, memory, mask)
        return self.norm_post(x + self.mlp(self.norm2(x)))


class HybridDecoder(nn.Module):
    """Section 2.1, item 2."""

    def __init__(self):
        super().__init__()
        self.self_attn, self.cross_attn, self.mlp = SelfAttention(), CrossAttention(), Mlp(D, 4 * D)
        self.norm1, self.norm2, self.norm_post = nn.LayerNorm(D), nn.LayerNorm(D), nn.LayerNorm(D)

    def forward(self, x, memory, mask, memory_mask):
        x = self.norm1(x + self.self_attn(x, mask))
        x = x + self.cross_attn(x, memory, memory_mask)
        return self.norm_post(x + self.mlp(self.norm2(x)))


class Grouping(nn.Module):
    """Section 3.3 in evaluation: hard, without noise."""

    def __init__(self):
        super().__init__()
        self.norm_tokens, self.norm_post_tokens, self.norm_x, self.norm_new_x = (nn.LayerNorm(D) for _ in range(4))
        self.mlp_inter, self.pre_assign_attn = Mlp(GROUPS, D // 2, OUT), CrossBlock()
        self.assign, self.mlp_channels = CrossAttention(), Mlp(D, 4 * D)

    def forward(self, tokens, x, valid, hard):
        tokens, x = self.norm_tokens(tokens), self.norm_x(x)
        groups = self.norm_post_tokens(self.mlp_inter(tokens.transpose(1, 2)).transpose(1, 2))
        groups = self.pre_assign_attn(groups, x, ~valid[:, None, None])
        a = self.assign
        logits = a.q_proj(groups) @ a.k_proj(x).transpose(1, 2) * D**-0.5
        weights = logits.softmax(1)
        if hard:
            weights = nn.functional.one_hot(weights.argmax(1), OUT).transpose(1, 2).float()
        weights = weights * valid[:, None]
        weights = weights / (weights.sum(-1, keepdim=True) + 1)
        out = groups + a.proj(weights @ a.v_proj(x))
        return out + self.mlp_channels(self.norm_new_x(out)), logits


class PaperUnit(nn.Module):
    """Section 3.2: self attention among groups, slot attention, feed-forward, add and norm after each."""

    def __init__(self):
        super().__init__()
        self.attn, self.norm, self.norm_query = SelfAttention(), nn.LayerNorm(D), nn.LayerNorm(D)
        self.mlp_inter = Mlp(GROUPS, D // 2, OUT)
        self.q, self.k, self.v = (nn.Linear(D, D) for _ in range(3))
        self.norm_slots, self.norm_ffn, self.mlp = nn.LayerNorm(D), nn.LayerNorm(D), Mlp(D, 4 * D)

    def forward(self, tokens, x, valid, hard):
        g = self.norm(tokens + self.attn(tokens))
        g = self.norm_query(self.mlp_inter(g.transpose(1, 2)).transpose(1, 2))
        logits = self.q(g) @ self.k(x).transpose(1, 2) / math.sqrt(D)
        share = logits.softmax(1) * valid[:, None]
        share = share / (share.sum(-1, keepdim=True) + 1)
        g = self.norm_slots(g + share @ self.v(x))
        return self.norm_ffn(g + self.mlp(g)), logits


class Video(nn.Module):
    def __init__(self, variant, unit, layers=2):
        super().__init__()
        self.variant = variant
        if variant == "decoder":
            self.pos_past, self.pos_near = nn.Parameter(torch.zeros(1, PAST, D)), nn.Parameter(torch.zeros(1, NEAR, D))
            self.dntr = nn.ModuleList(HybridDecoder() for _ in range(layers))
        else:
            self.pos_embed = nn.Parameter(torch.zeros(1, PAST + NEAR, D))
            self.dntr = nn.ModuleList(Block() for _ in range(layers))
            self.xattn = CrossBlock()
        self.group_token = nn.Parameter(torch.zeros(1, GROUPS, D))
        self.cluster = nn.ModuleList(Block() for _ in range(2))
        self.unit = Grouping() if unit == "grouping" else PaperUnit()
        self.last = nn.ModuleList(Block() for _ in range(1))
        self.norm = nn.LayerNorm(D)

    def forward(self, x, valid, hard):
        if self.variant == "decoder":
            past, near = x[:, :PAST] + self.pos_past, x[:, PAST:] + self.pos_near
            ahead = torch.ones(NEAR, NEAR, dtype=torch.bool).triu(1)
            hidden = ahead[None, None] | ~valid[:, None, None, PAST:]
            for block in self.dntr:
                near = block(near, past, hidden, ~valid[:, None, None, :PAST])
            x, current, seen = near, near[:, -1], valid[:, PAST:]
        else:
            x = x + self.pos_embed
            hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)[None, None] | ~valid[:, None, None]
            for block in self.dntr:
                x = block(x, hidden)
            current, seen = self.xattn(x[:, PAST:], x[:, :PAST], ~valid[:, None, None, :PAST])[:, -1], valid
        count = x.shape[1]
        joined = torch.cat([x, self.group_token.expand(len(x), -1, -1)], 1)
        padded = nn.functional.pad(~seen, (0, GROUPS), value=False)[:, None, None]
        for block in self.cluster:
            joined = block(joined, padded)
        groups, logits = self.unit(joined[:, count:], joined[:, :count], seen, hard)
        for block in self.last:
            groups = block(groups)
        return self.norm(current), self.norm(groups), logits


class Projector(nn.Module):
    def __init__(self, size, hidden=24, out=12):
        super().__init__()
        self.linear_hidden = nn.Sequential(nn.Linear(size, hidden), nn.LayerNorm(hidden), nn.GELU())
        self.linear_out = nn.Linear(hidden, out)

    def forward(self, x):
        return self.linear_out(self.linear_hidden(x))


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


class TextBlock(nn.Module):
    """CLIP's block with AdaptFormer's parallel adapter (section 5)."""

    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, TEXT_HEADS, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = Mlp(WIDTH, 4 * WIDTH, names=("c_fc", "c_proj"), act=quick_gelu)
        self.adaptmlp = Mlp(WIDTH, BOTTLENECK, names=("down_proj", "up_proj"), act=torch.relu)

    def forward(self, x, mask):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x)) + 0.1 * self.adaptmlp(x)


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.token_embedding = nn.Embedding(VOCAB, WIDTH)
        self.positional_embedding = nn.Parameter(torch.zeros(LENGTH, WIDTH))
        self.resblocks, self.ln_final = nn.ModuleList(TextBlock() for _ in range(2)), nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.zeros(WIDTH, EMBED))

    def forward(self, ids):
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        mask = torch.full((ids.shape[1],) * 2, -torch.inf).triu(1)
        for block in self.resblocks:
            x = block(x, mask)
        return self.ln_final(x)[torch.arange(len(ids)), ids.argmax(-1)]


def randomise(module, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        is_norm = p.dim() == 1 and name.endswith("weight")
        p.copy_(1 + 0.1 * noise if is_norm else noise / math.sqrt(p.shape[-1]) if p.dim() > 1 else 0.3 * noise)
    return module.eval()


# -- torch weights to ours ---------------------------------------------------------------------------------------------


def linear(m):
    return {"kernel": m.weight.T.numpy(), "bias": m.bias.numpy()}


def norm(m):
    return {"scale": m.weight.numpy(), "bias": m.bias.numpy()}


def mha(weights, biases, out, heads):
    parts = {}
    for name, w, b in zip(("query", "key", "value"), weights, biases, strict=True):
        w, b = w.numpy(), b.numpy()
        parts[name] = {"kernel": w.T.reshape(w.shape[1], heads, -1), "bias": b.reshape(heads, -1)}
    kernel = out.weight.numpy().T
    parts["out"] = {"kernel": kernel.reshape(heads, -1, kernel.shape[-1]), "bias": out.bias.numpy()}
    return parts


def attention(m, heads=HEADS):
    if hasattr(m, "qkv"):
        return mha(m.qkv.weight.chunk(3), m.qkv.bias.chunk(3), m.proj, heads)
    if hasattr(m, "in_proj_weight"):
        return mha(m.in_proj_weight.chunk(3), m.in_proj_bias.chunk(3), m.out_proj, heads)
    each = (m.q_proj, m.k_proj, m.v_proj)
    return mha([x.weight for x in each], [x.bias for x in each], m.proj, heads)


def mlp(m):
    return {"up": linear(getattr(m, m.names[0])), "down": linear(getattr(m, m.names[1]))}


def block(m):
    return {"norm1": norm(m.norm1), "norm2": norm(m.norm2), "attention": attention(m.attn), "ffn": mlp(m.mlp)}


def cross(m):
    return {
        "attention": attention(m.attn), "ffn": mlp(m.mlp), "norm2": norm(m.norm2), "norm_post": norm(m.norm_post)
    }  # fmt: skip


def hybrid(m):
    norms = {name: norm(getattr(m, name)) for name in ("norm1", "norm2", "norm_post")}
    sides = {"self_attention": attention(m.self_attn), "cross_attention": attention(m.cross_attn)}
    return {**norms, **sides, "ffn": mlp(m.mlp)}


def video(m):
    tree = {"norm": norm(m.norm), "group_token": m.group_token[0].numpy()}
    if m.variant == "decoder":
        tree |= {"position_past": m.pos_past[0].numpy(), "position_near": m.pos_near[0].numpy()}
        tree |= {f"dntr_{i}": hybrid(b) for i, b in enumerate(m.dntr)}
    else:
        tree |= {"position": m.pos_embed[0].numpy(), "current_attention": cross(m.xattn)}
        tree |= {f"dntr_{i}": block(b) for i, b in enumerate(m.dntr)}
    tree |= {f"cluster_{i}": block(b) for i, b in enumerate(m.cluster)}
    tree |= {f"group_layers_{i}": block(b) for i, b in enumerate(m.last)}
    u = m.unit
    if isinstance(u, Grouping):
        each = {"query": u.assign.q_proj, "key": u.assign.k_proj, "value": u.assign.v_proj, "out": u.assign.proj}
        names = ("norm_tokens", "norm_post_tokens", "norm_x", "norm_new_x")
        tree["unit"] = {
            **{name: norm(getattr(u, name)) for name in names},
            "mix": mlp(u.mlp_inter),
            "pre_assign": cross(u.pre_assign_attn),
            "assign": {name: linear(m) for name, m in each.items()},
            "ffn": mlp(u.mlp_channels),
        }
    else:
        tree |= {"group_attention": attention(u.attn), "norm_group": norm(u.norm), "norm_query": norm(u.norm_query)}
        tree["mix"] = mlp(u.mlp_inter)
        tree["unit"] = {
            "query_slots": linear(u.q), "key_slots": linear(u.k), "value_slots": linear(u.v),
            "norm_slots": norm(u.norm_slots), "norm_ffn": norm(u.norm_ffn), "ffn": mlp(u.mlp),
        }  # fmt: skip
    return tree


def projector(m):
    return {"hidden": linear(m.linear_hidden[0]), "norm": norm(m.linear_hidden[1]), "out": linear(m.linear_out)}


def text(m):
    layers = {
        f"layer_{i}": {
            "norm1": norm(b.ln_1), "norm2": norm(b.ln_2), "attention": attention(b.attn, TEXT_HEADS), "ffn": mlp(b.mlp),
            "parallel_adapter": {"down": linear(b.adaptmlp.down_proj), "up": linear(b.adaptmlp.up_proj)},
        }
        for i, b in enumerate(m.resblocks)
    }  # fmt: skip
    return {
        "token_embedding": {"embedding": m.token_embedding.weight.numpy()},
        "position_embedding": m.positional_embedding.numpy(),
        "transformer": layers,
        "final_norm": norm(m.ln_final),
        "projection": {"kernel": m.text_projection.numpy()},
    }


def settings(variant, unit, **more):
    model = OvoadModelConfig(
        width=D, past=PAST, near=NEAR, heads=HEADS, dntr=variant, dntr_layers=2, cluster_layers=2, group_layers=1,
        groups=GROUPS, out_groups=OUT, unit=unit, project_hidden=24, joint_width=12, hard=unit == "grouping", **more,
    )  # fmt: skip
    return OvoadConfig(model=model, text=OvoadTextConfig(adapter=BOTTLENECK))


def unit_rows(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def initial(config):
    """Shapes of the model's parameters."""
    spec = OvoadObjective(config, SIZES).example_spec()
    batch = {n: np.zeros((2, *s.shape), s.dtype) for n, s in spec.items()}
    return jax.eval_shape(OvoadObjective(config, SIZES).init, jax.random.key(0), batch)


@pytest.mark.parametrize("unit", ["grouping", "slot"])
@pytest.mark.parametrize("variant", ["decoder", "encoder_xattn"])
def test_whole_model(variant, unit):
    config = settings(variant, unit)
    theirs = randomise(Video(variant, unit), 0)
    heads = {"visual_projector": randomise(Projector(D), 1), "text_projector": randomise(Projector(WIDTH), 2)}
    words = randomise(Text(), 3)
    matrix = torch.randn(D, WIDTH, generator=torch.Generator().manual_seed(4))
    params = {
        "visual": video(theirs), "text": text(words), "current_projection": {"kernel": matrix.numpy()},
        "logit_scale": np.float32(1), "multi_label_scale": np.float32(1),
        **{name: projector(m) for name, m in heads.items()},
    }  # fmt: skip
    wanted = initial(config)
    assert {k: v.shape for k, v in flatten(params).items()} == {k: v.shape for k, v in flatten(wanted).items()}

    rng = np.random.default_rng(5)
    x = rng.normal(size=(3, PAST + NEAR, D)).astype(np.float32)
    valid = np.arange(PAST + NEAR) >= np.array([0, 3, PAST + 1])[:, None]  # the last begins among the near frames
    ids = rng.integers(1, VOCAB - 1, (4, LENGTH)).astype(np.int32)
    ids[np.arange(4), [3, 5, 8, 4]] = VOCAB - 1

    encoded = jax.jit(OvoadObjective(config, SIZES).encode_window)(params, x, valid)
    joint, current = jax.jit(OvoadObjective(config, SIZES).encode_text)(params, ids)
    now, groups, logits = theirs(torch.from_numpy(x), torch.from_numpy(valid), unit == "grouping")
    np.testing.assert_allclose(encoded.current, (now @ matrix).numpy(), atol=2e-5, rtol=1e-5)
    np.testing.assert_allclose(encoded.groups, unit_rows(heads["visual_projector"](groups).numpy()), atol=1e-5)
    np.testing.assert_allclose(encoded.clip, unit_rows(heads["visual_projector"](groups.mean(1)).numpy()), atol=1e-5)
    np.testing.assert_allclose(encoded.logits, logits.numpy(), atol=2e-5)
    seen = valid[:, -clustered_frames(config.model) :]
    np.testing.assert_allclose(encoded.assignment, logits.softmax(1).numpy() * seen[:, None], atol=1e-5)
    state = words(torch.from_numpy(ids).long())
    np.testing.assert_allclose(current, state.numpy(), atol=1e-5)
    np.testing.assert_allclose(joint, heads["text_projector"](state).numpy(), atol=1e-5)


def test_projected_current_space():
    config = settings("decoder", "grouping")
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, current_space="projected"))
    words = randomise(Text(), 3)
    params = {**jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), initial(config)), "text": text(words)}
    assert params["current_projection"]["kernel"].shape == (D, EMBED)
    ids = np.array([[1, 5, 7, VOCAB - 1, 0, 0, 0, 0, 0]], np.int32)
    _, current = jax.jit(OvoadObjective(config, SIZES).encode_text)(params, ids)
    expected = words(torch.from_numpy(ids).long()) @ words.text_projection
    np.testing.assert_allclose(current, expected.numpy(), atol=1e-5)
