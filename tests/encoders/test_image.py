"""CLIP's preprocessing against a slow bicubic filter; tests/parity/test_clip.py compares it with transformers."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.encoders.image import CLIP_MEAN, CLIP_STD, ImageTransform
from vtjax.errors import VtjaxError


def slow_resize(line, size):
    """Cubic convolution (a = -0.5) of uint8 [n, ...] along its first axis, the kernel stretched when shrinking."""

    def cubic(d):
        d = abs(d)
        if d < 1:
            return 1.5 * d**3 - 2.5 * d**2 + 1
        return -0.5 * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0

    scale = len(line) / size
    stretch = max(scale, 1.0)
    out = np.zeros((size, *line.shape[1:]))
    for i in range(size):
        centre = (i + 0.5) * scale
        near = [j for j in range(len(line)) if abs(j + 0.5 - centre) < 2 * stretch]
        weights = np.array([cubic((j + 0.5 - centre) / stretch) for j in near])
        out[i] = np.tensordot(weights / weights.sum(), line[near], 1)
    return np.clip(np.floor(out + 0.5), 0, 255)


def slow_images(frame, height, width):
    """Both orders of the two passes, each rounded to bytes: Pillow 13 takes the cheaper one, earlier ones the first."""

    def across(x):
        return slow_resize(x.swapaxes(0, 1), width).swapaxes(0, 1)

    x = frame.astype(float)
    return slow_resize(across(x), height), across(slow_resize(x, height))


def assert_within_a_level(got, expected):
    assert min(np.abs(got - e).max() for e in expected) <= 1


def frames(height, width, count=1):
    return np.random.default_rng(height).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("height, width, tall, wide", [(30, 41, 16, 21), (50, 20, 40, 16), (9, 12, 16, 21)])
def test_resize_and_crop_to_a_grey_level(height, width, tall, wide):
    video = frames(height, width, 2)
    got = ImageTransform(16).pixels(video)
    assert got.shape == (2, 16, 16, 3) and got.dtype == np.uint8
    top, left = (tall - 16) // 2, (wide - 16) // 2
    for frame, out in zip(video, got, strict=True):
        expected = slow_images(frame, tall, wide)
        assert_within_a_level(out, [e[top : top + 16, left : left + 16] for e in expected])


def test_squash_keeps_the_borders():
    video = frames(30, 41)
    got = ImageTransform(16, resize="squash").pixels(video)
    assert_within_a_level(got[0], slow_images(video[0], 16, 16))


def test_the_two_crops_differ_where_three_pixels_are_left():
    video = frames(16, 19)
    np.testing.assert_array_equal(ImageTransform(16).pixels(video), video[:, :, 1:17])
    np.testing.assert_array_equal(ImageTransform(16, crop="round").pixels(video), video[:, :, 2:18])
    even = frames(16, 17)
    np.testing.assert_array_equal(
        ImageTransform(16).pixels(even), ImageTransform(16, crop="round").pixels(even)
    )


def test_normalise_on_host_and_device():
    transform = ImageTransform(4)
    pixels = frames(4, 4, 3)
    expected = np.empty(pixels.shape)
    for index in np.ndindex(pixels.shape):
        c = index[-1]
        expected[index] = (float(pixels[index]) / 255 - CLIP_MEAN[c]) / CLIP_STD[c]
    for out in (transform.normalise(pixels), transform.normalise(jnp.asarray(pixels)), transform(pixels)):
        assert out.dtype == np.float32
        np.testing.assert_allclose(out, expected, atol=1e-5)


def test_leading_axes_are_kept():
    video = frames(20, 30, 6)
    one = ImageTransform(8)(video)
    np.testing.assert_array_equal(ImageTransform(8)(video.reshape(2, 3, 20, 30, 3)).reshape(one.shape), one)
    np.testing.assert_array_equal(ImageTransform(8)(video[0]), one[0])
    assert ImageTransform(8)(video[:0]).shape == (0, 8, 8, 3)


def test_result_size_is_what_torchvision_and_transformers_compute():
    for height, width in ((240, 320), (1080, 1920), (333, 100), (225, 224)):
        long, short = max(height, width), min(height, width)
        tall, wide = ImageTransform(224)._resized(height, width)
        assert min(tall, wide) == 224 and max(tall, wide) == math.floor(224 * long / short)


def test_settings_round_trip(tmp_path):
    for transform in (ImageTransform(), ImageTransform(336, "squash", mean=(0.5, 0.5, 0.4), std=(0.5, 0.4, 0.5))):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(transform.to_hf()))
        assert ImageTransform.from_hf(tmp_path) == transform
    old = {"size": 224, "crop_size": 224, "do_resize": True, "resample": 3}
    old |= {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    assert ImageTransform.from_hf(tmp_path) == ImageTransform()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"resample": 2}, "resample is 2, not bicubic"),
        ({"do_center_crop": False}, "do_center_crop is off"),
        ({"crop_size": {"height": 200, "width": 224}}, "expected one square size"),
        ({"size": {"longest_edge": 224}}, "expected one square size"),
        ({"crop_size": "large"}, "not an image processor's settings"),
    ],
)
def test_settings_that_are_not_clips(change, message, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(ImageTransform().to_hf() | change))
    with pytest.raises(VtjaxError, match=message):
        ImageTransform.from_hf(tmp_path)


def test_errors():
    for bad in (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8)):
        with pytest.raises(VtjaxError, match="expected uint8"):
            ImageTransform(4)(bad)
    with pytest.raises(VtjaxError, match="expected size of 1 or more"):
        ImageTransform(224, resize="longest")
    with pytest.raises(VtjaxError, match="three positive deviations"):
        ImageTransform(224, std=(1.0, 0.0, 1.0))
