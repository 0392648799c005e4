"""Encoders for other methods: from a run, a stage of another recipe, a published and a converted CLIP."""

import json
import shutil

import jax
import numpy as np
import pytest

from vtjax.convert import backward, forward
from vtjax.encoders.clip import open_encoder
from vtjax.encoders.image import ImageTransform
from vtjax.errors import VtjaxError
from vtjax.methods.clip import pipeline
from vtjax.methods.clip.embed import open_embedder
from vtjax.nn.clip import Clip, ClipConfig, TextConfig
from vtjax.nn.vit import VisionConfig
from vtjax.text.assets import load_tokenizer
from vtjax.text.clip_tokenizer import ClipTokenizer
from vtjax.text.tokenizer import SEP
from vtjax.weights.clip import load_clip, save_clip_hf
from vtjax.weights.layout import Options

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 40, 48, 3)).astype(np.uint8)
TEXTS = ["a person pushes the red cup", "a hand opens a box"]


def test_a_run_gives_its_towers(world_run):
    encoder = open_encoder(world_run.work)
    assert set(encoder.params) == {"vision", "text", "logit_scale"}
    assert "layer_0" in encoder.params["text"]["transformer"]
    assert encoder.image == ImageTransform(32, "squash")
    found = encoder.frames(FRAMES)
    assert found.states.shape == (3, 16) and found.embeddings.dtype == np.float32
    # A clip of one real frame is pooled from that frame alone, once the temporal part is taken out.
    own = open_embedder(world_run.experiment.method, world_run.work / "assets")
    still = {**world_run.params, "temporal": jax.tree.map(np.zeros_like, world_run.params["temporal"])}
    clips = [(np.stack([f, f]), np.array([True, False])) for f in own.image.pixels(FRAMES)]
    np.testing.assert_allclose(found.embeddings, own.embed_clips(still, clips)[0], atol=1e-5)
    texts = encoder.texts(TEXTS)
    np.testing.assert_allclose(texts.embeddings, own.texts(world_run.params, TEXTS), atol=1e-5)
    # Before the projection, as stated.
    by_hand = found.states @ encoder.params["vision"]["projection"]["kernel"]
    np.testing.assert_allclose(by_hand / np.linalg.norm(by_hand, axis=1, keepdims=True), found.embeddings, atol=1e-5)
    by_hand = texts.states @ encoder.params["text"]["projection"]["kernel"]
    np.testing.assert_allclose(by_hand / np.linalg.norm(by_hand, axis=1, keepdims=True), texts.embeddings, atol=1e-5)


def test_many_frames_are_those_one_by_one(world_run):
    encoder = open_encoder(world_run.work)
    many = np.random.default_rng(1).integers(0, 256, (70, 32, 32, 3)).astype(np.uint8)
    found = encoder.frames(many).embeddings
    np.testing.assert_allclose(found[[0, 69]], encoder.frames(many[[0, 69]]).embeddings, atol=1e-6)
    means = encoder.classes([TEXTS, TEXTS[:1]])
    rows = encoder.texts(TEXTS).embeddings
    np.testing.assert_allclose(means[0], rows.sum(0) / np.linalg.norm(rows.sum(0)), atol=1e-6)
    np.testing.assert_allclose(means[1], rows[0], atol=1e-6)


def test_clips_are_those_of_the_run(world_run, published):
    encoder, own = open_encoder(world_run.work), open_embedder(world_run.experiment.method, world_run.work / "assets")
    pixels = own.image.pixels(FRAMES)
    clips = [pixels[[0, 1]], pixels[[2, 0]], pixels[[1, 1]]]
    expected, _ = own.embed_clips(world_run.params, [(c, np.ones(2, bool)) for c in clips])
    frames = encoder.frames(FRAMES).embeddings
    assert encoder.clip_frames == 2
    np.testing.assert_allclose(encoder.clips(frames[np.array([[0, 1], [2, 0], [1, 1]])]), expected, atol=1e-5)
    with pytest.raises(VtjaxError, match="clips of 3 frames; this encoder takes 2"):
        encoder.clips(frames[None])
    with pytest.raises(VtjaxError, match="clips of 3 frames; this encoder takes none"):
        open_encoder(published[0]).clips(frames[None])


