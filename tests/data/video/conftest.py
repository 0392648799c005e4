"""What tests of video share."""

import pytest
import videos


@pytest.fixture(scope="session")
def video():
    """The functions of tests/support/videos.py."""
    return videos


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """One small good video per kind of container, by suffix."""
    root = tmp_path_factory.mktemp("good")
    codecs = {".mp4": "libx264", ".mkv": "libx264", ".avi": "mpeg4", ".webm": "libvpx"}
    return {suffix: videos.write(root / f"good{suffix}", 30, codec=codec) for suffix, codec in codecs.items()}
