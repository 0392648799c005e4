"""CLIP, its preprocessing and its tokenizer against transformers and torch, fp32 and random weights."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.encoders.image import ImageTransform
from vtjax.errors import VtjaxError
from vtjax.nn.clip import PRESETS, Clip, ClipConfig, TextConfig, clip_config, similarity_logits
from vtjax.nn.vit import VisionConfig, interpolate_positions, stack_layers
from vtjax.text.clip_tokenizer import END, START, ClipTokenizer, clean
from vtjax.trees import unflatten
from vtjax.weights.clip import expected_shapes, from_published, load_clip, save_clip_hf, to_published
from vtjax.weights.safetensors_io import SafetensorsReader, write_safetensors
from vtjax.weights.torchscript import read_torchscript

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TINY = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)


def reference(vision, text, embed_dim=24, act="quick_gelu"):
    """A transformers model with random weights of a spread that makes attention, norms and biases matter."""
    config = transformers.CLIPConfig(
        vision_config=vision | {"hidden_act": act}, text_config=text | {"hidden_act": act}, projection_dim=embed_dim
    )
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim >= 2 and "embedding" not in name:
                p.normal_(0, 1.5 * p[0].numel() ** -0.5)
            elif p.ndim == 1:
                p += 0.2 * torch.randn(p.shape)
    return model


def tiny_reference(**kwargs):
    vision = TINY | dict(image_size=32, patch_size=8)
    return reference(vision, TINY | dict(vocab_size=60, max_position_embeddings=20, eos_token_id=59), **kwargs)


def inputs(config, images=2, texts=3, seed=0):
    """Normal pixels, and rows of ids with the end of text (largest id) at various places, padded with 0."""
    rng = np.random.default_rng(seed)
    side, length, last = config.vision.image_size, config.text.context_length, config.text.vocab_size - 1
    pixels = rng.standard_normal((images, side, side, 3)).astype(np.float32)
    ids = rng.integers(1, last, (texts, length)).astype(np.int32)
    ends = rng.integers(2, length, texts)
    ids[np.arange(texts), ends] = last
    return pixels, np.where(np.arange(length) > ends[:, None], 0, ids).astype(np.int32)


def torch_outputs(model, pixels, ids, **kwargs):
    """(both towers' own outputs, not projected, then the model's)."""
    with torch.no_grad():
        images, ids = torch.tensor(pixels.transpose(0, 3, 1, 2)), torch.tensor(ids.astype(np.int64))
        vision = model.vision_model(images, output_hidden_states=True, **kwargs)
        text = model.text_model(ids, output_hidden_states=True)
        return vision, text, model(ids, images, **kwargs)


def assert_same(ours, theirs, tolerance=1e-5):
    """Largest error relative to the largest value."""
    ours, theirs = np.asarray(ours), theirs.numpy()
    assert ours.shape == theirs.shape
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert error <= tolerance, error


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def embeddings_only(output):
    return dataclasses.replace(
        output,
        image=dataclasses.replace(output.image, hidden_states=(), keys=(), value_tokens=None, value_embeddings=None),
        text=dataclasses.replace(output.text, hidden_states=(), keys=()),
    )


def compare(model, clip, params, pixels, ids, keep=embeddings_only):
    """Embeddings agree; returns our output and what else torch gives."""
    ours = jax.jit(lambda p: keep(clip.apply({"params": p}, pixels, ids)))(params)
    vision, text, both = torch_outputs(model, pixels, ids)
    assert_same(ours.image.class_token, vision.pooler_output)
    assert_same(ours.text.eot, text.pooler_output)
    assert_same(unit(ours.image.embedding), both.image_embeds)  # transformers normalises its embeddings
    assert_same(unit(ours.text.embedding), both.text_embeds)
    logits = similarity_logits(ours.image.embedding, ours.text.embedding, ours.logit_scale)
    assert_same(logits, both.logits_per_image)
    return ours, vision, text


def test_everything_that_transformers_returns(tmp_path):
    model = tiny_reference()
    model.save_pretrained(tmp_path)
    config, params = load_clip(tmp_path)
    assert config.text.eot_id == 59 and config.vision.activation == config.text.activation == "quick_gelu"
    ours, vision, text = compare(model, Clip(config), params, *inputs(config), keep=lambda output: output)
    assert_same(ours.image.tokens, vision.last_hidden_state)
    assert_same(ours.text.tokens, text.last_hidden_state)
    for mine, other in zip(ours.image.hidden_states, vision.hidden_states, strict=True):
        assert_same(mine, other)
    for mine, other in zip(ours.text.hidden_states, text.hidden_states, strict=True):
        assert_same(mine, other)
    with torch.no_grad():  # every token through the last norm and the projection
        tokens = model.visual_projection(model.vision_model.post_layernorm(vision.last_hidden_state))
        layer = model.vision_model.encoder.layers[-1]
        x = vision.hidden_states[-2]
        own = x + layer.self_attn.out_proj(layer.self_attn.v_proj(layer.layer_norm1(x)))
        own = own + layer.mlp(layer.layer_norm2(own))
        regions = model.visual_projection(model.vision_model.post_layernorm(own))
        key = layer.self_attn.k_proj(layer.layer_norm1(x)).unflatten(-1, (4, 8))
    assert_same(ours.image.token_embeddings, tokens)
    assert_same(ours.image.value_tokens, own)
    assert_same(ours.image.value_embeddings, regions)
    assert_same(ours.image.keys[-1], key)


@pytest.mark.parametrize("name", ["ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px"])
def test_published_widths(name):
    """Published sizes but for depth (one layer), vocabulary and text length."""
    sizes = PRESETS[name]
    vision = dict(
        hidden_size=sizes.vision.width,
        intermediate_size=sizes.vision.mlp_width,
        num_hidden_layers=1,
        num_attention_heads=sizes.vision.heads,
        image_size=sizes.vision.image_size,
        patch_size=sizes.vision.patch_size,
    )
    text = dict(
        hidden_size=sizes.text.width,
        intermediate_size=sizes.text.mlp_width,
        num_hidden_layers=1,
        num_attention_heads=sizes.text.heads,
        vocab_size=500,
        eos_token_id=2,
    )
    model = reference(vision, text, sizes.embed_dim)
    config = dataclasses.replace(
        sizes,
        vision=dataclasses.replace(sizes.vision, layers=1),
        text=dataclasses.replace(sizes.text, layers=1, vocab_size=500),
    )
    params, _ = from_published(config, {k: v.numpy() for k, v in model.state_dict().items()})
    compare(model, Clip(config), params, *inputs(config))


def test_full_depth():
    """As deep as the deepest published towers, layers scanned."""
    sizes = dict(hidden_size=64, intermediate_size=256, num_attention_heads=2)
    model = reference(
        sizes | dict(num_hidden_layers=24, image_size=32, patch_size=8),
        sizes | dict(num_hidden_layers=12, vocab_size=60, eos_token_id=2, max_position_embeddings=9),
    )
    config = ClipConfig(24, VisionConfig(32, 8, 64, 24, 2, 256), TextConfig(60, 9, 64, 12, 2, 256))
    params, _ = from_published(config, {k: v.numpy() for k, v in model.state_dict().items()})
    compare(model, Clip(config, scan=True), stack_layers(params), *inputs(config))


def test_other_image_sizes(tmp_path):
    model = tiny_reference()
    model.save_pretrained(tmp_path)
    config, params = load_clip(tmp_path)
    pixels = np.random.default_rng(1).standard_normal((2, 59, 24, 3)).astype(np.float32)  # grid 7 x 3
    _, ids = inputs(config)
    ours = jax.jit(Clip(config, interpolate_positions=True).apply)({"params": params}, pixels, ids)
    theirs, _, _ = torch_outputs(model, pixels, ids, interpolate_pos_encoding=True)
    assert_same(ours.image.class_token, theirs.pooler_output)
    assert_same(ours.image.tokens, theirs.last_hidden_state)
    with pytest.raises(VtjaxError, match="images of 59 x 24 pixels for a model of 32 x 32"):
        Clip(config).apply({"params": params}, pixels, method="encode_image")


@pytest.mark.parametrize("side, grid", [(7, (24, 24)), (24, (16, 16)), (14, (9, 20)), (16, (24, 24))])
def test_positions_as_torch_interpolates(side, grid):
    table = np.random.default_rng(0).standard_normal((1 + side**2, 5)).astype(np.float32)
    square = torch.tensor(table[1:].reshape(1, side, side, 5)).permute(0, 3, 1, 2)
    theirs = torch.nn.functional.interpolate(square, size=grid, mode="bicubic", align_corners=False)
    ours = interpolate_positions(jnp.asarray(table), grid)
    assert_same(ours[1:], theirs.permute(0, 2, 3, 1).reshape(-1, 5))
    np.testing.assert_array_equal(ours[0], table[0])


@pytest.mark.parametrize("eot_id, act", [(None, "gelu"), (40, "gelu_tanh")])
def test_export_loads_in_transformers(eot_id, act, tmp_path):
    config = ClipConfig(
        24,
        VisionConfig(32, 8, 32, 2, 4, 64, act),
        TextConfig(60, 20, 32, 2, 4, 64, act, eot_id=eot_id),
    )
    rng = np.random.default_rng(0)
    flat = {n: 0.3 * rng.standard_normal(s).astype(np.float32) for n, s in expected_shapes(config).items()}
    params = unflatten(flat)
    save_clip_hf(tmp_path, config, params)
    loaded_config, loaded = load_clip(tmp_path)
    assert loaded_config == config
    jax.tree.map(np.testing.assert_array_equal, params, loaded)
    model, info = transformers.CLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    pixels, ids = inputs(config)
    ids[:, 1] = 40  # found by a set eot_id, overlooked in favour of the largest id without one
    compare(model.eval(), Clip(config), params, pixels, ids)


def test_round_trip_is_bitwise(tmp_path):
    model = tiny_reference()
    model.save_pretrained(tmp_path / "published")
    config, params = load_clip(tmp_path / "published")
    save_clip_hf(tmp_path / "ours", config, stack_layers(params))  # stacked layers are taken apart
    published, ours = SafetensorsReader(tmp_path / "published"), SafetensorsReader(tmp_path / "ours")
    assert set(published) == set(ours)
    for name in published:
        np.testing.assert_array_equal(published[name], ours[name])
        assert published[name].dtype == ours[name].dtype


class OpenAINames(torch.nn.Module):
    """OpenAI's module tree, so far as names and shapes go."""

    def __init__(self, width, depth, patch, tokens, embed_dim, text_width, vocab, context):
        super().__init__()
        self.visual = torch.nn.Module()
        self.visual.conv1 = torch.nn.Conv2d(3, width, patch, patch, bias=False)
        self.visual.class_embedding = torch.nn.Parameter(torch.randn(width))
        self.visual.positional_embedding = torch.nn.Parameter(torch.randn(tokens, width))
        self.visual.ln_pre, self.visual.ln_post = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.visual.proj = torch.nn.Parameter(torch.randn(width, embed_dim))
        self.visual.transformer = self.stack(width, depth)
        self.transformer = self.stack(text_width, depth)
        self.token_embedding = torch.nn.Embedding(vocab, text_width)
        self.positional_embedding = torch.nn.Parameter(torch.randn(context, text_width))
        self.ln_final = torch.nn.LayerNorm(text_width)
        self.text_projection = torch.nn.Parameter(torch.randn(text_width, embed_dim))
        self.logit_scale = torch.nn.Parameter(torch.tensor(3.0))
        self.register_buffer("input_resolution", torch.tensor(224))
        self.register_buffer("context_length", torch.tensor(context))
        self.register_buffer("vocab_size", torch.tensor(vocab))

    @staticmethod
    def stack(width, depth):
        blocks = []
        for _ in range(depth):
            block = torch.nn.Module()
            block.attn = torch.nn.MultiheadAttention(width, width // 64)
            block.ln_1, block.ln_2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
            block.mlp = torch.nn.Module()
            block.mlp.c_fc, block.mlp.c_proj = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)
            blocks.append(block)
        stack = torch.nn.Module()
        stack.resblocks = torch.nn.Sequential(*blocks)
        return stack

    def forward(self, x):
        return x


