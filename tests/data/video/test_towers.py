"""Features of towers: CLIP's from a folder of weights through the command, against transformers; one's own."""

import dataclasses

import commands
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vtjax.data.video.prepare import Options, prepare
from vtjax.data.video.shards import Making
from vtjax.data.video.store import VideoStore
from vtjax.data.video.towers import load_tower
from vtjax.encoders.image import CLIP_MEAN, CLIP_STD
from vtjax.errors import VtjaxError
from vtjax.nn.clip import Clip, clip_config
from vtjax.weights.clip import save_clip_hf

SIDE = 32


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A tiny CLIP with random weights in Hugging Face's layout, and another one."""
    config, folders = clip_config("tiny"), []
    for seed in range(2):
        images, ids = jnp.zeros((1, SIDE, SIDE, 3)), jnp.zeros((1, 4), jnp.int32)
        params = jax.jit(Clip(config).init)(jax.random.key(seed), images, ids)["params"]
        folders.append(tmp_path_factory.mktemp("clip"))
        save_clip_hf(folders[-1], config, params)
    return folders


@pytest.fixture(scope="module")
def videos(video, tmp_path_factory):
    root = tmp_path_factory.mktemp("mine")
    for index in range(3):
        video.write(root / f"{index}.mp4", 10 + index, 5, brightness=20 * index)
    return root


def shown(frame):
    """CLIP's input float32 [3, SIDE, SIDE], by PIL alone: the shorter side to SIDE, the middle of the longer one."""
    height, width = frame.shape[:2]
    assert height < width
    image = Image.fromarray(frame).resize((SIDE * width // height, SIDE), Image.Resampling.BICUBIC)
    left = (image.width - SIDE) // 2
    pixels = np.asarray(image.crop((left, 0, left + SIDE, SIDE)), np.float32) / 255
    return ((pixels - np.float32(CLIP_MEAN)) / np.float32(CLIP_STD)).transpose(2, 0, 1)


@pytest.mark.parametrize("name", ["clip_states", "clip_embeddings"])
def test_features_of_clip_are_those_of_transformers(name, weights, videos, video, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import CLIPModel

    result = commands.run(
        "-m", "vtjax.prepare", "--kind=video", f"--input={videos}", f"--output={tmp_path / 'out'}", "--fps=0",
        f"--features={name}", f"--weights={weights[0]}", "--feature_dtype=float32", "--batch=4", "--videos_per_shard=2",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "3 videos, 33 features" in result.stdout
    theirs = CLIPModel.from_pretrained(weights[0]).eval()
    store = VideoStore(tmp_path / "out")
    for index in range(3):
        _, frames = video.sequential(videos / f"{index}.mp4")
        with torch.no_grad():
            states = theirs.vision_model(torch.tensor(np.stack([shown(f) for f in frames]))).pooler_output
            joint = theirs.visual_projection(states)
        expected = states if name == "clip_states" else joint / joint.norm(dim=-1, keepdim=True)
        found = store.open(index)
        assert found.shape == ((64,) if name == "clip_states" else (32,))
        np.testing.assert_allclose(found.frames(range(len(frames))), expected.numpy(), atol=2e-5)


def test_features_of_two_towers_are_not_mixed(weights, videos, tmp_path):
    making = Making(fps=2, size=0, features="clip_states", weights=str(weights[0]), batch=4)
    options = Options(str(tmp_path / "out"), str(videos), making=making, processes=0)
    first = prepare(options).meta
    (tmp_path / "out/meta.json").unlink()
    sorted((tmp_path / "out").glob("shard-*.json"))[1].unlink()  # as if killed before
    kept = [(weights[0] / "model.safetensors"), (weights[1] / "model.safetensors")]
    data = [path.read_bytes() for path in kept]
    load_tower.cache_clear()
    try:
        kept[0].write_bytes(data[1])
        with pytest.raises(VtjaxError, match="made with other weights than --weights has now"):
            prepare(options)
    finally:
        kept[0].write_bytes(data[0])
    load_tower.cache_clear()
    assert prepare(options).meta["fingerprint"] == first["fingerprint"]
    other = dataclasses.replace(making, weights=str(weights[1]))
    with pytest.raises(VtjaxError, match="begun with weights"):
        prepare(dataclasses.replace(options, making=other))


def test_a_tower_of_ones_own_gets_its_weights(videos, tmp_path, monkeypatch):
    (tmp_path / "own_tower.py").write_text(
        "import numpy as np\n"
        "opened = []\n"
        "def scaled(weights):\n"
        "    opened.append(weights)\n"
        "    factor = float(open(weights).read())\n"
        "    return lambda x: x.mean((1, 2)).astype('f4') * factor\n"
    )
    (tmp_path / "factor.txt").write_text("2.5")
    monkeypatch.syspath_prepend(tmp_path)
    making = Making(size=0, features="own_tower:scaled", weights=str(tmp_path / "factor.txt"), feature_dtype="float32")
    plain = Making(size=0, codec="raw")
    for name, made in (("features", making), ("frames", plain)):
        prepare(Options(str(tmp_path / name), str(videos), making=made, processes=0))
    features, frames = VideoStore(tmp_path / "features").open(1), VideoStore(tmp_path / "frames").open(1)
    expected = frames.frames(range(len(frames))).mean((1, 2)) * 2.5
    np.testing.assert_allclose(features.frames(range(len(features))), expected, rtol=1e-5)
    import own_tower

    assert len(own_tower.opened) == 1  # for all three shards
    wrong = dataclasses.replace(making, weights="absent.txt")
    with pytest.raises(VtjaxError, match="failed on --weights=absent.txt: FileNotFoundError"):
        prepare(Options(str(tmp_path / "wrong"), str(videos), making=wrong, processes=0))


@pytest.mark.parametrize(
    "name, words",
    [
        ("no", "module:function"), ("clip_state", "did you mean 'clip_states'"), ("absent:f", "absent"),
        ("json:no", "no"), ("json:__name__", "is not a function"), ("clip_states", "needs --weights"),
    ],
)  # fmt: skip
def test_towers_that_are_not_there(name, words):
    with pytest.raises(VtjaxError, match=words):
        load_tower(name)


def test_weights_that_are_not_there_and_groups_of_frames(weights, videos, tmp_path):
    with pytest.raises(VtjaxError, match=str(tmp_path / "nothing")):
        load_tower("clip_states", str(tmp_path / "nothing"))
    making = Making(size=0, features="clip_states", weights=str(weights[0]), frames_per_feature=4)
    with pytest.raises(VtjaxError, match="leave --frames_per_feature at 1"):
        prepare(Options(str(tmp_path / "out"), str(videos), making=making, processes=0))