def test_a_stage_of_another_recipe(world_run, tmp_path):
    """As a method's pipeline makes it: the stage's folder holds assets, the recipe puts the checkpoints beside them."""
    stage = tmp_path / "run" / "encoder"
    pipeline.build(world_run.experiment, stage)
    shutil.copytree(world_run.work / "train", stage, dirs_exist_ok=True)
    same, own = open_encoder(stage), open_encoder(world_run.work)
    np.testing.assert_array_equal(same.frames(FRAMES).embeddings, own.frames(FRAMES).embeddings)
    np.testing.assert_array_equal(same.texts(TEXTS).states, own.texts(TEXTS).states)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    sizes = ClipConfig(8, VisionConfig(16, 8, 16, 1, 2, 32), TextConfig(514, 8, 16, 1, 2, 32))
    images, ids = np.zeros((1, 16, 16, 3), np.float32), np.zeros((1, 8), np.int32)
    params = jax.jit(Clip(sizes).init)(jax.random.key(3), images, ids)["params"]
    save_clip_hf(folder, sizes, params)
    return folder, sizes, params


def test_published_and_converted_models_are_the_same(published, tmp_path):
    folder, sizes, params = published
    bare = open_encoder(folder)
    with pytest.raises(VtjaxError, match="no CLIP vocabulary"):
        bare.texts(TEXTS)
    ClipTokenizer().save(tmp_path / "words")
    given = open_encoder(folder, vocabulary=tmp_path / "words")
    found, texts = given.frames(FRAMES), given.texts(TEXTS)
    out = Clip(sizes).apply({"params": params}, ImageTransform(16)(FRAMES), method="encode_image")
    np.testing.assert_allclose(found.states, out.class_token, atol=1e-5)
    forward(str(folder), tmp_path / "converted", "auto", Options())
    again = open_encoder(tmp_path / "converted", vocabulary=tmp_path / "words")
    np.testing.assert_array_equal(again.frames(FRAMES).states, found.states)
    np.testing.assert_array_equal(again.texts(TEXTS).embeddings, texts.embeddings)


def test_a_run_goes_back_to_hugging_face_s_layout(world_run, tmp_path):
    backward(str(world_run.work), tmp_path / "exported", "auto")
    encoder = open_encoder(world_run.work)
    sizes, params = load_clip(tmp_path / "exported")
    assert sizes == encoder.sizes and sizes.text.eot_id == SEP
    jax.tree.map(np.testing.assert_array_equal, params, encoder.params)
    # Its vocabulary travels too.
    assert load_tokenizer(tmp_path / "exported").fingerprint() == encoder.tokenizer.fingerprint()


def test_what_is_no_encoder_is_refused(world_run, tmp_path):
    encoder = open_encoder(world_run.work)
    with pytest.raises(VtjaxError, match="expected uint8 .N, height"):
        encoder.frames(FRAMES[0])
    with pytest.raises(VtjaxError, match="text 1 of 2 is empty"):
        encoder.texts(["a", " "])
    with pytest.raises(VtjaxError, match="nothing to encode"):
        encoder.frames(FRAMES[:0])
    with pytest.raises(VtjaxError, match="no checkpoint of step 7|step 7"):
        open_encoder(world_run.work, "7")
    (tmp_path / "config.json").write_text(json.dumps({"name": "car"}))
    with pytest.raises(VtjaxError, match="a run of 'car'"):
        open_encoder(tmp_path)
    with pytest.raises(VtjaxError, match="absent"):
        open_encoder(tmp_path / "absent")