@pytest.fixture(scope="module")
def openai():
    torch.manual_seed(1)
    model = OpenAINames(128, 2, 8, 17, 24, 64, 60, 20)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.2)
    return model


def slow_block(block, x, heads, mask=None):
    """OpenAI's block by torch's own attention module, which takes the fused projections."""
    y = block.ln_1(x)
    x = x + block.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
    y = block.mlp.c_fc(block.ln_2(x))
    return x + block.mlp.c_proj(y * torch.sigmoid(1.702 * y))


def openai_outputs(model, pixels, ids):
    with torch.no_grad():
        v = model.visual
        x = v.conv1(torch.tensor(pixels.transpose(0, 3, 1, 2))).flatten(2).transpose(1, 2)
        x = torch.cat([v.class_embedding.expand(len(x), 1, -1), x], 1) + v.positional_embedding
        x = v.ln_pre(x).transpose(0, 1)
        for block in v.transformer.resblocks:
            x = slow_block(block, x, 2)
        image = v.ln_post(x[0]) @ v.proj
        ids = torch.tensor(ids.astype(np.int64))
        t = (model.token_embedding(ids) + model.positional_embedding).transpose(0, 1)
        mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu(1)
        for block in model.transformer.resblocks:
            t = slow_block(block, t, 1, mask)
        t = model.ln_final(t).transpose(0, 1)
        return image, t[torch.arange(len(ids)), ids.argmax(-1)] @ model.text_projection


def test_openai_state_dict_and_torchscript(openai, tmp_path):
    torch.save(openai.state_dict(), tmp_path / "dict.pt")
    torch.jit.trace(openai, torch.zeros(1)).save(str(tmp_path / "script.pt"))
    config, params = load_clip(tmp_path / "dict.pt")
    assert config == ClipConfig(
        24,
        VisionConfig(32, 8, 128, 2, 2, 512),
        TextConfig(60, 20, 64, 2, 1, 256),
    )
    pixels, ids = inputs(config)
    ours = jax.jit(Clip(config).apply)({"params": params}, pixels, ids)
    image, text = openai_outputs(openai, pixels, ids)
    assert_same(ours.image.embedding, image)
    assert_same(ours.text.embedding, text)
    again, script = load_clip(tmp_path / "script.pt")
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, params, script)
    raw = read_torchscript(tmp_path / "script.pt")
    assert set(raw) == set(openai.state_dict())
    for name, value in openai.state_dict().items():
        np.testing.assert_array_equal(raw[name], value.numpy())


def test_half_precision_torchscript(openai, tmp_path):
    """As OpenAI's files: fp16, and every value exact in float32."""
    torch.manual_seed(1)
    model = OpenAINames(64, 1, 8, 17, 24, 64, 60, 20).half()
    torch.jit.trace(model, torch.zeros(1)).save(str(tmp_path / "script.pt"))
    config, params = load_clip(tmp_path / "script.pt")
    for name, value in to_published(config, params, "openai").items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, model.state_dict()[name].float().numpy())


def test_open_clip_files(openai, tmp_path):
    state = {f"module.{k}": v for k, v in openai.state_dict().items() if v.ndim or k == "logit_scale"}
    torch.save({"epoch": 3, "name": "run", "state_dict": state}, tmp_path / "epoch_3.pt")
    with pytest.raises(VtjaxError, match="give activation='gelu'"):
        load_clip(tmp_path / "epoch_3.pt")
    config, params = load_clip(tmp_path / "epoch_3.pt", activation="gelu")
    assert config.text.activation == config.vision.activation == "gelu"
    write_safetensors(tmp_path / "hub" / "open_clip_model.safetensors", to_published(config, params, "openai"))
    settings = dict(
        embed_dim=24,
        vision_cfg=dict(image_size=32, layers=2, width=128, patch_size=8),
        text_cfg=dict(context_length=20, vocab_size=60, width=64, heads=1, layers=2),
    )
    (tmp_path / "hub" / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings}))
    again, loaded = load_clip(tmp_path / "hub")
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, params, loaded)


def test_preprocessing_as_transformers(tmp_path):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    rng = np.random.default_rng(0)
    for height, width in ((37, 61), (240, 320), (224, 224), (300, 227), (100, 100)):
        frame = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        theirs = CLIPImageProcessorPil()(frame, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        transform = ImageTransform()
        ours = transform(frame[None])[0]
        grey_level = 1 / 255 / np.array(transform.std)
        assert (np.abs(ours - theirs) < 1e-3 * grey_level).all()  # a thousandth of the level that is allowed
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(ImageTransform(96).to_hf()))
    processor = CLIPImageProcessorPil.from_pretrained(tmp_path)
    theirs = processor(frame, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_allclose(ImageTransform(96)(frame), theirs, atol=1e-5)
    assert ImageTransform.from_hf(tmp_path) == ImageTransform(96)


@pytest.fixture(scope="module")
def published_tokenizer(shared_data):
    return ClipTokenizer.load(shared_data / "tokenizers" / "bpe_simple_vocab_16e6.txt.gz")


def test_tokenizer_as_transformers_on_cleaned_text(published_tokenizer, tmp_path):
    ours = published_tokenizer
    theirs = transformers.CLIPTokenizer(vocab=ours.vocabulary, merges=[tuple(m) for m in ours.merges])
    rng = np.random.default_rng(0)
    alphabet = [chr(c) for r in ((32, 127), (192, 383), (0x370, 0x3E0), (0x4E00, 0x4E40)) for c in range(*r)]
    alphabet += [" "] * 150 + list("😀🎉👩‍🔬🇯🇵‘’“”") + ["'s ", "'re ", "'LL ", "42 "]
    texts = ["a photo of a cat", "x"] + ["".join(rng.choice(alphabet, rng.integers(3, 60))) for _ in range(400)]
    texts = [t for t in map(clean, texts) if t]
    assert len(texts) > 300
    expected = theirs(texts, truncation=True, max_length=77, padding="max_length")["input_ids"]
    ids, mask = ours.encode(texts)
    np.testing.assert_array_equal(np.where(mask, ids, ours.end_id), expected)


def test_saved_tokenizer_loads_in_transformers(published_tokenizer, tmp_path):
    published_tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "Someone juggles three red balls, isn't it 42?"
    assert theirs(text)["input_ids"] == [49406, *published_tokenizer.token_ids(text), 49407]
    assert theirs.bos_token == START and theirs.eos_token == theirs.pad_token == END
    theirs.save_pretrained(tmp_path / "again")  # tokenizer.json
    again = ClipTokenizer.load(tmp_path / "again")
    assert again.fingerprint() == published_tokenizer.fingerprint()


def test_presets_are_complete():
    assert clip_config("ViT-B/16").vision.tokens == 197 and clip_config("ViT-L/14@336px").vision.tokens == 577
